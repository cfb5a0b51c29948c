"""The metrics by their names on the command line: what each reads, and its numbers.

One entry of METRICS adds one: functions of what was collected of two sets of images.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from marble import metrics
from marble.evaluation.collected import Collected
from marble.evaluation.samples import hash_of
from marble.evaluation.statistics_files import Gaussian, Statistics
from marble.features import FeatureNetwork
from marble.metrics import Estimate, Interval, Moments
from marble.metrics.rows import spread

PIXELS = "pixels"
"""What stands for a layer where a metric reads the images themselves."""

SEED = 2020
"""torch-fidelity's: of KID's subsets, and of the Inception score's parts."""
QUANTILE = 0.01
"""Of the training images' distances to each other: what is nearer is a copy."""


class Found(NamedTuple):
    """One number of a metric."""

    name: str
    value: float
    interval: Interval | None
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a metric is given."""

    own: Collected
    reference: Collected | Statistics | None
    network: FeatureNetwork | None
    """None for metrics of pixels."""
    texts: np.ndarray | None
    """Embeddings [n d] of what each image is said to show."""
    intervals: bool
    seed: int

    def interval(self, estimate: Estimate) -> Interval | None:
        """Of an estimate, where intervals are wanted."""
        return estimate.interval() if self.intervals else None

    def share(self, values: np.ndarray) -> Interval | None:
        """Of the share of values [n] that are true, where intervals are wanted."""
        return metrics.share_interval(values) if self.intervals else None

    def named(self, name: str, of_inception: str | None = None) -> str:
        """The name of a number, with the network's where it is not the one that the name is known by."""
        if self.network is None or self.network.name == "inception":
            return of_inception or name
        return f"{name}{self.network.distance_name.removeprefix('FD')}"

    def rows(self, layer: str) -> np.ndarray:
        """Of the judged images, [n ...]."""
        return self.own.rows[key_of(self.network, layer)]

    def reference_rows(self, layer: str) -> np.ndarray:
        """Of the reference."""
        return self.reference.rows[key_of(self.network, layer)]


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric needs, and how it is computed."""

    compute: Callable[[Judged], Iterator[Found]]
    layers: tuple[str, ...] = ("features",)
    """Of the network, or PIXELS."""
    reference: str | None = None
    """What it reads of a reference: "statistics", "images", "pairs" (image i beside image i), or nothing."""
    network: str | None = None
    """The only one that it is defined for."""
    needs_texts: bool = False
    higher_is_better: bool = False

    @property
    def needs_network(self) -> bool:
        """Whether it reads more than pixels."""
        return self.layers != (PIXELS,)

    @property
    def wants(self) -> str:
        """The networks that will do, in words."""
        return f"{self.network}:PATH" if self.network else f"a network with {' and '.join(self.layers)}"

    def fits(self, network: FeatureNetwork) -> bool:
        """Whether it can be computed with a network."""
        return self.network in (None, network.name) and set(self.layers) - {PIXELS} <= set(network.layers)


def key_of(network: FeatureNetwork | None, layer: str) -> str:
    """The name of a layer in ``Collected.rows``."""
    return PIXELS if layer == PIXELS else f"{network.name}/{layer}"


def gaussian_of(judged: Judged, layer: str) -> Gaussian:
    """Mean and covariance of the reference."""
    if isinstance(judged.reference, Statistics):
        return judged.reference.layers[layer]
    moments = Moments.of(judged.reference_rows(layer))
    return Gaussian(moments.mean, moments.covariance)


def frechet(judged: Judged) -> Iterator[Found]:
    """FID on Inception's features, and by other names on others."""
    found = metrics.frechet_estimate(judged.rows("features"), *gaussian_of(judged, "features"))
    yield Found(judged.network.distance_name, found.value, judged.interval(found.at_num), {})


def frechet_of_places(judged: Judged) -> Iterator[Found]:
    """sFID (Nash et al. 2021)."""
    found = metrics.frechet_estimate(judged.rows("spatial"), *gaussian_of(judged, "spatial"))
    yield Found(f"s{judged.network.distance_name}", found.value, judged.interval(found.at_num), {})


def frechet_of_endless(judged: Judged) -> Iterator[Found]:
    """FID∞ as it is published (Chong & Forsyth 2020); and where images are enough, with the bias taken off."""
    rows, gaussian = judged.rows("features"), gaussian_of(judged, "features")
    found = metrics.frechet_extrapolation(rows, *gaussian, seed=judged.seed)
    settings = {"smallest": int(found.nums[0]), "points": len(found.nums), "seed": judged.seed}
    yield Found(f"{judged.network.distance_name}-infinity", found.value, None, settings)
    limit = metrics.frechet_estimate(rows, *gaussian).limit
    if limit is not None:
        yield Found(f"{judged.network.distance_name}-limit", limit.value, judged.interval(limit), {})


