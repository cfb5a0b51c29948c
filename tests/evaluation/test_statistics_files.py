"""Statistics in npz files: those of pytorch-fid and of ADM are read, ours are read by them."""

import numpy as np
import pytest

from marble.errors import InputError
from marble.evaluation.statistics_files import Gaussian, has_statistics, read_statistics, write_statistics

MEAN, COVARIANCE = np.arange(3.0), np.diag([1.0, 2.0, 3.0])
FEATURES = {"network": "effnet-lite0", "weights": "0123", "resize": "clean_fid", "rounding": "uint8"}


class Network:
    """What is asked of a network."""

    described = FEATURES


def test_what_is_written_is_read_by_its_names_elsewhere_and_here(tmp_path):
    path = tmp_path / "folder" / "reference.npz"
    layers = {"features": Gaussian(MEAN, COVARIANCE), "spatial": Gaussian(MEAN[:2], COVARIANCE[:2, :2])}
    write_statistics(path, layers, features=FEATURES, images={"source": "digits:train", "num": 9})
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["mu"], MEAN)
        np.testing.assert_array_equal(arrays["sigma"], COVARIANCE)
        assert arrays["mu_s"].shape == (2,) and arrays["sigma_s"].shape == (2, 2)
    found = read_statistics(path)
    for layer, wanted in layers.items():
        for one, other in zip(found.layers[layer], wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    assert found.features == FEATURES and found.described == {"source": "digits:train", "num": 9}
    assert has_statistics(path) and not has_statistics(tmp_path / "none.npz")


@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_those_of_others_are_read(tmp_path, names):
    path = tmp_path / "theirs.npz"
    np.savez(path, **dict(zip(names, (MEAN.astype(np.float32), COVARIANCE), strict=True)), arr_0=np.zeros(3))
    found = read_statistics(path)
    assert found.layers["features"].mean.dtype == np.float64 and found.features == {}
    assert found.described["source"] == str(path) and len(found.described["hash"]) == 16
    found.check(Network, "features")
    with pytest.raises(InputError, match="no statistics of the layer spatial: it has features"):
        found.check(Network, "spatial")


def test_those_of_another_network_or_resize_are_refused(tmp_path):
    path = tmp_path / "ours.npz"
    gaussian = {"features": Gaussian(MEAN, COVARIANCE)}
    write_statistics(path, gaussian, features={**FEATURES, "resize": "ddpm"}, images={})
    with pytest.raises(InputError, match="is of resize ddpm, and the images are judged with clean_fid"):
        read_statistics(path).check(Network, "features")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": MEAN}, "a mean without its covariance"),
        ({"mu": MEAN, "sigma": COVARIANCE[:2]}, r"shapes \[3\] and \[2, 3\]"),
        ({"mu": MEAN[None], "sigma": COVARIANCE}, r"shapes \[1, 3\]"),
        ({"mu": MEAN * np.nan, "sigma": COVARIANCE}, "not finite"),
        ({"mu": np.array(["a", "b", "c"]), "sigma": COVARIANCE}, "give numbers"),
        ({"mu": MEAN, "sigma": COVARIANCE, "marble": np.array("{")}, "can't be read as statistics"),
    ],
)
def test_what_are_no_statistics_is_told(tmp_path, arrays, message):
    path = tmp_path / "statistics.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        read_statistics(path)


def test_an_npz_that_is_cut_is_told(tmp_path):
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=MEAN, sigma=COVARIANCE)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="can't be read as an npz"):
        has_statistics(path)
