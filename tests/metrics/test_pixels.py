"""PSNR and SSIM by closed forms, and by scipy's filters in scikit-image's way."""

import numpy as np
import pytest
from scipy import ndimage

from marble.errors import InputError
from marble.metrics import psnr, ssim

RNG = np.random.default_rng(0)
ONE = RNG.integers(0, 256, (3, 20, 27, 3), np.uint8)
OTHER = np.clip(ONE + RNG.normal(size=ONE.shape) * 30, 0, 255).astype(np.uint8)
FLAT = np.full((1, 16, 16, 1), 100, np.uint8)


def by_scipy(x, y, data_range):
    """scikit-image's formulas with gaussian_weights, sigma 1.5 and no sample covariance, of one channel [h w]."""

    def mean(image):
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5)

    x, y = x.astype(float), y.astype(float)
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    similarity = (2 * mean(x) * mean(y) + c_1) * (2 * covariance + c_2)
    similarity /= (mean(x) ** 2 + mean(y) ** 2 + c_1) * (variances + c_2)
    return similarity[5:-5, 5:-5].mean()


@pytest.mark.parametrize("convert, data_range", [(lambda x: x, 255), (lambda x: x / 127.5 - 1, 2)])
def test_ssim_agrees_with_scipy_s_filters(convert, data_range):
    one, other = convert(ONE), convert(OTHER)
    expected = [
        np.mean([by_scipy(x[..., channel], y[..., channel], data_range) for channel in range(3)])
        for x, y in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(ssim(one, other), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(other, one), expected, rtol=1e-9)


def test_ssim_of_flat_images_is_that_of_their_brightness():
    found = ssim(FLAT, FLAT + 40)
    c_1 = (0.01 * 255) ** 2
    assert found == pytest.approx([(2 * 100 * 140 + c_1) / (100**2 + 140**2 + c_1)], rel=1e-12)
    assert ssim(FLAT.astype(float), FLAT + 40.0, data_range=255) == pytest.approx(found, rel=1e-12)


def test_psnr_of_a_known_error():
    assert psnr(FLAT, FLAT + 5) == pytest.approx([20 * np.log10(255 / 5)], rel=1e-14)
    assert psnr(np.zeros((2, 3, 3, 1)), np.full((2, 3, 3, 1), 0.02)) == pytest.approx([40, 40])
    assert psnr(np.zeros((1, 3, 3, 1)), np.ones((1, 3, 3, 1)), data_range=10) == pytest.approx([20])
    assert psnr(FLAT + 200, FLAT)[0] == psnr(FLAT, FLAT + 200)[0]  # bytes don't wrap around


def test_equal_images():
    np.testing.assert_array_equal(psnr(ONE, ONE), np.inf)
    np.testing.assert_allclose(ssim(ONE, ONE), 1, rtol=1e-12)
    np.testing.assert_allclose(ssim(FLAT, FLAT), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ssim(ONE[:, :10], OTHER[:, :10]), "images of 10x27 are smaller than SSIM's window of 11x11"),
        (lambda: psnr(ONE, OTHER[:1]), r"shapes \[3, 20, 27, 3\] and \[1, 20, 27, 3\]"),
        (lambda: psnr(ONE[0], OTHER[0]), r"give \[n h w c\] twice"),
        (lambda: psnr(ONE, OTHER / 255), "of uint8 and float64: give both as uint8"),
        (lambda: psnr(ONE.astype(int), OTHER.astype(int)), "of int64 and int64"),
        (lambda: psnr(ONE, OTHER, data_range=0.0), "data_range=0.0 must be above 0"),
        (lambda: psnr(ONE * np.nan, OTHER * 1.0), "image 0 or its original has NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
