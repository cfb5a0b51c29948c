"""One table of all samplers, through the same properties."""

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest
from tables import rest_slow

from marble.diffusion import edm, linear
from marble.errors import InputError
from marble.objectives.samplers import SAMPLERS, with_schedule
from marble.sampling import DPMSolver, UniPC, guidance, image_keys, levels, sample
from marble.typing import Prediction

SCHEDULE = linear()
MEAN, VARIANCE = 0.3, 0.25
TABLE = {name: with_schedule(constructor, SCHEDULE) for name, constructor in SAMPLERS.items()}
every_sampler = pytest.mark.parametrize("name", TABLE)


def gaussian(x, level, context=None):
    """The exact Prediction for x_0 ~ N(MEAN, VARIANCE)."""
    level = level.like(x)
    total = level.alpha**2 * VARIANCE + level.sigma**2
    off = x - level.alpha * MEAN
    return Prediction(MEAN + level.alpha * VARIANCE * off / total, level.sigma * off / total)


def end_of_way(x, level, context=None):
    """Where the probability flow ends of x_0 ~ N(MEAN, VARIANCE): what a consistency model says."""
    level = level.like(x)
    x_0 = MEAN + (x - level.alpha * MEAN) * jnp.sqrt(VARIANCE / (level.alpha**2 * VARIANCE + level.sigma**2))
    return Prediction(x_0, gaussian(x, level).eps)


SAYS = {"consistency": end_of_way}
"""What the samplers need that are not for the mean."""


def keys(num):
    return image_keys(0, jnp.arange(num))


@pytest.mark.parametrize("name", rest_slow(TABLE, "ancestral", "dpm_solver_2m", "consistency"))
def test_gaussian_data_reach_their_moments(name):
    grid = levels(SCHEDULE, 800, "log_snr")
    shape = (50, 100)  # the corrector's step is made of norms, which many dimensions make sharp
    x = jax.jit(lambda: sample(SAYS.get(name, gaussian), TABLE[name], grid, keys(4), shape))()
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(x.var()) == pytest.approx(VARIANCE, rel=0.04)


@pytest.mark.parametrize("name", rest_slow(TABLE, "ddim", "heun"))
def test_jit_and_no_jit_agree(name):
    grid, sampler = levels(SCHEDULE, 2), TABLE[name]
    draw = lambda: sample(mixture.denoise, sampler, grid, keys(2), (20,))  # noqa: E731
    # The solver's steps are hundreds of operations, each a call without jit: there the loops stay compiled.
    with jax.disable_jit(name != "ode"):
        plain = draw()
    # sigma / alpha is 157 at the start, by which Runge-Kutta's and Heun's differences of eps are multiplied.
    np.testing.assert_allclose(jax.jit(draw)(), plain, atol=2e-4, rtol=2e-5)


@every_sampler
def test_the_dtype_is_kept(name):
    x = jnp.ones((2, 3), jnp.bfloat16)
    sampler, level_t, level_s = TABLE[name], SCHEDULE.level(500), SCHEDULE.level(400)

    def steps(x, carry):
        for _ in range(2):
            step = sampler.step(gaussian, level_t, level_s, x, carry, keys(2))
            x, carry = step.x, step.carry
        return step

    carry = sampler.init(x, 5)
    step = jax.eval_shape(steps, x, carry)
    assert step.x.dtype == step.x_0.dtype == jnp.bfloat16
    assert jax.tree.map(lambda a: (a.shape, a.dtype), step.carry) == jax.tree.map(lambda a: (a.shape, a.dtype), carry)


SETTINGS = {"ddim": "eta", "euler": "s_churn", "heun": "s_churn", "ode": "rtol", "predictor_corrector": "snr"}
"""A number of each sampler that has one."""
LIKELY, NULL = 0, 1


def one_half(x, level, context):
    """The exact Prediction of the mixture for the label NULL, and of its upper half for LIKELY."""
    level, both = level.like(x), mixture.denoise(x, level)
    total = level.alpha**2 * mixture.VARIANCE + level.sigma**2
    off = x - level.alpha * mixture.MEAN
    upper = Prediction(mixture.MEAN + level.alpha * mixture.VARIANCE * off / total, level.sigma * off / total)
    is_null = (context["label"] == NULL)[:, None]
    return Prediction(*(jnp.where(is_null, a, b) for a, b in zip(both[:2], upper[:2], strict=True)))


