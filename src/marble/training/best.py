"""The checkpoints of a run that were measured to be the best, kept beside the newest.

``WORKDIR/best/STEP`` is a copy of that checkpoint, of hard links where the disk has them; ``best/best.json`` says which
copies count, with their values. It is written when the copy of a step is whole, and before that of a worse one is
deleted: what it names is there, whenever a run is killed.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from marble import checkpoint, strict_json
from marble.errors import InputError, RestartError, RunError
from marble.storage import listed, may_pass, move_folder, replace_text, store_errors

logger = logging.getLogger(__name__)

FOLDER, FILE = "best", "best.json"


class Judge(NamedTuple):
    """What the values of a run's checkpoints are."""

    name: str
    higher_is_better: bool
    protocol: Mapping[str, Any]
    """How they are measured. Values of another protocol do not compare."""


@dataclasses.dataclass(frozen=True)
class Best:
    """What best.json says."""

    judge: Judge
    values: Mapping[int, float]
    """By step, of the checkpoints that are kept."""

    @property
    def ranked(self) -> list[int]:
        """The steps, the best first; of equal ones the earlier."""
        sign = -1 if self.judge.higher_is_better else 1
        return sorted(self.values, key=lambda step: (sign * self.values[step], step))


def folder_of(workdir: str) -> epath.Path:
    """Where the best checkpoints of a workdir are."""
    return checkpoint.directory_of(workdir, FOLDER)


def recall(workdir: str) -> Best | None:
    """What best.json says; None where there is none. InputError where it is damaged."""
    path = folder_of(workdir) / FILE
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text())
        judge = Judge(str(kept["name"]), bool(kept["higher_is_better"]), dict(kept["protocol"]))
        return Best(judge, {int(step): float(value) for step, value in kept["values"].items()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): move {path.parent} away") from error


def keep(workdir: str, step: int, value: float, judge: Judge, *, num: int) -> bool:
    """Keeps the checkpoint of step where it is among the num best by its value; whether it is.

    What was kept by another judge is moved to a folder beside it. A value that is not finite is never among the best.
    A step that was measured before is measured anew: a run went back, and came by again. RunError for a full disk.
    """
    try:
        return _keep(workdir, step, value, Judge(*json.loads(json.dumps(judge))), num)
    except (OSError, *store_errors()) as error:
        kind = RestartError if may_pass(error) else RunError
        raise kind(
            f"the checkpoint of step {step} could not be kept in {folder_of(workdir)} ({error}); the others are "
            "untouched: make room or mend the disk, then run the same command again"
        ) from error


def _keep(workdir: str, step: int, value: float, judge: Judge, num: int) -> bool:
    before = recall(workdir)
    if before is not None and before.judge != judge:
        _set_aside(workdir, before.judge)
        before = None
    values = {} if before is None else dict(before.values)
    if values.pop(step, None) is not None:
        _settle(workdir, Best(judge, values))
    if math.isfinite(value):
        values[step] = value
    ranked = Best(judge, values).ranked[:num]
    if step in ranked:
        _delete_unlisted(workdir, [other for other in values if other != step])  # what a kill left of this step
        checkpoint.copy_step(workdir, step, folder_of(workdir))
    _settle(workdir, Best(judge, {other: values[other] for other in ranked}))
    return step in ranked


def _settle(workdir: str, best: Best) -> None:
    """Writes best.json, then deletes what it does not name."""
    folder = folder_of(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    values = {str(step): best.values[step] for step in best.ranked}
    replace_text(folder / FILE, strict_json.dumps({**best.judge._asdict(), "values": values}, indent=1) + "\n")
    _delete_unlisted(workdir, best.values)


def _delete_unlisted(workdir: str, steps: Any) -> None:
    for path in listed(folder_of(workdir)):
        if path.name.split(".")[0].isdecimal() and path.name not in map(str, steps):
            path.rmtree()


def _set_aside(workdir: str, judge: Judge) -> None:
    folder = folder_of(workdir)
    taken = {path.name for path in listed(folder.parent)}
    aside = next(name for i in range(len(taken) + 1) if (name := f"{FOLDER}-{i}") not in taken)
    logger.warning("what is measured has changed: the best checkpoints by %s before are in %s", judge.name, aside)
    move_folder(folder, folder.parent / aside)


def restore_best(workdir: str, target: Any) -> tuple[int, Any]:
    """(step, state) of the best checkpoint that is whole; target is as for ``checkpoint.restore_newest``.

    Each damaged one is logged. InputError where none was kept, or it is another model's; RunError where none is whole.
    """
    best = recall(workdir)
    if best is None or not best.values:
        raise InputError(f"{workdir} has no best checkpoint: train with evaluation.every, or take the newest")
    for step in best.ranked:
        try:
            if step in checkpoint.saved_steps(workdir, FOLDER):
                return step, checkpoint.restore(workdir, step, target, folder=FOLDER)
            fault = f"the checkpoint {folder_of(workdir) / str(step)} is gone"
        except (checkpoint.DamagedCheckpointError, InputError) as error:
            if isinstance(error, InputError) and step in checkpoint.saved_steps(workdir, FOLDER):
                raise
            fault = str(error)
        if recall(workdir) != best:  # a run that trains there has kept a better one, and deleted this
            return restore_best(workdir, target)
        logger.error("%s; going on to the next best", fault)
    raise RunError(f"none of the checkpoints in {folder_of(workdir)} is whole: {best.ranked}")
