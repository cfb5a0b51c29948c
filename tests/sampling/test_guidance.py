"""Guidance on Gaussian data, where every guided density is known, and thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import denoiser, linear, read
from marble.sampling import Ancestral, guidance, image_keys, levels, sample
from marble.typing import Level, Prediction

SCHEDULE = linear()
VARIANCE = 0.25
NULL = {"mean": jnp.zeros(1)}


def gaussian(mean, variance=VARIANCE):
    """The exact DenoiseFn of x_0 ~ N(mean, variance), mean from the context if there is one."""

    def denoise_fn(x_t, level, context=None):
        centre = mean if context is None else context["mean"].reshape(-1, *[1] * (x_t.ndim - 1))
        level = level.like(x_t)
        total = level.alpha**2 * variance + level.sigma**2
        eps = level.sigma * (x_t - level.alpha * centre) / total
        return Prediction(x_0=(x_t - level.sigma * eps) / level.alpha, eps=eps)

    return denoise_fn


def drawn(denoise_fn, num=20_000, context=None):
    keys = image_keys(0, jnp.arange(num))
    return np.asarray(sample(denoise_fn, Ancestral(), levels(SCHEDULE, 100), keys, (1,), context=context))


def same(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


X_T, LEVEL = jnp.array([[0.3, -1.0], [2.0, 0.1]]), SCHEDULE.level(300)
CONTEXT = {"mean": jnp.array([0.7, -0.2])}


@pytest.mark.parametrize(("scale", "context"), [(1.0, CONTEXT), (0.0, {"mean": jnp.zeros(2)})])
def test_scale_1_is_the_conditional_model_and_0_the_unconditional(scale, context):
    guided = guidance.classifier_free(gaussian(0.0), scale, null_context=NULL)
    same(guided(X_T, LEVEL, CONTEXT), gaussian(0.0)(X_T, LEVEL, context), rtol=1e-5)


def test_guided_gaussians_are_gaussians_about_the_scaled_mean():
    # E[x_0 | x_t] is linear in the mean: between means 0 and m, scale w is the denoiser of N(w m, v).
    guided = guidance.classifier_free(gaussian(0.0), 3.0, null_context=NULL)
    x = drawn(guided, context={"mean": jnp.full(20_000, 0.2)})
    assert abs(x.mean() - 0.6) < 0.02
    np.testing.assert_allclose(x.var(), drawn(gaussian(0.6)).var(), rtol=0.05)


def test_a_scale_of_1_does_not_ask_the_other_model():
    asked = []

    def other(x_t, level, context=None):
        jax.debug.callback(lambda: asked.append(1))
        return gaussian(0.0)(x_t, level)

    guided = jax.jit(lambda scale: guidance.guided(gaussian(0.5), other, scale)(X_T, LEVEL))
    plain = gaussian(0.5)(X_T, LEVEL)
    same(guided(1.0), plain, rtol=1e-6)
    jax.effects_barrier()
    assert not asked
    guided(2.0)
    jax.effects_barrier()
    assert asked == [1] and guided._cache_size() == 1


def test_the_variance_is_that_of_the_model_that_is_guided():
    # Of a learned variance there is no way past: an extrapolated one could be negative.
    def with_variance(denoise_fn, variance):
        return lambda *told: denoise_fn(*told)._replace(variance=jnp.full_like(X_T, variance))

    model, other = with_variance(gaussian(0.5), 0.2), with_variance(gaussian(0.0), 0.7)
    for scale in (0.0, 1.0, 3.0):
        np.testing.assert_array_equal(guidance.guided(model, other, scale)(X_T, LEVEL).variance, jnp.float32(0.2))


def test_outside_of_the_interval_the_model_is_alone():
    noise = LEVEL.sigma / LEVEL.alpha
    plain, strong = gaussian(0.5), guidance.guided(gaussian(0.5), gaussian(0.0), 4.0)
    for interval, expected in (
        ((0.0, 2 * noise), strong),
        ((noise / 2, jnp.inf), strong),
        ((2 * noise, jnp.inf), plain),
        ((0.0, noise / 2), plain),
    ):
        found = guidance.guided(gaussian(0.5), gaussian(0.0), 4.0, interval=interval)
        same(found(X_T, LEVEL), expected(X_T, LEVEL), rtol=1e-6)


def test_each_image_has_its_own_scale_and_level():
    level = SCHEDULE.level(jnp.array([100, 800]))
    scales = jnp.array([1.0, 5.0])
    found = guidance.guided(gaussian(0.5), gaussian(0.0), scales)(X_T, level)
    for i in range(2):
        one = Level(*(leaf[i] for leaf in level))
        expected = guidance.guided(gaussian(0.5), gaussian(0.0), scales[i])(X_T[i : i + 1], one)
        np.testing.assert_allclose(found.x_0[i], expected.x_0[0], rtol=1e-5, atol=1e-6)


def test_the_exact_classifier_makes_the_unconditional_model_conditional(x64):
    # A label y = x_0 + N(0, u) turns N(0, v) into N(y v / (v + u), v u / (v + u)); p(y | x_t) is Gaussian too.
    v, u, y = VARIANCE, 0.5, 0.8
    x_t, level = jnp.asarray(np.asarray(X_T, np.float64)), SCHEDULE.level(300)

    def log_prob(x_t, level, context):
        level = level.like(x_t)
        total = level.alpha**2 * v + level.sigma**2
        mean, variance = level.alpha * v * x_t / total, v * level.sigma**2 / total
        return (-0.5 * (y - mean) ** 2 / (variance + u)).sum(axis=1)

    guided = guidance.classifier_guided(gaussian(0.0), log_prob, 1.0)(x_t, level)
    expected = gaussian(y * v / (v + u), v * u / (v + u))(x_t, level)
    same((guided.x_0, guided.eps), (expected.x_0, expected.eps), rtol=1e-9)


@pytest.mark.parametrize("kind", ["eps", "v", "x_0"])
def test_rescaling_gives_the_plain_model_s_deviation(kind):
    x_t = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 2)), jnp.float32)
    plain, strong = gaussian(0.2, 0.3), guidance.guided(gaussian(0.2, 0.3), gaussian(-0.4, 0.9), 6.0)

    def deviation(fn):
        return np.asarray(read(fn(x_t, LEVEL), kind, level=LEVEL).std((1, 2, 3)))

    rescaled = lambda share: guidance.rescaled(plain, strong, share, prediction_type=kind)  # noqa: E731
    np.testing.assert_allclose(deviation(rescaled(1.0)), deviation(plain), rtol=1e-4)
    np.testing.assert_allclose(deviation(rescaled(0.0)), deviation(strong), rtol=1e-4)
    np.testing.assert_allclose(deviation(rescaled(0.5)), (deviation(plain) + deviation(strong)) / 2, rtol=1e-4)


def test_thresholds_clip_x_0_and_derive_eps_only_if_asked():
    x_0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)) * [[0.2], [3.0]], jnp.float32)
    model = lambda x_t, level, context=None: Prediction(x_0, jnp.zeros_like(x_0))  # noqa: E731
    x_t = jnp.ones((2, 50))
    found = guidance.static_threshold(model)(x_t, LEVEL)
    np.testing.assert_array_equal(found.x_0, np.clip(x_0, -1, 1))
    np.testing.assert_array_equal(found.eps, 0)
    consistent = guidance.static_threshold(model, keep_eps=False)(x_t, LEVEL)
    np.testing.assert_allclose(LEVEL.alpha * consistent.x_0 + LEVEL.sigma * consistent.eps, x_t, rtol=1e-5)

    size = np.quantile(np.abs(x_0[1]), 0.9)
    found = guidance.dynamic_threshold(model, quantile=0.9)(x_t, LEVEL)
    np.testing.assert_array_equal(found.x_0[0], x_0[0])  # its quantile is below 1
    np.testing.assert_allclose(found.x_0[1], np.clip(x_0[1], -size, size) / size, rtol=1e-5)


def test_wrappers_compose_and_scales_are_one_program():
    traces = []

    @jax.jit
    def draw(scale, low, share):
        traces.append(1)
        guided = guidance.classifier_free(gaussian(0.0), scale, null_context=NULL, interval=(low, jnp.inf))
        guided = guidance.rescaled(gaussian(0.0), guided, share)
        denoise_fn = guidance.static_threshold(guided)
        context = {"mean": jnp.full(4, 0.5)}
        return sample(
            denoise_fn, Ancestral(), levels(SCHEDULE, 10), image_keys(0, jnp.arange(4)), (3,), context=context
        )

    images = [draw(scale, low, share) for scale in (0.0, 1.0, 7.5) for low in (0.0, 1.0) for share in (0.0, 0.7)]
    assert len(traces) == 1
    assert all(np.isfinite(x).all() and (np.abs(x) <= 1).all() for x in images)
    assert len({np.asarray(x).tobytes() for x in images}) >= 7


def test_a_denoiser_of_a_network_is_guided_the_same_way():
    def network(x_t, t, context):
        return x_t * 0.1 + context["label"].reshape(-1, 1)

    guided = guidance.classifier_free(denoiser(network, SCHEDULE), 2.0, null_context={"label": jnp.zeros(2)})
    found = guided(X_T, LEVEL, {"label": jnp.ones(2), "other": jnp.ones(2)})
    np.testing.assert_allclose(found.eps, 0.1 * X_T + 2, rtol=1e-6)


def test_rescaling_asks_the_model_no_second_time():
    weights = jax.random.normal(jax.random.key(0), (256, 256))

    def network(x_t, t, context):
        return jnp.tanh(x_t @ weights) + context["label"].reshape(-1, 1)

    def products(wrap):
        def run(x_t, scale, share):
            plain = denoiser(network, SCHEDULE)
            guided = guidance.classifier_free(plain, scale, null_context={"label": jnp.zeros(1)})
            return wrap(plain, guided, share)(x_t, LEVEL, {"label": jnp.ones(4)}).x_0

        return jax.jit(run).lower(jnp.ones((4, 256)), 2.0, 0.5).compile().as_text().count(" dot(")

    assert products(guidance.rescaled) == products(lambda plain, guided, share: guided) == 2