@every_sampler
def test_one_program_for_all_steps_guidance_settings_and_seeds(name):
    traces = []

    @jax.jit
    def draw(grid, num_steps, scale, setting, seed):
        traces.append(1)
        sampler = TABLE[name]._replace(**{SETTINGS[name]: setting}) if name in SETTINGS else TABLE[name]
        null = {"label": jnp.full(1, NULL)}
        denoise_fn = guidance.static_threshold(guidance.classifier_free(one_half, scale, null_context=null))
        of_seed, label = image_keys(seed, jnp.arange(2)), {"label": jnp.full(2, LIKELY)}
        return sample(denoise_fn, sampler, grid, of_seed, (2,), num_steps=num_steps, context=label)

    def drawn(num_steps=50, scale=1.0, setting=1.0, seed=0):
        numbers = (np.int32(num_steps), np.float32(scale), np.float32(setting), np.uint32(seed))
        return np.asarray(draw(levels(SCHEDULE, num_steps, length=1000), *numbers))

    # The numbers of each kind beside those of the plain call, and so each against the others.
    kinds = {"num_steps": (10, 1000), "scale": (0.0, 7.5), "setting": (0.0,), "seed": (1, 2)}
    plain = drawn()
    changed = {kind: [drawn(**{kind: value}) for value in values] for kind, values in kinds.items()}
    assert len(traces) == 1
    assert all(np.isfinite(x).all() for results in changed.values() for x in results)
    for kind, results in changed.items():
        # The solver reaches the same place by any steps and tolerance, but for its error.
        if (kind == "setting" and name not in SETTINGS) or (name == "ode" and kind in ("num_steps", "setting")):
            continue
        for result in results:
            assert not np.allclose(result, plain, atol=1e-3), kind


@every_sampler
def test_a_step_of_one_goes_to_the_predicted_x_0(name):
    x = sample(mixture.denoise, TABLE[name], levels(SCHEDULE, 1), keys(3), (2,))
    assert np.isfinite(x).all()
    assert np.abs(x).max() < 1.5


@pytest.mark.parametrize("name", rest_slow(TABLE, "dpm_solver_2m", "heun"))
def test_samplers_start_at_the_noise_of_continuous_schedules(name):
    schedule = edm()
    grid = levels(schedule, 150, "karras", sigma_min=0.002, sigma_max=80.0)
    sampler = with_schedule(SAMPLERS[name], schedule)
    x = jax.jit(lambda: sample(gaussian, sampler, grid, keys(4), (2000,)))()
    assert float(x.var()) == pytest.approx(VARIANCE, rel=0.15)


@pytest.mark.parametrize("sampler", [DPMSolver(4), UniPC(0)])
def test_an_order_that_is_not_there_is_refused(sampler):
    with pytest.raises(InputError, match="of order [40]: give 1, 2 or 3"):
        sampler.init(jnp.zeros((1, 2)), 3)


def test_a_variant_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="'bh3' is not one of bh1, bh2"):
        UniPC(2, "bh3").init(jnp.zeros((1, 2)), 3)


@pytest.mark.parametrize("num_steps, prk, plms", [(10, 19, 11), (2, 5, 3)])
def test_evaluations_of_pndm(num_steps, prk, plms):
    # Liu et al. 2022: four a step in the first three, then one, the last without what
    # it would ask of the clean level; with PLMS alone, one more in the first.
    for sampler, expected in ((TABLE["pndm"], prk), (TABLE["pndm"]._replace(skip_prk_steps=True), plms)):
        asked = []

        def denoise_fn(x, level, context=None, asked=asked):
            jax.debug.callback(lambda: asked.append(1))
            return mixture.denoise(x, level)

        grid = levels(SCHEDULE, num_steps)
        jax.block_until_ready(jax.jit(lambda s=sampler, f=denoise_fn, g=grid: sample(f, s, g, keys(1), (2,)))())
        jax.effects_barrier()
        assert len(asked) == expected
