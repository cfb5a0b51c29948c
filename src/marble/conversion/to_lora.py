"""The adapters of a run, as the file that diffusers and others read."""

from pathlib import Path
from typing import Any

import jax

from marble.conversion.writing import Plan, Progress
from marble.convert.adapters import table_of, written
from marble.convert.lora import FILE
from marble.errors import InputError
from marble.loading import load_trained


def plan_of(workdir: str, *, step: int | None, dtype: Any) -> Plan:
    """What is written of a run that trains adapters alone; InputError for another one."""
    _, experiment, adapters = load_trained(workdir, step=step)
    objective = experiment.objective
    if not objective.adapts:
        raise InputError(f"{workdir} trains its whole network, and has no adapters: leave --to lora out")
    table_of(objective.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(adapters))

    def write(folder: Path, bar: Progress) -> None:
        bar.part("adapters")
        written(objective.adapters, adapters, objective.model, folder / FILE, dtype=dtype)
        bar.add(size)

    return Plan("adapters for diffusers", size, write)
