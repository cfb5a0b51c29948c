"""Checkpoints: orbax saves and restores; a checksum a leaf, in the same atomic save, tells whether they are whole.

A workdir holds ``checkpoints/STEP/`` with the items ``state`` (the pytree) and ``checksums``. Restoring takes the
newest step that is whole; a damaged one is named aloud and passed over. A step without checksums, which other
programs may have made, is restored and said to be unverified.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import orbax.checkpoint.checkpoint_managers as preservation
from etils import epath

from marble.errors import InputError, RestartError, RunError
from marble.parallel import fetch
from marble.parallel.agreement import is_first
from marble.storage import copy_folder, is_remote, listed, may_pass, move_folder, store_errors

logger = logging.getLogger(__name__)

STATE, CHECKSUMS = "state", "checksums"
FOLDER = "checkpoints"
"""Of a workdir; another folder of copies is named where it is meant."""
COMMITTED = "commit_success.txt"
"""The file that ends a save in a bucket."""


UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What orbax, tensorstore and the parser of JSON raise for files that are cut, changed, gone or not to be had."""
NOT_ITS_FAULT = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
"""The first word of tensorstore's errors (ValueErrors all) that say nothing about the file."""
MOST_DELETED = 10
"""After so many steps that were deleted while they were read, a reader gives up: saving is faster than reading."""
DELETION_SECONDS = 1.0
"""How long the deletion of one step may take."""


class DamagedCheckpointError(RunError):
    """A checkpoint whose content is not what was saved."""


