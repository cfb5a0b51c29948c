"""Trajectories equal those of diffusers 0.42.1, with the same noise and model (huggingface/diffusers, Apache-2.0).

``tests/reference/make_diffusers_trajectories.py`` made the file and says how. Where diffusers and marble differ:

- DDIM and PNDM there step from t to t - T // N, whatever timestep comes next (huggingface/diffusers#9261). linspace's
  stride is (T - 1) / (N - 1), and trailing's T / N needn't be whole: then x is at another level than the model is told
  next. A step goes to the level of the next timestep, as DDPM's now does there. The script tells linspace its stride.
- PNDM there averages v's of several levels and reads eps off the average at one level; here eps is what is averaged.
- DDPM there leaves the noise out of the step from t = 0 only. trailing's last step is from a later t, and with the
  variance fixed_large gets noise; line 3 of Algorithm 2 has none in the step to the clean image.
- UniPC with bh1 there is not a number after the step to the clean level: B(h) = h is infinite.
- Heun and Euler keep x / alpha there; the script multiplies by alpha.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from marble.diffusion import denoiser, linear, read
from marble.sampling import DDIM, PNDM, Ancestral, DPMSolver, Euler, Heun, UniPC, guidance, timesteps
from marble.typing import Level

REFERENCE = np.load(Path(__file__).parent.parent / "reference" / "diffusers_trajectories.npz")
SCHEDULE = linear()
READINGS = ("eps", "x_0", "v")
SAMPLERS = {
    "ddpm_fixed_small": Ancestral("fixed_small"),
    "ddpm_fixed_large": Ancestral("fixed_large"),
    "ddim_0": DDIM(0.0),
    "ddim_1": DDIM(1.0),
    "pndm_prk": PNDM(SCHEDULE),
    "pndm_plms": PNDM(SCHEDULE, skip_prk_steps=True),
    "euler": Euler(SCHEDULE),
    "heun": Heun(SCHEDULE),
    "dpm_solver_2m": DPMSolver(2),
    "dpm_solver_3m": DPMSolver(3, corrected=False),
    "dpm_solver_sde": DPMSolver(2, stochastic=True),
    **{f"unipc_{order}_{b}": UniPC(order, b) for order in (1, 2, 3) for b in ("bh1", "bh2")},
}


@pytest.fixture(autouse=True)
def given_noise(monkeypatch):
    """Samplers take the noise that stands in place of the keys."""
    for module in ("ancestral", "ddim", "dpm_solver", "heun"):
        monkeypatch.setattr(f"marble.sampling.{module}.noise_like", lambda noise, x: noise)


def model_of(reading):
    """The exact model of the mixture, with this output."""

    def model(x_t, t, context):
        level = SCHEDULE.level(t[0])
        return read(mixture.denoise(x_t, level), reading, level=level)

    return denoiser(model, SCHEDULE, prediction_type=reading)


def grid_of(steps):
    """The levels of these timesteps, and the clean one."""
    return Level(
        t=jnp.asarray(np.append(steps, 0), jnp.float64),
        alpha=jnp.asarray(np.append(SCHEDULE.alpha[steps], 1.0)),
        sigma=jnp.asarray(np.append(SCHEDULE.sigma[steps], 0.0)),
    )


def trajectories(sampler):
    """walk(reading's number, levels, noise), one program for all readings and spacings."""

    @jax.jit
    def walk(reading, levels, noise):
        def denoise_fn(x, level, context=None):
            return jax.lax.switch(reading, [partial(model_of(r), x, level) for r in READINGS])

        return mixture.walk(sampler, denoise_fn, levels, jnp.asarray(REFERENCE["x_T"], jnp.float64), noise)

    return walk


@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectories_are_those_of_diffusers(x64, name):
    walk, keys = trajectories(SAMPLERS[name]), [k for k in REFERENCE.files if k.startswith(name + "/") and k[-1] != "t"]
    asked_for = {tuple(key.split("/")[1:3]) for key in keys}
    assert len(asked_for) == (2 if name == "pndm_prk" else 3 if name == "pndm_plms" else 9)
    for key in keys:
        _, spacing, reading, num_steps = key.split("/")
        steps = np.unique(REFERENCE[f"{key}/t"])[::-1].astype(int)
        if name == "pndm_prk":  # the timesteps half-way are not on the grid
            steps = timesteps(1000, int(num_steps), spacing)
        ours = walk(READINGS.index(reading), grid_of(steps), jnp.asarray(REFERENCE["noise"][: len(steps)], jnp.float64))
        theirs = REFERENCE[key]
        if name == "pndm_prk":
            # There each of the three first steps is four states.
            theirs = theirs[[3, 7, 11, *range(12, len(theirs))]]
        elif name == "pndm_plms":
            theirs = theirs[1:]  # the first two states are one step
        elif name == "heun":
            theirs = theirs[[*range(1, len(theirs), 2), -1]]  # each step but the last is two states
        elif name.endswith("bh1") or (name == "ddpm_fixed_large" and spacing == "trailing"):
            ours, theirs = ours[:-1], theirs[:-1]
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0, err_msg=key)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_the_grids_are_those_of_diffusers(spacing):
    for name in ("ddim_0", "heun", "euler", "ddpm_fixed_small"):
        theirs = np.unique(REFERENCE[f"{name}/{spacing}/eps/10/t"])[::-1]
        np.testing.assert_array_equal(timesteps(1000, 10, spacing), theirs)


