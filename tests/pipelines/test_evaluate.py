"""Bits a dimension of a pipeline: against the formulas, and the same on any devices, in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import pixels

from marble.data.examples import ArrayExamples
from marble.diffusion import bound_terms, from_curve, linear
from marble.errors import InputError
from marble.parallel import data_mesh
from marble.pipelines import DiffusionPipeline, Flow, ImageSpec, SamplingConfig, bits_per_dim, evaluate
from marble.sampling import Ancestral, guidance

LEVELS = 5


class Exact:
    """A model of single pixels whose levels are equally likely, in the place of a network."""

    num_classes = None

    def __init__(self, schedule):
        self.schedule = schedule

    def apply(self, variables, x_t, t, context=None):
        x = x_t.reshape(-1, 1)
        level = self.schedule.level(t)
        level = level._replace(alpha=jnp.repeat(level.alpha, x_t[0].size), sigma=jnp.repeat(level.sigma, x_t[0].size))
        return pixels(LEVELS).denoise_fn(x, level).eps.reshape(x_t.shape)


def pipeline(schedule=None, **config):
    schedule = linear(100, 1e-3, 0.2) if schedule is None else schedule
    return DiffusionPipeline(
        model=Exact(schedule),
        params={},
        schedule=schedule,
        image=ImageSpec(shape=(2, 2, 1), levels=LEVELS),
        sampler=Ancestral("fixed_small"),
        config=SamplingConfig(batch_size=16, **config),
    )


IMAGES = np.random.default_rng(0).integers(0, LEVELS, size=(21, 2, 2, 1)).astype(np.uint8)
EXAMPLES = ArrayExamples(image=IMAGES)
FLOW = Flow(num_steps=40, divergence="exact")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Compiled for one of the eight devices, which two cores do sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "data_mesh", lambda: data_mesh(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def found(one_device):
    return bits_per_dim(pipeline(), EXAMPLES, flow=FLOW)


def test_of_known_pixels_the_flow_s_likelihood_is_their_entropy(found):
    # The exact model of independent pixels, dequantised and decoded: log2 5 bits each, for every image and noise.
    np.testing.assert_allclose(found.flow.mean, np.log2(LEVELS), atol=5e-3)
    assert found.flow.standard_error < 2e-3


def test_the_bound_is_its_expectation_by_quadrature(found):
    # Every pixel alone, its noise at the nodes of a grid.
    schedule, nodes = linear(100, 1e-3, 0.2), np.linspace(-5, 5, 61)
    pixel = np.repeat(IMAGES.reshape(-1, 1), len(nodes), 0) / 2 - 1
    noise, weights = np.tile(nodes, IMAGES.size)[:, None], np.tile(np.exp(-0.5 * nodes**2), IMAGES.size)
    terms = bound_terms(
        guidance.static_threshold(pixels(LEVELS).denoise_fn),
        schedule,
        x_0=jnp.asarray(pixel, jnp.float32),
        noise=lambda t: jnp.asarray(noise, jnp.float32),
        levels=LEVELS,
        variance_type="fixed_small",
    )
    expected = np.asarray(terms.by_step, np.float64) @ (weights / weights.sum()) / np.log(2)
    # The first steps cost much in rare cases, of which 84 pixels have too few for a standard error.
    common = slice(5, None)
    errors = np.maximum(found.by_step_standard_error, 1e-5)
    assert np.abs((found.by_step - expected) / errors)[common].max() < 5
    assert abs(found.total.mean - found.prior.mean - expected.sum()) < 4 * found.total.standard_error
    assert found.num == 21 and found.by_step.shape == (100,)
    assert found.total.mean > np.log2(LEVELS)


def test_signs_leave_the_bound_as_it_is(found):
    signs = bits_per_dim(pipeline(), EXAMPLES, flow=Flow(num_steps=40))
    # Independent pixels have a diagonal Jacobian, of which signs give the exact trace.
    np.testing.assert_allclose(signs.flow.mean, found.flow.mean, rtol=1e-4)
    np.testing.assert_allclose(signs.total, found.total, rtol=1e-4)


def test_uniform_dequantisation_is_its_expectation_by_quadrature():
    # Where the least noise is as wide as the bins: a pixel's density is known, and so its mean over the bin.
    schedule = linear(40, 0.2, 0.4)
    found = bits_per_dim(pipeline(schedule), EXAMPLES, flow=Flow(num_steps=20, dequantisation="uniform"))
    level, within = schedule.level(0), (np.arange(200) + 0.5) / 100 - 1
    x = IMAGES.reshape(-1, 1) / 2 - 1 + within[None] / 4
    log_prob = pixels(LEVELS).log_prob(jnp.asarray(level.alpha * x.reshape(-1, 1), jnp.float32), level)
    nats = -np.mean(log_prob) - np.log(float(level.alpha)) - np.log(0.5)
    assert abs(found.flow.mean - nats / np.log(2)) < 4 * found.flow.standard_error
    assert found.flow.standard_error < 0.03


def test_eight_devices_give_what_one_gives(found, monkeypatch):
    monkeypatch.setattr(evaluate, "data_mesh", data_mesh)
    assert data_mesh().devices.size == 8
    eight = bits_per_dim(pipeline(), EXAMPLES, flow=FLOW)
    np.testing.assert_allclose(eight.by_step, found.by_step, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(eight.flow, found.flow, rtol=1e-4, atol=1e-4)


def test_image_i_is_measured_alike_in_any_number_and_batch(found):
    # 7 of 21 are every third: their noise is that of their index in the split, not in the batch.
    few = bits_per_dim(pipeline(), EXAMPLES, num=7, batch_size=8)
    others_blank = ArrayExamples(image=np.where(np.arange(21)[:, None, None, None] % 3, 0, IMAGES).astype(np.uint8))
    whole, rest = (bits_per_dim(pipeline(), examples, batch_size=24) for examples in (EXAMPLES, others_blank))
    np.testing.assert_allclose(whole.by_step, found.by_step, rtol=1e-3, atol=1e-6)
    blank = ArrayExamples(image=np.zeros_like(IMAGES))
    nothing = bits_per_dim(pipeline(), blank, batch_size=24)
    seven = bits_per_dim(pipeline(), blank, num=7, batch_size=8)
    np.testing.assert_allclose(
        21 * (rest.by_step - nothing.by_step), 7 * (few.by_step - seven.by_step), rtol=1e-2, atol=2e-3
    )


def test_other_seeds_and_variances_are_other_bounds(found):
    other = bits_per_dim(pipeline(), EXAMPLES, seed=1, variance_type="fixed_large")
    assert other.total.mean != found.total.mean
    np.testing.assert_allclose(other.prior, found.prior, rtol=1e-5)  # which needs no noise, and no model


def test_a_learned_curve_has_the_bound_in_continuous_time(monkeypatch):
    monkeypatch.setattr(evaluate, "CONTINUOUS_POINTS", 50)
    schedule = from_curve(lambda t: 6.0 - 16.0 * t**1.3)
    pipe = pipeline(schedule)
    pipe.model.apply = lambda variables, x_t, t, context=None: Exact(AtTime(schedule)).apply(variables, x_t, t)
    found = bits_per_dim(pipe, EXAMPLES, flow=Flow(num_steps=40))
    assert found.by_step.shape == (51,)
    np.testing.assert_allclose(found.total.mean, np.log2(LEVELS), atol=4 * found.total.standard_error + 0.02)
    np.testing.assert_allclose(found.flow.mean, np.log2(LEVELS), atol=1e-2)
    with pytest.raises(InputError, match="continuous time"):
        bits_per_dim(pipe, EXAMPLES, variance_type="fixed_small")


class AtTime:
    """The schedule at the time that its model is told: how far the log-SNR is between the ends, times 1000."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.high, self.low = (schedule.level(t).log_snr for t in (0.0, 1.0))

    def level(self, t):
        return self.schedule.level_at(self.high - t / 1000 * (self.high - self.low))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num=0 must be between 1 and 21"),
        ({"num": 22}, "num=22 must be between 1 and 21"),
        ({"seed": -1}, "seed=-1"),
        ({"decoder": "logistic"}, "decoder 'logistic' is not one of exact, tanh"),
        ({"variance_type": "wide"}, "variance_type 'wide'"),
        ({"variance_type": "learned"}, "needs a model that was trained with it"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"flow": Flow(dequantisation="uniform")}, "use variational dequantisation"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        bits_per_dim(pipeline(), EXAMPLES, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "0 steps"),
        ({"divergence": "guess"}, "divergence 'guess' is not one of hutchinson, exact"),
        ({"dequantisation": "none"}, "dequantisation 'none'"),
    ],
)
def test_a_flow_out_of_range_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Flow(**options)


def test_pixels_above_the_levels_are_refused():
    with pytest.raises(InputError, match=r"a pixel is 255: these images have levels 0\.\.4"):
        bits_per_dim(pipeline(), ArrayExamples(image=np.full((3, 2, 2, 1), 255, np.uint8)))


def test_the_bar_moves_once_a_call(monkeypatch):
    moved = []

    class Bar(evaluate.tqdm):
        def update(self, n=1):
            moved.append(n)
            return super().update(n)

    monkeypatch.setattr(evaluate, "tqdm", Bar)
    pipe = pipeline(linear(10, 1e-3, 0.2))
    bits_per_dim(pipe, EXAMPLES, batch_size=16, flow=Flow(num_steps=3), progress=True)
    assert sum(moved) == 2 * (10 + 4 * 3)
