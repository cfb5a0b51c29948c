"""Sets of images judged by one reference: each image is read once, and all metrics share what networks say of it."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marble.errors import InputError
from marble.evaluation.collected import Collected, collect
from marble.evaluation.image_sets import ImageSet
from marble.evaluation.judged import METRICS, PIXELS, Judged, Metric, key_of
from marble.evaluation.report import Neighbours
from marble.evaluation.stamp import Number, Stamp, versions
from marble.evaluation.statistics_files import Gaussian, Statistics, write_statistics
from marble.features import FeatureNetwork, Featurizer, embed_texts, open_features
from marble.metrics import Moments
from marble.metrics import nearest as nearest_rows
from marble.parallel import DeviceMapping, ParallelConfig
from marble.schema import nearest


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and by which networks."""

    metrics: Sequence[str] = ("fd",)
    features: Sequence[str] = ("effnet",)
    """As ``marble.features.open_features`` takes them: effnet, inception:PATH, clip:PATH, dinov2:PATH."""
    resize: str | None = None
    """By which kernel images come to a network's size; None is the one that its scores are published with."""
    rounding: str | None = None
    """Whether samples are rounded to 8 bits before they are judged, uint8 or float; None is the resize's."""
    intervals: bool = True
    """Whether numbers get intervals, which for distances take longer than the numbers."""
    batch_size: int = 64
    """Images in one call of a network."""
    seed: int = 0
    """Of the subsets and resamplings of metrics that draw some."""


class Planned(NamedTuple):
    """One metric by one network, or by the images themselves."""

    name: str
    metric: Metric
    network: FeatureNetwork | None


class Evaluator:
    """A reference, whose features are computed once, and networks, which are compiled once.

    What networks say of images lies in a temporary folder, which goes with the evaluator.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        reference: ImageSet | Statistics | None = None,
        *,
        networks: Sequence[FeatureNetwork] | None = None,
        mapping: DeviceMapping | None = None,
        progress: bool = False,
    ) -> None:
        """networks stand in place of those that options.features name. InputError for metrics that can't be had."""
        self.options, self._reference, self._progress = options, reference, progress
        self._mapping = mapping or ParallelConfig().open()
        parts = [(name, part) for name in dict.fromkeys(options.metrics) for part in metric_of(name)]
        if networks is None and any(part.needs_network for _, part in parts):
            how = dict(resize=options.resize, rounding=options.rounding)
            networks = [open_features(spec, **how) for spec in options.features]
        self.networks = {network.name: network for network in networks or ()}
        if len(self.networks) < len(networks or ()):
            names = [network.name for network in networks]
            raise InputError(f"features {', '.join(names)}: two have one name, under which numbers are kept: give one")
        self.plan = [Planned(*part, network) for part in parts for network in self._networks_of(*part)]
        for planned in self.plan:
            check_reference(planned, reference)
        self._directory = tempfile.TemporaryDirectory(prefix="marble-evaluate-", ignore_cleanup_errors=True)
        self._featurizers: dict[tuple[str, tuple[str, ...]], Featurizer] = {}
        self._judged_by: Collected | Statistics | None = None if isinstance(reference, ImageSet) else reference

    def _networks_of(self, name: str, metric: Metric) -> Sequence[FeatureNetwork | None]:
        if not metric.needs_network:
            return [None]
        fits = [network for network in self.networks.values() if metric.fits(network)]
        if not fits:
            given = ", ".join(self.options.features) or "none"
            raise InputError(f"metric {name} needs features of {metric.wants}, and --features are {given}: add it")
        return fits

    @property
    def reference(self) -> Collected | Statistics | None:
        """What was collected of the reference, when it is first needed."""
        if self._judged_by is None and self._reference is not None:
            self._judged_by = self._collected(self._reference, of_reference=True)
        return self._judged_by

    @property
    def rounds(self) -> bool:
        """Whether all networks read samples of 8 bits, and so all that is to be drawn of a model."""
        return all(network.rounding == "uint8" for network in self.networks.values())

    def collected(self, images: ImageSet) -> Collected:
        """What the metrics read of a set; InputError where it does not go with the reference."""
        check_pair(self.plan, images, self._reference)
        return self._collected(images, of_reference=False)

    def numbers(self, images: ImageSet | Collected, *, command: str = "") -> list[Number]:
        """All metrics of a set, each with its stamp."""
        own = images if isinstance(images, Collected) else self.collected(images)
        return [number for planned in self.plan for number in self._numbers_of(planned, own, command)]

    def _numbers_of(self, planned: Planned, own: Collected, command: str) -> Iterator[Number]:
        metric, network = planned.metric, planned.network
        reference = self.reference if metric.reference else None
        texts = self._texts(own.images, network) if metric.needs_texts else None
        judged = Judged(own, reference, network, texts, self.options.intervals, self.options.seed)
        for name, value, interval, settings in metric.compute(judged):
            stamp = Stamp(
                images=own.described,
                reference={} if reference is None else reference.described,
                features={} if network is None else dict(network.described),
                settings=settings,
                command=command,
                versions=versions(),
            )
            yield Number(planned.name, name, float(value), interval, stamp)

    def check_statistics(self) -> None:
        """InputError where there are no statistics of the reference to write: for several networks, or no images."""
        if len(self.networks) != 1 or not isinstance(self._reference, ImageSet):
            raise InputError(
                "statistics are of one network and a reference's images: give one of --features, and these"
            )
        if not any(planned.metric.reference and "features" in planned.metric.layers for planned in self.plan):
            raise InputError("statistics are of the features that fd reads: add it to --metrics")

    def write_statistics(self, path: Path) -> None:
        """Writes the reference's means and covariances; InputError as of ``check_statistics``."""
        self.check_statistics()
        (network,) = self.networks.values()
        gaussians = {}
        for layer in ("features", "spatial"):
            rows = self.reference.rows.get(key_of(network, layer))
            if rows is not None:
                moments = Moments.of(rows)
                gaussians[layer] = Gaussian(moments.mean, moments.covariance)
        write_statistics(path, gaussians, features=network.described, images=self.reference.described)

    def neighbours(self, own: Collected, num: int = 16, k: int = 3) -> list[Neighbours]:
        """The nearest images of the reference to those num that have one nearest, in each space that was audited."""
        found = []
        for name, metric, network in self.plan:
            if name == "memorization":
                (layer,) = metric.layers
                key = key_of(network, layer)
                near = nearest_rows(own.rows[key], self.reference.rows[key], k=min(k, self.reference.images.num))
                closest = np.argsort(near.distances[:, 0], kind="stable")[:num]
                indices = near.indices[closest]
                pictures = self.reference.rows[PIXELS][indices.reshape(-1)]
                shaped = pictures.reshape(*indices.shape, *pictures.shape[1:])
                space = PIXELS if network is None else network.name
                judged = np.round(own.rows[PIXELS][closest]).astype(np.uint8)
                found.append(Neighbours(space, judged, shaped, near.distances[closest]))
        return found

    def _collected(self, images: ImageSet, *, of_reference: bool) -> Collected:
        wanted: dict[str, set[str]] = {}
        for planned in self.plan:
            if not of_reference or planned.metric.reference:
                name = PIXELS if planned.network is None else planned.network.name
                wanted.setdefault(name, set()).update(planned.metric.layers)
        applies = {
            name: self._featurizer(name, tuple(layer for layer in self.networks[name].layers if layer in layers))
            for name, layers in wanted.items()
            if name != PIXELS and layers
        }
        options = dict(batch_size=self.options.batch_size, progress=self._progress)
        keeps = bool(wanted.get(PIXELS))
        return collect(images, applies, self._directory.name, keep_pixels=keeps, **options)

    def _featurizer(self, name: str, layers: tuple[str, ...]) -> Featurizer:
        key = (name, layers)
        if key not in self._featurizers:
            network = self.networks[name]
            self._featurizers[key] = Featurizer(network, self._mapping, layers, self.options.batch_size)
        return self._featurizers[key]

    def _texts(self, images: ImageSet, network: FeatureNetwork) -> np.ndarray:
        if images.texts is None:
            raise InputError(f"{images.name} has no texts to score its images by: give --text, or metadata.jsonl")
        folder = next(spec.partition(":")[2] for spec in self.options.features if spec.startswith(f"{network.name}:"))
        different = sorted(set(images.texts))
        rows = embed_texts(folder, different)
        return rows[[different.index(text) for text in images.texts]]


