"""A run measured while it trains: samples of the same noise each time, judged by one reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from marble.evaluation.command import open_reference
from marble.evaluation.evaluator import EvaluationOptions, Evaluator, check_pair, higher_is_better
from marble.evaluation.image_sets import ImageSet, of_source
from marble.evaluation.samples import SampleOptions, of_pipeline
from marble.evaluation.stamp import Number, protocol
from marble.evaluation.statistics_files import Statistics
from marble.experiments import Experiment
from marble.parallel import DeviceMapping
from marble.training.config import EvaluationConfig
from marble.training.measuring import Measured

COMMAND = "marble train"


def measuring(
    experiment: Experiment, source: Any, pipe: Any, mapping: DeviceMapping, *, name: str
) -> Callable[[Any, int], list[Measured]]:
    """A function of a whole network's parameters and a step, for the section ``evaluation`` of a run called name.

    Networks are opened here, and InputError is raised for what can't be measured; the reference is read when it is
    first needed.
    """
    config = experiment.evaluation
    reference = reference_of(config, source, image_size=pipe.image.shape[0])
    options = EvaluationOptions(config.metrics, config.features, intervals=False)
    evaluator = Evaluator(options, reference, mapping=mapping)
    texts = experiment.objective.examples(config.num).get("text")
    sampling = SampleOptions(seed=experiment.seed, text=texts)

    def samples(params: Any, step: int) -> ImageSet:
        drawn = of_pipeline(pipe, config.num, sampling, name=name, as_float=not evaluator.rounds, params=params)
        return drawn.stating(params="ema_params", checkpoint=step)

    def measure(params: Any, step: int) -> list[Measured]:
        return [measured(number) for number in evaluator.numbers(samples(params, step), command=COMMAND)]

    check_pair(evaluator.plan, samples(None, 0), reference)
    return measure


def reference_of(config: EvaluationConfig, source: Any, *, image_size: int) -> ImageSet | Statistics | None:
    """What is judged by: the data's train split where nothing is named. A folder's images get the data's size."""
    if config.reference is None:
        return of_source(source, "train").take(config.reference_num)
    size = image_size if Path(config.reference).is_dir() else None
    return open_reference(None, config.reference, config.metrics, size, config.reference_num)


def measured(number: Number) -> Measured:
    """A number as the loop keeps it."""
    stamp = protocol(number.stamp.as_dict())
    return Measured(number.metric, number.name, number.value, higher_is_better(number.metric), stamp, number.as_dict())
