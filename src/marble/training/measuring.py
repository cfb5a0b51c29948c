"""What is measured while a run trains: measured.jsonl, and the best checkpoints by it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from marble import strict_json
from marble.parallel import agreement
from marble.storage import replace_text
from marble.training import best
from marble.training.config import EvaluationConfig
from marble.training.logging import keep_lines_until

FILE = "measured.jsonl"


class Measured(NamedTuple):
    """One number of the samples of a step."""

    metric: str
    """What was asked for."""
    name: str
    """What it is called, in metrics.jsonl too."""
    value: float
    higher_is_better: bool
    protocol: Mapping[str, Any]
    """How it was measured, in plain values: numbers of other protocols do not compare."""
    entry: Mapping[str, Any]
    """All that measured.jsonl says of it."""


class Measurements:
    """The numbers of a run, and its best checkpoints."""

    def __init__(self, workdir: str, step: int, config: EvaluationConfig) -> None:
        """For a run that goes on after step: lines of later steps are dropped. InputError where a file is damaged."""
        self._workdir, self._path, self._config = workdir, epath.Path(workdir) / FILE, config
        agreement.from_first(lambda: self._check(step))

    def _check(self, step: int) -> None:
        if self._path.exists():
            keep_lines_until(self._path, step)
        if self._config.every:
            best.recall(self._workdir)

    def keep(self, step: int, found: Sequence[Measured]) -> bool:
        """Keeps what was measured of a saved step; whether its checkpoint is among the best. Done twice, it is as once.

        The first number of ``evaluation.best`` decides: that of the first network, and of pr the precision.
        """
        deciding = next((number for number in found if number.metric == self._config.best), None)
        is_kept = deciding is not None and best.keep(
            self._workdir,
            step,
            deciding.value,
            best.Judge(deciding.name, deciding.higher_is_better, dict(deciding.protocol)),
            num=self._config.keep_best,
        )
        before = keep_lines_until(self._path, step - 1)
        lines = [*before, *({"step": step, "metric": number.metric, **number.entry} for number in found)]
        replace_text(self._path, "".join(strict_json.dumps(line) + "\n" for line in lines))
        return is_kept