def metric_of(name: str) -> tuple[Metric, ...]:
    """The parts of a metric; InputError for another name, with the nearest."""
    if name not in METRICS:
        raise InputError(f"metric {name!r} is unknown{nearest(name, METRICS)}")
    return METRICS[name]


def check_reference(planned: Planned, reference: ImageSet | Statistics | None) -> None:
    """InputError where a metric reads more of a reference than is given."""
    name, metric, network = planned
    if metric.reference is None:
        return
    if reference is None:
        raise InputError(f"metric {name} needs a reference: give --reference DIR, FILE.npz or the name of a data set")
    if isinstance(reference, Statistics):
        if metric.reference != "statistics":
            raise InputError(f"metric {name} needs the reference's images, and {reference.name} has statistics alone")
        reference.check(network, metric.layers[0])


def check_pair(plan: Sequence[Planned], images: ImageSet, reference: ImageSet | Statistics | None) -> None:
    """InputError where images and reference can't be compared."""
    read = [planned for planned in plan if planned.metric.reference]
    if not read or not isinstance(reference, ImageSet):
        return
    kinds = {1: "grey", 3: "RGB"}
    if images.shape[-1] != reference.shape[-1]:
        raise InputError(
            f"{images.name} is {kinds[images.shape[-1]]} and {reference.name} is {kinds[reference.shape[-1]]}: "
            "convert one of them"
        )
    for name, metric, _ in read:
        if PIXELS in metric.layers and images.shape != reference.shape:
            sizes = " and ".join(f"{s.name} of {s.shape[0]}x{s.shape[1]}" for s in (images, reference))
            raise InputError(f"metric {name} compares pixels, and there are {sizes}: give --image_size")
        if metric.reference == "pairs" and images.num != reference.num:
            raise InputError(
                f"metric {name} compares image i with image i, and {images.name} has {images.num}, {reference.name} "
                f"{reference.num}: give as many"
            )


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better."""
    return metric_of(name)[0].higher_is_better