class CheckpointWriter:
    """Saves the states of one run in the background. ``wait``, or leaving the context, waits for the last one."""

    def __init__(self, workdir: str, *, keep: int | None = None, keep_every_hours: float | None = None):
        """keep: how many of the newest checkpoints stay; None keeps all.

        keep_every_hours: of the older ones, one of each so many hours stays too. Of several processes the first writes.
        """
        self.latest: int | None = None
        """The step whose save was begun last."""
        policies = [] if keep is None else [preservation.LatestN(keep)]
        if policies and keep_every_hours is not None:
            policies.append(preservation.EveryNSeconds(round(3600 * keep_every_hours)))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation.AnyPreservationPolicy(policies) if policies else None,
            multiprocessing_options=_alone(),
            create=False,  # which it would not do for some of the processes
        )
        self._manager = None
        if is_first():
            directory_of(workdir).mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(directory_of(workdir), options=options)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save, and ends."""
        if self._manager is not None:
            self._guarded(self._manager.close)

    def save(self, step: int, state: Any) -> None:
        """Begins to save state as step. RunError when this or the save before failed; what was complete stays.

        All processes call it, for each may hold a part of the state.
        """
        if self._manager is None:
            fetch([leaf for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated])  # the first gathers these
            self.latest = step
            return
        arrays = fetch(state)  # copied first: the caller may donate the state to its next step
        items = {STATE: ocp.args.PyTreeSave(arrays), CHECKSUMS: ocp.args.JsonSave(_sealed(_describe(arrays)))}
        self.wait()
        self.latest = step
        self._guarded(lambda: self._manager.save(step, args=ocp.args.Composite(**items), force=True))

    def wait(self) -> None:
        """Returns when the last save is on the disk. RunError when it failed."""
        if self._manager is not None:
            self._guarded(self._manager.wait_until_finished)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        # The first three are what orbax and tensorstore raise for a failing disk.
        except (OSError, ValueError, RuntimeError, *store_errors()) as error:
            kind, remedy = RunError, "make room or mend the disk, then run the same command again"
            if may_pass(error):
                kind, remedy = RestartError, "run the same command again"
            raise kind(
                f"the checkpoint of step {self.latest} could not be saved ({_first_line(error)}); "
                f"the ones before it are untouched: {remedy}"
            ) from error


def directory_of(workdir: str, folder: str = FOLDER) -> epath.Path:
    """Where the checkpoints of a workdir are; absolute, as orbax needs it."""
    path = epath.Path(workdir)
    return (path if is_remote(workdir) else path.absolute()) / folder


def saved_steps(workdir: str, folder: str = FOLDER) -> list[int]:
    """The steps that were saved, newest first. A save that was interrupted is not among them."""
    paths = listed(directory_of(workdir, folder))
    return sorted((int(path.name) for path in paths if path.name.isdecimal() and _is_saved(path)), reverse=True)


def restore_newest(workdir: str, target: Mapping[str, Any]) -> tuple[int, Mapping[str, Any], list[int]]:
    """(step, state, damaged): the newest state that is whole, and the newer steps that are not.

    target is a pytree of arrays or ShapeDtypeStructs: a whole state, or a mapping of some of its fields, in which case
    only these are read and checked. Leaves come back as NumPy arrays. Each damaged step is logged. A step that a run
    deletes while it is read, as one does that trains there, is none of them: there is a newer one by then. Raises
    InputError when there is no checkpoint or it is another model's, RunError when none is whole.
    """
    directory, damaged, deleted = directory_of(workdir), [], []
    while len(deleted) < MOST_DELETED:
        # A run can save a step and delete the one before it between the listing and a look at what is listed.
        listing = saved_steps(workdir) or saved_steps(workdir)
        step = next((step for step in listing if step not in damaged), None)
        if step is None:
            break
        try:
            return step, _restore(directory / str(step), target), [other for other in damaged if other > step]
        except DamagedCheckpointError as error:
            if not _is_saved(directory / str(step)) or saved_steps(workdir)[:1] > listing[:1]:
                deleted.append(step)
                continue
            logger.error("%s; going back to the checkpoint before it", error)
            damaged.append(step)
    if damaged:
        raise RunError(f"none of the checkpoints in {directory} is whole: {damaged}")
    if deleted:
        raise RunError(
            f"the checkpoints {deleted} in {directory} were deleted while they were read: wait for the run that trains "
            "there, or raise its training.keep_checkpoints"
        )
    raise InputError(f"no checkpoint in {directory}")


def restore(workdir: str, step: int, target: Any, *, folder: str = FOLDER) -> Any:
    """The state of one step, verified; see ``restore_newest``. DamagedCheckpointError when it is not whole."""
    path = directory_of(workdir, folder) / str(step)
    if not _is_saved(path):
        raise InputError(f"no checkpoint of step {step} in {path.parent}; there are: {_named_steps(workdir, folder)}")
    try:
        return _restore(path, target)
    except DamagedCheckpointError as error:
        if not _is_deleted_soon(path):
            raise
        raise InputError(
            f"the checkpoint of step {step} in {path.parent} was deleted while it was read; there are: "
            f"{_named_steps(workdir, folder)}"
        ) from error


def _restore(path: epath.Path, target: Any) -> Any:
    expected = _read_checksums(path)
    if expected is not None:
        _check_same_model(path, expected, _shapes(target), is_whole=not isinstance(target, Mapping))
    state = _read_state(path, target)
    if expected is None:
        logger.warning("the checkpoint %s has no checksums: it can't be verified", path)
        return state
    for name, found in _describe(state).items():
        if found != expected[name]:
            raise DamagedCheckpointError(f"the checkpoint {path} is damaged: {name} is not what was saved")
    return state


def discard_after(workdir: str, step: int) -> None:
    """Deletes the checkpoints of later steps."""
    for later in saved_steps(workdir):
        if later > step:
            (directory_of(workdir) / str(later)).rmtree()


def copy_step(workdir: str, step: int, folder: epath.Path) -> None:
    """Copies the checkpoint of a step to a folder, where it is seen when it is whole. OSError where it can't be."""
    copy_folder(directory_of(workdir) / str(step), folder / str(step), last=COMMITTED)


def _named_steps(workdir: str, folder: str) -> str:
    return ", ".join(map(str, saved_steps(workdir, folder))) or "none"


