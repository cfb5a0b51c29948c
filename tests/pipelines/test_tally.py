"""Means and standard errors over images."""

import numpy as np

from marble.diffusion import BoundTerms
from marble.pipelines.tally import Tally


def terms(seed, steps, images):
    rng = np.random.default_rng(seed)
    return BoundTerms(*(rng.uniform(size=shape) for shape in ((images,), (steps, images), (steps, images))))


def tallied(steps=25, images=7, batch=3, flow=True):
    """All terms of some images, and what is made of them in padded batches."""
    whole, tally = terms(0, steps, images), Tally()
    flows = np.random.default_rng(1).uniform(size=images)
    for start in range(0, images, batch):
        at = np.minimum(np.arange(start, start + batch), images - 1)
        part = BoundTerms(*(x[..., at] for x in whole))
        tally.add(part, flows[at] if flow else None, np.arange(start, start + batch) < images)
    return whole, flows, tally.result(dimensions=64)


def test_means_and_standard_errors_are_over_images_in_bits_a_dimension():
    whole, flows, found = tallied()
    unit = 64 * np.log(2)
    total = (whole.prior + whole.by_step.sum(0)) / unit
    for estimate, values in (
        (found.total, total),
        (found.prior, whole.prior / unit),
        (found.reconstruction, whole.by_step[0] / unit),
        (found.flow, flows / unit),
    ):
        np.testing.assert_allclose(estimate, (values.mean(), values.std(ddof=1) / np.sqrt(7)), rtol=1e-12)
    np.testing.assert_allclose(found.by_step, whole.by_step.mean(1) / unit, rtol=1e-12)
    expected = whole.by_step.std(1, ddof=1) / np.sqrt(7) / unit
    np.testing.assert_allclose(found.by_step_standard_error, expected, rtol=1e-9)
    assert found.num == 7


def test_the_terms_add_up():
    _, _, found = tallied(flow=False)
    assert found.flow is None
    assert list(found.parts) == ["1..3", "4..6", "7..9", "10..12", *(f"{t}..{t + 1}" for t in range(13, 25, 2))]
    parts = sum(part.mean for part in found.parts.values())
    np.testing.assert_allclose(found.prior.mean + parts + found.reconstruction.mean, found.total.mean, rtol=1e-12)


def test_rate_and_distortion_are_in_bits_and_in_levels_of_255():
    whole, _, found = tallied()
    np.testing.assert_allclose(found.rmse, 127.5 * np.sqrt(whole.squared_error.mean(1)), rtol=1e-6)
    np.testing.assert_allclose(found.rate[-1], found.prior.mean, rtol=1e-6)
    np.testing.assert_allclose(found.rate[0], found.total.mean - found.reconstruction.mean, rtol=1e-6)


def test_one_image_has_no_standard_error():
    _, _, found = tallied(images=1, steps=3)
    assert np.isnan(found.total.standard_error) and np.isfinite(found.total.mean)
    assert list(found.parts) == ["1", "2"]
