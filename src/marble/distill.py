"""Runs that make a model of few steps of a trained one: the configs of its students, made from its own.

A student is trained on its teacher's data and begins as its teacher; see ``marble.objectives.distilled``.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from marble.builders import complete, renamed
from marble.errors import InputError
from marble.loading import recalled, split_step

logger = logging.getLogger(__name__)

METHODS = ("progressive", "consistency", "mean_flow")
"""The objectives that make one; the first is the default."""
TEACHERS = ("diffusion", "progressive")
"""The objectives whose models say where the probability flow goes."""
SAMPLERS = {"progressive": "ddim", "consistency": "consistency", "mean_flow": "ddim"}
TRAINS_FOR = {"progressive": 4, "consistency": 1, "mean_flow": 1}
"""The teacher's own steps of training over the student's; of progressive distillation those of each run."""
SLOW_TIMES = 10.0
"""The ``diffusion.time_scale`` of a mean flow, which learns from its derivative by the time; of one that asks a teacher
it is the teacher's."""
RATE_SHARE = 0.5
"""The student's learning rate over its teacher's."""


class Run(NamedTuple):
    """One training: its complete config, and its workdir."""

    config: ml_collections.ConfigDict
    workdir: str


def runs(
    teacher: str,
    workdir: str,
    *,
    steps: int,
    method: str = METHODS[0],
    teacher_steps: int = 64,
    teaches: bool | None = None,
    guidance_scale: float = 1.0,
) -> list[Run]:
    """The trainings, in their order, that end with a model in workdir which samples in so many steps.

    teacher is ``WORKDIR`` or ``WORKDIR:STEP`` of a run. Progressive distillation halves the teacher's teacher_steps
    again and again, each time in a run of its own, in ``WORKDIR/rounds/N``; the others are one run. teaches says
    whether the teacher is asked, or is no more than a beginning; by default it is asked but for mean_flow.
    guidance_scale is how it is guided. InputError for a teacher or numbers that don't go together.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(METHODS)}")
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    config, _ = recalled(split_step(teacher)[0])
    if config["objective"] not in TEACHERS:
        raise InputError(
            f"{teacher} is a run of objective={config['objective']!r}, which teaches nobody: a teacher's is diffusion"
        )
    halvings = _halvings(teacher_steps, steps) if method == "progressive" else [steps]
    made, last = [], teacher
    for count in halvings:
        words = _words(method, count, teaches, guidance_scale if last == teacher else 1.0)
        at = workdir if count == steps else f"{workdir.rstrip('/')}/rounds/{count}"
        made.append(Run(student(config, teacher=last, method=method, steps=count, words=words), at))
        last = at
    return made


def _halvings(teacher_steps: int, steps: int) -> list[int]:
    """teacher_steps / 2, / 4, ... steps; InputError where that is never reached."""
    counts = [teacher_steps]
    while counts[-1] % 2 == 0 and counts[-1] > steps:
        counts.append(counts[-1] // 2)
    if counts[-1] != steps or len(counts) == 1:
        raise InputError(
            f"teacher_steps={teacher_steps} halved again and again is never steps={steps}: give {steps} times 2, 4, 8 "
            "or the like"
        )
    return counts[1:]


def _words(method: str, steps: int, teaches: bool | None, guidance_scale: float) -> dict[str, Any]:
    """The section ``distillation``."""
    words: dict[str, Any] = {"guidance_scale": guidance_scale}
    if method == "progressive":
        if teaches is False:
            raise InputError("progressive distillation is nothing without a teacher: leave teaches out")
        return {**words, "num_steps": steps}
    return words if teaches is None else {**words, "teacher": teaches}


def student(
    config: Mapping[str, Any], *, teacher: str, method: str, steps: int, words: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """The complete config of a student, of its teacher's."""
    config = {key: dict(value) if hasattr(value, "keys") else value for key, value in config.items()}
    config = renamed(config, "sampling", "sampler", SAMPLERS[method])
    num_steps = max(1, config["training"]["num_steps"] // TRAINS_FOR[method])
    config |= {
        "objective": method,
        "init_from": teacher,
        "init_from_partial": method == "mean_flow",  # its network is told more
        "distillation": dict(words),
        "lora": {},
    }
    config["sampling"] |= {"num_steps": steps, "timestep_spacing": "trailing", "guidance_scale": 1.0}
    config["training"] |= {"num_steps": num_steps}
    config["optimizer"] |= {
        "learning_rate": RATE_SHARE * config["optimizer"]["learning_rate"],
        "warmup_steps": min(config["optimizer"]["warmup_steps"], num_steps // 10),
        "decay_steps": num_steps,
    }
    if method == "progressive":
        config["diffusion"] = {**config["diffusion"], "weighting": "truncated_snr"}
    if method == "mean_flow" and not words.get("teacher"):
        config["diffusion"] = {**config["diffusion"], "time_scale": SLOW_TIMES}
    return complete(config)
