"""``marble evaluate`` as a function: a model's samples, or any images, judged by others, and bits a dimension."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from etils import epath

from marble import builders, loading, workdir
from marble.errors import InputError
from marble.evaluation import image_sets, kept, report, samples
from marble.evaluation.bits import Bits, BitsOptions, measured_bits, params_name
from marble.evaluation.collected import Collected
from marble.evaluation.evaluator import EvaluationOptions, Evaluator, metric_of
from marble.evaluation.image_sets import ImageSet
from marble.evaluation.kept import BITS
from marble.evaluation.samples import SampleOptions
from marble.evaluation.stamp import Number
from marble.evaluation.statistics_files import Statistics, has_images, has_statistics, read_statistics
from marble.parallel import agreement, explained_memory_error

logger = logging.getLogger(__name__)

GUIDES = ("guide", "classifier")
SAMPLES = 10_000
"""Drawn where no number is given: scores of fewer are not those that are published."""


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which parameters of a run are measured, and what guides them: arguments of ``marble.load``."""

    step: int | None = None
    best: bool = False
    raw_params: bool = False
    ema_length: float | None = None
    dtype: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    guide: str | None = None
    """Of samples, and not of bits a dimension; likewise the classifier."""
    classifier: str | None = None

    def of_parameters(self) -> dict[str, Any]:
        """Those that say which parameters are taken."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in GUIDES}

    def described(self) -> dict[str, Any]:
        """What a stamp says of them, beside the checkpoint's step."""
        beside = {name: getattr(self, name) for name in ("dtype", "lora", *GUIDES) if getattr(self, name) is not None}
        scale = {"lora_scale": self.lora_scale} if self.lora is not None else {}
        return {"params": params_name(raw_params=self.raw_params, ema_length=self.ema_length), **beside, **scale}


@dataclasses.dataclass(frozen=True)
class Written:
    """Where results go."""

    metrics: str | None = None
    """A metrics.json; None is that of the run, and of images none."""
    report: str | None = None
    """An HTML file."""
    statistics: str | None = None
    """An npz of the reference's means and covariances."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    numbers: Sequence[Number]
    bits: Bits | None = None
    images: Collected | None = None
    """What was judged."""
    warnings: Sequence[str] = ()
    """Where a number stands beside one of another protocol."""

    def lines(self) -> list[str]:
        """As they are printed."""
        return [*([] if self.bits is None else self.bits.lines()), *kept.lines_of(self.numbers)]


def evaluate(
    directory: str | None = None,
    *,
    images: str | ImageSet | None = None,
    reference: str | ImageSet | Statistics | None = None,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008
    num: int | None = None,
    reference_num: int | None = None,
    image_size: int | None = None,
    model: ModelOptions = ModelOptions(),
    sampling: SampleOptions = SampleOptions(),  # noqa: B008
    bits: BitsOptions = BitsOptions(),  # noqa: B008
    write: Written = Written(),
    compare_with: str | None = None,
    command: str = "marble.evaluate",
    given: Mapping[str, str] = MappingProxyType({}),
    progress: bool = False,
) -> Evaluation:
    """Measures num samples of the run or published checkpoint in directory, or images, for which no model is needed.

    images and reference are a folder, an npz, NAME[:SPLIT] of a data set, or an ``ImageSet``; a reference may be an npz
    of statistics, and is by default the train split of the run's data. num and reference_num take so many of them,
    from all over, and image_size cuts and resizes them. compare_with is another metrics.json. given are the options of
    ``bits`` that were given, and by what names. InputError for what does not fit, before anything is drawn.
    """
    for name in options.metrics:
        name == BITS or metric_of(name)
    if (directory is None) == (images is None):
        raise InputError("give a model or images, one of them: --workdir W, or --images DIR")
    if BITS in options.metrics and directory is None:
        raise InputError(f"metric {BITS} is of a model, and not of images: give --workdir")
    other = None if compare_with is None else kept.read_other(compare_with)  # which may be what is written
    if (path := written_to(directory, write)) is not None:
        kept.read(path)
    if set(options.metrics) == {BITS} and write.statistics is not None:
        raise InputError("statistics are of a reference's images, and bpd reads none: add fd to --metrics")
    of_images = dataclasses.replace(options, metrics=[name for name in options.metrics if name != BITS])
    evaluator = None
    if of_images.metrics:
        judged_by = open_reference(directory, reference, of_images.metrics, image_size, reference_num)
        evaluator = Evaluator(of_images, judged_by, progress=progress)
        if write.statistics is not None:
            evaluator.check_statistics()
    measured = None
    if BITS in options.metrics:
        asked = dict(num=num, at_most=evaluator is not None, seed=sampling.seed, batch_size=sampling.batch_size)
        which = model.of_parameters()
        measured = measured_bits(directory, options=bits, given=given, progress=progress, which=which, **asked)
    evaluation = Evaluation([], measured)
    if evaluator is not None:
        with explained_memory_error():
            if directory is None:
                chosen = opened(images, image_size).take(num)
            else:
                chosen = drawn(
                    directory, SAMPLES if num is None else num, sampling, model, as_float=not evaluator.rounds
                )
            own = evaluator.collected(chosen)
            evaluation = Evaluation(evaluator.numbers(own, command=command), measured, own)
    if not agreement.is_first():
        return evaluation
    return written(evaluation, evaluator, directory, write, None if other is None else (compare_with, other))


def written_to(directory: str | None, write: Written) -> str | None:
    """The metrics.json."""
    return write.metrics or (None if directory is None else str(epath.Path(directory) / "metrics.json"))


def opened(where: str | ImageSet, image_size: int | None) -> ImageSet:
    """Images that are given, or where they are."""
    return where if isinstance(where, ImageSet) else image_sets.open_images(where, image_size=image_size)


def open_reference(
    directory: str | None,
    reference: str | ImageSet | Statistics | None,
    metrics: Sequence[str],
    image_size: int | None,
    num: int | None,
) -> ImageSet | Statistics | None:
    """What metrics judge by: what is given, or else the train split of the run's data; None where none reads it."""
    if not any(part.reference for name in metrics for part in metric_of(name)):
        return None
    if isinstance(reference, str) and has_statistics(Path(reference)) and not _reads_images(Path(reference), metrics):
        reference = read_statistics(Path(reference))
    if isinstance(reference, Statistics):
        if num is not None:
            raise InputError(f"{num} images of the reference asked for, and {reference.name} has statistics alone")
        return reference
    if reference is not None:
        return opened(reference, image_size).take(num)
    if directory is None:
        return None
    if loading.is_published(directory):
        raise InputError(f"{directory} is a published checkpoint, whose data are not known: give --reference")
    config, _ = workdir.recall(directory)
    return image_sets.of_source(builders.data_config(config).open(), "train").take(num)


