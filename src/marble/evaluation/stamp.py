"""What a number was measured with, and whether two numbers can be compared.

Most FIDs that are set side by side in the wild were measured on other references, with other resizing or other numbers
of images, and differ by more than the models do. So a number goes nowhere without its stamp.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import marble
from marble.metrics import Interval

IDENTITY = frozenset({"images.source", "images.hash", "images.seed", "images.checkpoint", "command", "versions"})
"""What tells two measured models or two runs of the protocol apart, and is no part of the protocol."""
FOUND = frozenset({"settings.std_of_splits", "settings.std_of_subsets", "settings.threshold", "settings.equal_pairs"})
"""What was found beside a number: no part of the protocol either."""


@dataclasses.dataclass(frozen=True)
class Stamp:
    """The protocol of a number, in plain values. Each of the three is empty where the metric does not read it."""

    images: Mapping[str, Any]
    """The judged images: source, num, hash of their pixels; of samples also sampler, steps, guidance, seed, params."""
    reference: Mapping[str, Any]
    """What they are judged by: name, split, num, hash of its pixels (or of the file of its statistics)."""
    features: Mapping[str, Any]
    """The network: name, hash of its weights, resize, rounding, layer."""
    settings: Mapping[str, Any]
    """The metric's own numbers: k, subsets, splits."""
    command: str
    versions: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Number:
    """One measured number."""

    metric: str
    """What was asked for: fd, is, kid, ..."""
    name: str
    """What it is called: FID with the Inception network of that paper alone."""
    value: float
    interval: Interval | None
    """Of 95 %, over other draws of as many images; None where there is none."""
    stamp: Stamp

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        interval = None if self.interval is None else self.interval._asdict()
        return {"name": self.name, "value": self.value, "interval": interval, "stamp": self.stamp.as_dict()}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How the protocols of two stamps, as ``as_dict`` has them, differ: a line each, [] where they compare."""
    flat_one, flat_other = protocol(one), protocol(other)
    return [
        f"{key}: {_shown(flat_one, key)} against {_shown(flat_other, key)}"
        for key in {**flat_one, **flat_other}
        if flat_one.get(key) != flat_other.get(key)
    ]


def protocol(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two numbers to compare, of a stamp as ``as_dict`` has it, by dotted key."""
    return {k: v for k, v in _flat(stamp).items() if k not in IDENTITY | FOUND and k.split(".")[0] not in IDENTITY}


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"marble": marble.__version__, "jax": jax.__version__, "numpy": np.__version__}


def _flat(stamp: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in stamp.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return str(flat[key]) if key in flat else "not stated"