def test_a_step_goes_to_the_level_of_the_next_timestep(x64):
    # trailing, 7 steps: 999, 856, .. 285, 142. diffusers' DDIM steps by 1000 // 7 = 142: from 142 to 0, where noise of
    # sigma 0.01 is left. The level after the last timestep is the clean one.
    key = "ddim_as_is/trailing/eps/7"
    steps, theirs = REFERENCE[f"{key}/t"].astype(int), REFERENCE[key].astype(np.float64)
    np.testing.assert_array_equal(timesteps(1000, 7, "trailing"), steps)
    assert steps[-1] == 142
    prediction = mixture.denoise(jnp.asarray(theirs[-2]), SCHEDULE.level(142))
    with_noise = SCHEDULE.alpha[0] * prediction.x_0 + SCHEDULE.sigma[0] * prediction.eps
    np.testing.assert_allclose(theirs[-1], with_noise, atol=1e-5)
    ours = mixture.walk(
        DDIM(0.0), model_of("eps"), grid_of(steps[-1:]), jnp.asarray(theirs[-2]), jnp.zeros((1, 2, 2, 3))
    )
    np.testing.assert_allclose(ours[-1], prediction.x_0, atol=1e-12)
    assert np.abs(theirs[-1] - prediction.x_0).max() > 5e-3
    # DDPM there goes from timestep to timestep.
    ours = trajectories(Ancestral())(0, grid_of(steps), jnp.asarray(REFERENCE["noise"][:7], jnp.float64))
    np.testing.assert_allclose(ours, REFERENCE["ddpm_fixed_small/trailing/eps/7"], atol=1e-4)


def toy(sampler, steps, *, num_steps=None, reading="eps", scale=1.0, clip=False):
    """|x| at the end of the loop in diffusers' own tests: x from a ramp, a model that says x t / (t + 1)."""
    x = scale * (np.arange(768.0).reshape(3, 8, 8, 4) / 768).transpose(3, 0, 1, 2)
    levels = grid_of(np.asarray(steps))
    levels = jax.tree.map(lambda table: table[: None if num_steps is None else num_steps + 1], levels)
    denoise_fn = denoiser(lambda x, t, context: x * t[0] / (t[0] + 1), SCHEDULE, prediction_type=reading)
    denoise_fn = guidance.static_threshold(denoise_fn) if clip else denoise_fn
    noise = jnp.zeros((levels.t.size - 1, *x.shape))
    return np.abs(jax.jit(lambda x: mixture.walk(sampler, denoise_fn, levels, x, noise))(x)[-1])


LEADING, TRAILING = np.arange(900, -1, -100), np.arange(999, 0, -100)
WITHOUT_ZERO = np.round(np.linspace(999, 0, 11))[:-1].astype(int)
"""The linspace of diffusers' DPM-Solver and UniPC: N + 1 steps without the last."""


@pytest.mark.parametrize(
    "sampler, steps, options, expected",
    [
        (DDIM(), LEADING, {}, 172.006522),
        (DDIM(), LEADING, {"reading": "v"}, 52.5302),
        (DDIM(), TRAILING, {}, 170.0350),
        # There the last step of PNDM goes from level 0 to level 0: there is none.
        (PNDM(SCHEDULE), LEADING, {"num_steps": 9}, 198.1318),
        # There the state is x / alpha, and begins at the ramp times sigma / alpha.
        (Euler(SCHEDULE), timesteps(1000, 10), {"scale": SCHEDULE.sigma[999]}, 169.4608),
        (DPMSolver(2), WITHOUT_ZERO, {}, 185.0114),
        (UniPC(2), WITHOUT_ZERO, {}, 186.7620),
    ],
)
def test_the_toy_loops_of_diffusers(x64, sampler, steps, options, expected):
    assert toy(sampler, steps, **options).sum() == pytest.approx(expected, rel=3e-6)


def test_the_toy_loop_s_mean(x64):
    # Of 768 numbers: diffusers' tests have it beside the sum.
    assert toy(DDIM(), LEADING).mean() == pytest.approx(0.223967, abs=5e-7)


def test_the_toy_loop_of_all_the_means_of_ddpm(x64):
    # 1000 ancestral steps without noise and with x_0 clipped, which changes nothing here: it stays inside. The figure
    # is the sum of |x|, each of which is below 0.002.
    found = toy(Ancestral(), np.arange(999, -1, -1), clip=True)
    assert found.sum() == pytest.approx(0.66093519, rel=1e-7)
    assert found.max() < 2e-3
