"""From the nats of single images to bits a dimension with standard errors: sums on the host, in float64."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from marble.diffusion import BoundTerms, rate_distortion

PARTS = 10
"""The steps are also summed in so many parts."""
BYTE = 127.5
"""Errors of pixels are told on the scale 0..255; x_0 is in [-1, 1]."""


class Estimate(NamedTuple):
    """A mean over images, and its standard error."""

    mean: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """What an image costs, in bits a dimension."""

    num: int
    """Images."""
    prior: Estimate
    """L_T."""
    parts: dict[str, Estimate]
    """L_{t-1} summed over ten parts of the steps, by their first and last step."""
    reconstruction: Estimate
    """L_0."""
    total: Estimate
    """The bound: their sum."""
    flow: Estimate | None
    """The likelihood under the probability flow."""
    by_step: np.ndarray
    """[T]: L_0, then L_{t-1} for t = 1..T-1."""
    by_step_standard_error: np.ndarray
    rate: np.ndarray
    """[T]: the bits that tell x_t, for each t (Ho et al. 2020, section 4.3)."""
    rmse: np.ndarray
    """[T]: the root of the mean square error of x_0 as predicted from x_t, on the scale 0..255."""


class Tally:
    """Sums over batches, in float64 on the host."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        """For each batch [b columns]: L_T, the parts, L_0, the total and the flow's, an image a row."""
        self._sums: Any = 0.0
        """[3 T]: of the terms, of their squares, and of the squared errors of x_0."""

    def add(self, terms: BoundTerms, flow: np.ndarray | None, mask: np.ndarray) -> None:
        """The nats of a batch; images with mask False are padding."""
        prior, by_step, squared_error = (np.asarray(x, np.float64)[..., mask] for x in terms)
        parts = [by_step[part].sum(0) for part in steps_of_parts(len(by_step))]
        flows = [] if flow is None else [np.asarray(flow, np.float64)[mask]]
        self._rows.append(np.stack([prior, *parts, by_step[0], prior + by_step.sum(0), *flows], axis=1))
        self._sums = self._sums + np.stack([by_step.sum(1), (by_step**2).sum(1), squared_error.sum(1)])

    def result(self, *, dimensions: int) -> BitsPerDim:
        """The means in bits a dimension."""
        unit = 1 / (np.log(2) * dimensions)
        rows = np.concatenate(self._rows) * unit
        num = len(rows)
        mean, square, squared_error = self._sums / num
        columns = [Estimate(float(x.mean()), float(standard_error(x.var(), num))) for x in rows.T]
        parts = steps_of_parts(len(mean))
        means = BoundTerms(np.array([columns[0].mean]), mean[:, None] * unit, squared_error[:, None])
        rate, distortion = (np.asarray(x)[:, 0] for x in rate_distortion(means))
        after = columns[1 + len(parts) :]
        return BitsPerDim(
            num=num,
            prior=columns[0],
            parts={name(part): column for part, column in zip(parts, columns[1:], strict=False)},
            reconstruction=after[0],
            total=after[1],
            flow=after[2] if len(after) > 2 else None,
            by_step=mean * unit,
            by_step_standard_error=standard_error(np.maximum(square - mean**2, 0), num) * unit,
            rate=rate,
            rmse=BYTE * np.sqrt(distortion),
        )


def steps_of_parts(num_steps: int) -> list[np.ndarray]:
    """The steps 1..T-1 in ten parts, or fewer where there are fewer steps."""
    return np.array_split(np.arange(1, num_steps), min(PARTS, num_steps - 1))


def name(part: np.ndarray) -> str:
    """Its first and last step."""
    return f"{part[0]}" if len(part) == 1 else f"{part[0]}..{part[-1]}"


def standard_error(variance: np.ndarray, num: int) -> np.ndarray:
    """Of a mean over num values with this variance over them; nan for one value, which has none."""
    return np.sqrt(variance / (num - 1)) if num > 1 else np.full_like(variance, np.nan)