def _reads_images(path: Path, metrics: Sequence[str]) -> bool:
    """Whether metrics read the images of a file that has statistics beside them, as ADM's reference batches do."""
    is_read = any(part.reference in ("images", "pairs") for name in metrics for part in metric_of(name))
    return is_read and has_images(path)


def drawn(directory: str, num: int, sampling: SampleOptions, model: ModelOptions, *, as_float: bool) -> ImageSet:
    """Samples of a run or a published checkpoint."""
    step, pipe = loading.load_step(directory, **dataclasses.asdict(model))
    found = samples.of_pipeline(pipe, num, sampling, name=directory, as_float=as_float)
    return found.stating(**model.described(), checkpoint=step)


def written(
    evaluation: Evaluation,
    evaluator: Evaluator | None,
    directory: str | None,
    write: Written,
    other: tuple[str, Mapping[str, Any]] | None,
) -> Evaluation:
    """The evaluation with its warnings, when all is written that is asked for."""
    path = written_to(directory, write)
    warnings: list[str] = []
    if path is not None:
        if evaluation.bits is not None:
            kept.keep(path, BITS, evaluation.bits.entry, evaluation.bits.kept)
        if evaluation.numbers:
            warnings += kept.keep_numbers(path, evaluation.numbers)
        logger.info("wrote %s", path)
    if write.statistics is not None:
        evaluator.write_statistics(Path(write.statistics))
        logger.info("wrote %s", write.statistics)
    if other is not None:
        lines, found = kept.compared_with(evaluation.numbers, other[1], other[0])
        logger.info("%s", "\n".join(lines))
        warnings += found
    evaluation = dataclasses.replace(evaluation, warnings=tuple(warnings))
    if write.report is not None:
        report.write(write.report, reported(evaluation, evaluator, directory))
        logger.info("wrote %s", write.report)
    for line in warnings:
        logger.warning("%s", line)
    return evaluation


def reported(evaluation: Evaluation, evaluator: Evaluator | None, directory: str | None) -> Any:
    """What the report shows."""
    own = evaluation.images
    judged_by = None if evaluator is None else evaluator.reference
    return report.Report(
        title=directory or own.images.name,
        numbers=evaluation.numbers,
        images=None if own is None else own.shown,
        reference=judged_by.shown if isinstance(judged_by, Collected) else None,
        neighbours=[] if evaluator is None or own is None else evaluator.neighbours(own),
        curves=[] if directory is None else report.curves_of(directory),
        warnings=evaluation.warnings,
        tables={} if evaluation.bits is None else {"Bits a dimension": "\n".join(evaluation.bits.lines())},
    )