def _is_deleted_soon(path: epath.Path) -> bool:
    """Whether a step that can't be read is gone a second later: then it was being deleted, file by file."""
    deadline = time.monotonic() + DELETION_SECONDS
    while _is_saved(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def set_aside(workdir: str, steps: list[int], *, folder: str = "checkpoints-damaged") -> None:
    """Moves checkpoints that are no good to a folder beside the others, so that their steps can be saved again."""
    aside = directory_of(workdir).parent / folder
    for step in steps:
        aside.mkdir(parents=True, exist_ok=True)
        copies = sum(path.name.split(".")[0] == str(step) for path in listed(aside))
        # The state first: cut off between, no state is left without its checksums.
        move_folder(directory_of(workdir) / str(step), aside / f"{step}.{copies}", first=[STATE])


def _is_saved(path: epath.Path) -> bool:
    """Whether the save of a step was completed: in a bucket, where it can't be renamed at its end, it says so."""
    return ocp.utils.is_checkpoint_finalized(path) if is_remote(str(path)) else path.is_dir()


def _read_checksums(path: epath.Path) -> dict[str, list] | None:
    if not (path / CHECKSUMS).exists():
        return None
    try:
        sealed = json.loads((path / CHECKSUMS / "metadata").read_text())
        is_whole = sealed == _sealed(sealed["leaves"])
    except UNREADABLE as error:
        raise _fault(path, error) from error
    if not is_whole:
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: its checksums are not what was saved")
    return sealed["leaves"]


def _read_state(path: epath.Path, target: Any) -> Any:
    fields = target if isinstance(target, Mapping) else vars(target)
    # A field that holds nothing may be newer than the checkpoint.
    wanted = {name: field for name, field in fields.items() if jax.tree.leaves(field)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    try:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
        with _quiet_failure(), ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
            found = reader.restore(path / STATE, args=args)
    except UNREADABLE as error:
        raise _fault(path, error) from error
    if not all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found)):
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: not all of its arrays are found")
    return found if isinstance(target, Mapping) else dataclasses.replace(target, **found)


def _alone() -> ocp.options.MultiprocessingOptions:
    """What this process does with files, it does without waiting for others."""
    mine = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process{mine}"
    )


def _fault(path: epath.Path, error: Exception) -> RunError:
    """What to raise: the checkpoint is damaged, or it can't be read for a reason that is not its own."""
    is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    if str(error).startswith(NOT_ITS_FAULT) or (isinstance(error, OSError) and not is_gone):
        kind = RestartError if may_pass(error) else RunError
        return kind(f"the checkpoint {path} can't be read now ({_first_line(error)}): mend that, and run it again")
    return DamagedCheckpointError(f"the checkpoint {path} is damaged: {_first_line(error)}")


def _check_same_model(
    path: epath.Path, saved: Mapping[str, list], wanted: Mapping[str, list], *, is_whole: bool
) -> None:
    """InputError, naming a leaf, unless what is wanted is there; of a whole state, and nothing else is."""
    for name in [*wanted, *(saved if is_whole else ())]:
        there, here = (leaves[name][:2] if name in leaves else None for leaves in (saved, wanted))
        if there != here:
            was, will = ("absent" if shape is None else f"{shape[1]}{shape[0]}" for shape in (there, here))
            raise InputError(
                f"the checkpoint {path} is of another model: {name} is {was} there, but {will} in this config; use the "
                "config it was trained with"
            )


def _shapes(tree: Any) -> dict[str, list]:
    """Each leaf's [shape, dtype] by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): [list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in leaves}


def _describe(tree: Any) -> dict[str, list]:
    """Each leaf's [shape, dtype, crc32] by its path."""
    crcs = (zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)) for leaf in jax.tree.leaves(tree))
    return {name: [*shape, crc] for (name, shape), crc in zip(_shapes(tree).items(), crcs, strict=True)}


def _sealed(leaves: dict[str, list]) -> dict[str, Any]:
    """The checksums with a checksum of their own."""
    return {"leaves": leaves, "crc32": zlib.crc32(json.dumps(leaves, sort_keys=True).encode())}


def _first_line(error: Exception) -> str:
    message = (str(error).splitlines() or [""])[0].partition(" [tensorstore_spec=")[0]
    return f"{type(error).__name__}: {message[:200]}"


@contextlib.contextmanager
def _quiet_failure() -> Iterator[None]:
    """Hides the dozens of tracebacks, from threads, of the reads that a failed restore abandons; it raises one."""
    asyncio_logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
    disabled = asyncio_logger.disabled
    sys.unraisablehook, asyncio_logger.disabled = lambda _: None, True
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed:
            time.sleep(0.2)
            gc.collect()  # an abandoned read complains when it is collected
        sys.unraisablehook, asyncio_logger.disabled = hook, disabled
