"""Means and covariances of features in npz files, as pytorch-fid (mu, sigma) and ADM's evaluator (and mu_s, sigma_s for
sFID) have them, and ADM's reference batches; ours say beside that of how many images, and of which features they are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marble.errors import InputError
from marble.features import FeatureNetwork
from marble.pipelines.image_files import NPZ_ERRORS
from marble.pipelines.pictures import replacing

NAMES = {"features": (("mu", "sigma"), ("ref_mu", "ref_sigma")), "spatial": (("mu_s", "sigma_s"),)}
"""By the layer, the names of mean and covariance in the files that there are."""


class Gaussian(NamedTuple):
    """What a Fréchet distance reads of a set: float64."""

    mean: np.ndarray
    """[d]"""
    covariance: np.ndarray
    """[d d]"""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A file's content."""

    name: str
    layers: Mapping[str, Gaussian]
    hash: str
    """Of the file."""
    features: Mapping[str, Any]
    """What our files say of the network; {} of others."""
    images: Mapping[str, Any]
    """What our files say of the images; {} of others."""

    @property
    def described(self) -> dict[str, Any]:
        """What a stamp says of them: of our files the images themselves, so that it compares with those."""
        return dict(self.images) or {"source": self.name, "hash": self.hash}

    def check(self, network: FeatureNetwork, layer: str) -> None:
        """InputError unless they can be of this network's layer."""
        if layer not in self.layers:
            raise InputError(f"{self.name} has no statistics of the layer {layer}: it has {', '.join(self.layers)}")
        named = {key: value for key, value in network.described.items() if key in self.features}
        for key, value in named.items():
            if self.features[key] != value:
                raise InputError(
                    f"{self.name} is of {key} {self.features[key]}, and the images are judged with {value}: "
                    "compute the statistics again, or change --features or --resize"
                )


def has_statistics(path: Path) -> bool:
    """Whether an npz holds means and covariances."""
    return any(mean in _names_in(path) for pairs in NAMES.values() for mean, _ in pairs)


def has_images(path: Path) -> bool:
    """Whether an npz holds images, maybe beside means and covariances."""
    return "arr_0" in _names_in(path)


def _names_in(path: Path) -> Sequence[str]:
    """The arrays of an npz; of what is none, none."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return ()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays.files)
    except NPZ_ERRORS as error:
        raise InputError(f"{path} can't be read as an npz ({error}): write it again") from error


def read_statistics(path: Path) -> Statistics:
    """The means and covariances of a file; InputError where they are no such things."""
    layers: dict[str, Gaussian] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for layer, pairs in NAMES.items():
                for mean, covariance in pairs:
                    if mean in arrays and covariance in arrays:
                        layers[layer] = _checked(arrays[mean], arrays[covariance], f"{path}: {mean}, {covariance}")
            described = json.loads(str(arrays["marble"])) if "marble" in arrays else {}
            if not isinstance(described, dict):
                raise InputError(f"{path} says of itself {str(described)[:40]!r}, and no object: write it again")
    except NPZ_ERRORS as error:
        raise InputError(f"{path} can't be read as statistics ({error}): write it again") from error
    if "features" not in layers:
        raise InputError(f"{path} has a mean without its covariance: give mu and sigma, or ref_mu and ref_sigma")
    features, images = (described.get(key, {}) for key in ("features", "images"))
    return Statistics(str(path), layers, hashlib.sha256(path.read_bytes()).hexdigest()[:16], features, images)


def write_statistics(
    path: Path, layers: Mapping[str, Gaussian], *, features: Mapping[str, Any], images: Mapping[str, Any]
) -> None:
    """Writes them, in the names that pytorch-fid and ADM read, with what a stamp says of both."""
    arrays, described = {}, {"features": dict(features), "images": dict(images)}
    for layer, gaussian in layers.items():
        mean, covariance = NAMES[layer][0]
        arrays |= {mean: gaussian.mean, covariance: gaussian.covariance}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, **arrays, marble=np.array(json.dumps(described, sort_keys=True)))


def _checked(mean: np.ndarray, covariance: np.ndarray, name: str) -> Gaussian:
    if not all(np.issubdtype(array.dtype, np.number) for array in (mean, covariance)):
        raise InputError(f"{name} are of {mean.dtype} and {covariance.dtype}: give numbers")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(f"{name} have shapes {list(mean.shape)} and {list(covariance.shape)}: give [d] and [d d]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{name} have values that are not finite: compute them again")
    return Gaussian(mean, covariance)