def inception(judged: Judged) -> Iterator[Found]:
    """The score over ten parts, as it is published, and of endless images."""
    logits = judged.rows("logits")
    splits = min(10, len(logits) // 2) or 1
    found = metrics.inception_score(logits, splits=splits, seed=SEED)
    settings = {"splits": splits, "seed": SEED, "std_of_splits": found.std}
    yield Found(judged.named("IS"), found.mean, None, settings)
    endless = metrics.inception_estimate(logits)
    yield Found(f"{judged.named('IS')}-infinity", endless.value, judged.interval(endless), {})


def kernel(judged: Judged) -> Iterator[Found]:
    """KID: the mean over subsets, as it is published; its interval is of all pairs of up to MOST_PAIRED images."""
    own, other = judged.rows("features"), judged.reference_rows("features")
    size = min(1000, len(own), len(other))
    found = metrics.kid(own, other, subset_size=size, seed=SEED)
    interval = None
    if judged.intervals:
        interval = judged.interval(metrics.polynomial_mmd(_some(own), _some(other)))
    settings = {"num_subsets": 100, "subset_size": size, "seed": SEED, "std_of_subsets": found.std}
    yield Found(judged.named("KID"), found.mean, interval, settings)


def clip_distance(judged: Judged) -> Iterator[Found]:
    """CMMD (Jayasumana et al. 2024)."""
    found = metrics.cmmd(judged.rows("embedding"), judged.reference_rows("embedding"))
    yield Found("CMMD", found.value, judged.interval(found), {"sigma": 10.0, "scale": 1000.0})


def manifold(judged: Judged) -> Iterator[Found]:
    """Precision and recall, density and coverage."""
    real, own = judged.reference_rows("features"), judged.rows("features")
    shares, balls = metrics.prdc(real, own)
    yield Found(judged.named("precision"), shares.precision, judged.share(shares.inside_real), {"k": 3})
    yield Found(judged.named("density"), balls.density, judged.interval(metrics.mean_estimate(balls.balls)), {"k": 5})
    errors = metrics.half_sample_errors(real, own, seed=judged.seed) if judged.intervals else None
    for name, value, k in (("recall", shares.recall, 3), ("coverage", balls.coverage, 5)):
        interval = None
        if errors is not None:
            low, high, level = metrics.Estimate(value, getattr(errors, name), errors.degrees).interval()
            interval = Interval(max(low, 0.0), min(high, 1.0), level)
        yield Found(judged.named(name), value, interval, {"k": k})


def clip(judged: Judged) -> Iterator[Found]:
    """The CLIP score: 100 times the cosine of an image and its text, where that is above 0."""
    found = metrics.clip_score(judged.rows("embedding"), judged.texts)
    estimate = metrics.mean_estimate(found.scores)
    yield Found(
        "CLIP score",
        found.mean,
        judged.interval(estimate),
        {"weight": 100.0, "texts": hash_of(judged.own.images.texts)},
    )


def memorization_of(layer: str) -> Callable[[Judged], Iterator[Found]]:
    """The audit in the space of pixels or of features."""

    def audit(judged: Judged) -> Iterator[Found]:
        own = judged.rows(layer)
        found = metrics.memorization(own, judged.reference_rows(layer), quantile=QUANTILE)
        space = PIXELS if judged.network is None else judged.network.name
        by_image = {
            "copied": found.copied,
            "isolated": found.isolated,
            "authenticity": found.authentic,
        }
        for name, values in by_image.items():
            more = {"quantile": QUANTILE, "threshold": found.threshold} if name == "copied" else {}
            yield Found(f"{name} ({space})", float(values.mean()), judged.share(values), {"space": space, **more})
        yield Found(f"duplicates ({space})", metrics.duplicate_rate(own), None, {"space": space, "within": 0.0})

    return audit


def by_pixel(name: str, measure: Callable[..., np.ndarray]) -> Callable[[Judged], Iterator[Found]]:
    """The mean over pairs of images."""

    def paired(judged: Judged) -> Iterator[Found]:
        own, other = judged.rows(PIXELS), judged.reference_rows(PIXELS)
        size = 256
        places = [slice(i, i + size) for i in range(0, len(own), size)]
        pairs = ([rows[place].astype(np.float32) for rows in (own, other)] for place in places)
        values = np.concatenate([measure(*pair, data_range=255.0) for pair in pairs])
        finite = values[np.isfinite(values)]
        if len(finite) < len(values):  # equal pairs have no error, and a PSNR of inf
            yield Found(name, float("inf"), None, {"equal_pairs": len(values) - len(finite)})
            return
        estimate = metrics.mean_estimate(values)
        yield Found(name, estimate.value, judged.interval(estimate), {})

    return paired


MOST_PAIRED = 10_000
"""Images of either side in a kernel's matrix of all pairs, which takes a second for 5,000."""


def _some(rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) <= MOST_PAIRED else rows[spread(MOST_PAIRED, len(rows))]


METRICS: Mapping[str, tuple[Metric, ...]] = {
    "fd": (Metric(frechet, reference="statistics"),),
    "fd_infinity": (Metric(frechet_of_endless, reference="statistics"),),
    "sfd": (Metric(frechet_of_places, ("spatial",), reference="statistics"),),
    "is": (Metric(inception, ("logits",), higher_is_better=True),),
    "kid": (Metric(kernel, reference="images"),),
    "cmmd": (Metric(clip_distance, ("embedding",), reference="images", network="clip"),),
    "pr": (Metric(manifold, reference="images", higher_is_better=True),),
    "clip": (Metric(clip, ("embedding",), network="clip", needs_texts=True, higher_is_better=True),),
    "memorization": (
        Metric(memorization_of(PIXELS), (PIXELS,), reference="images"),
        Metric(memorization_of("features"), ("features",), reference="images"),
    ),
    "psnr": (Metric(by_pixel("PSNR", metrics.psnr), (PIXELS,), reference="pairs", higher_is_better=True),),
    "ssim": (Metric(by_pixel("SSIM", metrics.ssim), (PIXELS,), reference="pairs", higher_is_better=True),),
}
"""By their names on the command line: each metric's parts, in the spaces that it is measured in."""
