"""Bits a dimension of a pipeline: against the formulas, and the same on any devices, in any batch."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import pixels

from marble.conditioning import Identity, Labels
from marble.data.examples import ArrayExamples
from marble.diffusion import bound_terms, from_curve, linear
from marble.errors import InputError
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, Flow, ImageSpec, SamplingConfig, bits_per_dim, evaluate
from marble.sampling import DDIM, Ancestral, guidance

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


def pipeline(schedule=None, devices=1, **config):
    """On one of the eight devices, for which two cores compile sooner."""
    schedule = linear(100, 1e-3, 0.2) if schedule is None else schedule
    return DiffusionPipeline(
        model=Exact(schedule),
        params={},
        schedule=schedule,
        codec=Identity(ImageSpec(shape=(2, 2, 1), levels=LEVELS)),
        sampler=Ancestral("fixed_small"),
        config=SamplingConfig(batch_size=16, **config),
        mapping=ParallelConfig().open(jax.devices()[:devices]),
    )


IMAGES = np.random.default_rng(0).integers(0, LEVELS, size=(21, 2, 2, 1)).astype(np.uint8)
EXAMPLES = ArrayExamples(image=IMAGES)
FLOW = Flow(num_steps=40, divergence="exact")


@pytest.fixture(scope="module")
def found():
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


@pytest.mark.parametrize("mapping", ["mesh", "pmap"])
def test_eight_devices_give_what_one_gives(found, mapping):
    pipe = pipeline()
    pipe.mapping = ParallelConfig(mapping=mapping).open()
    assert len(pipe.mapping.devices) == 8
    eight = bits_per_dim(pipe, EXAMPLES, flow=FLOW)
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
    for given in ({"variance_type": "fixed_small"}, {"decoder": "exact"}):
        with pytest.raises(InputError, match=f"{next(iter(given))} .* is in continuous time: leave it out"):
            bits_per_dim(pipe, EXAMPLES, **given)


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
        ({"num": 2.5}, "num=2.5 must be a whole number"),
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


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((3, 2, 2, 1), 255, np.uint8), "from 255 to 255: give integers from 0 to 4"),
        (np.full((3, 2, 2, 1), -1), "from -1 to -1: give integers from 0 to 4"),
        (np.zeros((3, 2, 2, 1), np.float32), "images of float32 .* give integers"),
        (np.zeros((3, 2, 3, 1), np.uint8), r"images of shape \[3, 2, 3, 1\]: this model takes \[n 2 2 1\]"),
        (np.zeros((3, 2, 2), np.uint8), r"images of shape \[3, 2, 2\]"),
        (np.zeros((0, 2, 2, 1), np.uint8), "0 examples given: give at least 1"),
    ],
)
def test_images_that_are_not_the_model_s_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        bits_per_dim(pipeline(), ArrayExamples(image=images))


def test_other_things_than_examples_and_a_diffusion_pipeline_are_refused():
    with pytest.raises(InputError, match=r"examples of type ndarray: give ArrayExamples\(image=\.\.\.\)"):
        bits_per_dim(pipeline(), IMAGES)
    with pytest.raises(InputError, match="SimpleNamespace given: .* a VAEPipeline has its own bits_per_dim"):
        bits_per_dim(SimpleNamespace(), EXAMPLES)


def test_labels_that_are_not_the_model_s_are_refused():
    pipe = pipeline()
    pipe.conditioner = Labels(3)
    for labels, message in ((None, "examples without labels"), (np.full(21, 3), "labels from 3 to 3: .* 0 to 2")):
        with pytest.raises(InputError, match=message):
            bits_per_dim(pipe, ArrayExamples(image=IMAGES, label=labels))


@pytest.mark.parametrize(("num", "devices", "size"), [(3, 1, 3), (21, 1, 16), (3, 8, 8)])
def test_a_call_has_no_more_images_than_there_are(num, devices, size):
    pipe, sizes = pipeline(linear(3, 1e-3, 0.2), devices), set()
    plain = pipe.model.apply
    pipe.model.apply = lambda variables, x_t, *rest: sizes.add(len(x_t)) or plain(variables, x_t, *rest)
    assert bits_per_dim(pipe, EXAMPLES, num=num).num == num
    assert sizes == {size}


def test_a_sampler_without_a_variance_has_the_model_s():
    assert evaluate.default_variance_type(pipeline()) == "fixed_small"
    pipe = pipeline()
    pipe.sampler, pipe.variance_type = DDIM(), "learned_range"
    assert evaluate.default_variance_type(pipe) == "learned_range"


@pytest.mark.parametrize(("first", "warned"), [(0.2, 0), (0.05, 1)])
def test_bins_wider_than_the_least_noise_are_warned_of(first, warned, caplog):
    schedule, flow = linear(3, first, 0.4), Flow(num_steps=1, dequantisation="uniform")
    with caplog.at_level(logging.WARNING, logger="marble"):
        bits_per_dim(pipeline(schedule), EXAMPLES, num=1, flow=flow)
    said = [record.getMessage() for record in caplog.records if "uniform dequantisation" in record.getMessage()]
    assert len(said) == warned
    assert not warned or "5 levels 0.5 apart, 2.2 times the least noise" in said[0]


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
