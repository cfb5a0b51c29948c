"""A run that begins with the averaged parameters of another one: ``config.init_from``."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from marble import loading
from marble.errors import InputError
from marble.parallel import DeviceMapping, agreement, fetch
from marble.schema import nearest
from marble.training.state import TrainState

logger = logging.getLogger(__name__)

MOST_LISTED = 5
"""Differences that an error or the log names; it counts the others."""


def with_parameters_of(state: TrainState, source: str, mapping: DeviceMapping, *, partial: bool) -> TrainState:
    """The state before the first step, with the averaged parameters of a run, ``WORKDIR`` or ``WORKDIR:STEP``.

    Parameters and averages begin with them; all else of the state stays. InputError where they are not this model's,
    with what differs; with partial that keeps its initial values. Of several processes the first reads.
    """
    host, found = fetch(state), None

    def read() -> None:
        nonlocal found
        workdir, asked = loading.split_step(source)
        step, _, saved = loading.load_params(workdir, step=asked)
        found = merged(host.params, saved, partial=partial, name=source)
        logger.info("beginning with the averaged parameters of step %d of %s", step, workdir)

    agreement.from_first(read)
    params = agreement.arrays_from_first(found, host.params)
    averages = state.power_averages and (params,) * len(state.power_averages)
    return mapping.place(host.replace(params=params, ema_params=params, power_averages=averages))


def merged(initial: Any, source: Any, *, partial: bool, name: str) -> Any:
    """initial with the leaves of source, by their paths; see ``with_parameters_of``. name is the source's."""
    theirs = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(source)}
    ours, tree = jax.tree_util.tree_flatten_with_path(initial)
    ours = {_path(path): leaf for path, leaf in ours}
    fits = {path: path in theirs and theirs[path].shape == leaf.shape for path, leaf in ours.items()}
    lines = [_difference(path, ours, theirs) for path, is_fit in fits.items() if not is_fit]
    lines += [f"{path} is not in this model" for path in theirs if path not in ours]
    more = f", and {len(lines) - MOST_LISTED} more" if len(lines) > MOST_LISTED else ""
    listed = "; ".join(lines[:MOST_LISTED]) + more
    if lines and not partial:
        raise InputError(
            f"init_from={name} has the parameters of another model: {listed}; set init_from_partial=True to begin with "
            "those that fit"
        )
    if not any(fits.values()):
        raise InputError(f"init_from={name} has no parameter that fits this model: {listed}")
    if lines:
        taken = f"{sum(fits.values())} of {len(fits)} arrays are taken from {name}"
        logger.warning("%s, the others begin at their initial values: %s", taken, listed)
    return tree.unflatten([np.asarray(theirs[path], leaf.dtype) if fits[path] else leaf for path, leaf in ours.items()])


def _difference(path: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    shape = list(ours[path].shape)
    if path in theirs:
        return f"{path} is {list(theirs[path].shape)} there and {shape} here"
    return f"{path} {shape} is not there{nearest(path, theirs).rstrip('?') if theirs else ''}"


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
