"""The sections ``training`` and ``evaluation`` of a config: how long, how often, and what is kept."""

import dataclasses

from marble.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The section ``training`` of a config. Intervals count steps; 0 is never."""

    batch_size: int
    num_steps: int
    ema_decay: float
    ema_warmup: bool = True
    """Whether the moving average begins as one over few steps, see ``marble.training.ema``; not so in the reference."""
    post_hoc_ema: bool = False
    """Whether averages are stored from which those of any length can be made: see ``marble.training.post_hoc_ema``."""
    ema_snapshot_every: int = 1000
    """How often they are stored; at the end of the training in any case."""
    accumulate: int = 1
    """Micro-batches of a step: the same step, but for dropout's draws, in 1/accumulate of the memory."""
    steps_per_call: int = 1
    """Steps in one compiled call: more keep an accelerator busier."""
    log_every: int = 100
    eval_every: int = 0
    sample_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    keep_every_hours: float | None = None
    """Of the older ones, one of each so many hours stays too."""
    deterministic: bool = False
    """Bit-equal repetition on GPUs too, where the fastest operations do not give it."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "num_steps", "accumulate", "steps_per_call", "keep_checkpoints", "ema_snapshot_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"training.{name}={getattr(self, name)} must be at least 1")
        of_averages = ["ema_snapshot_every"] if self.post_hoc_ema else []
        for name in ("log_every", "eval_every", "sample_every", "checkpoint_every", *of_averages):
            every = getattr(self, name)
            if every < 0:
                raise InputError(f"training.{name}={every} must be 0, for never, or more")
            if every % self.steps_per_call:
                raise InputError(f"training.{name}={every} must be a multiple of steps_per_call={self.steps_per_call}")
        if self.keep_every_hours is not None and self.keep_every_hours <= 0:
            raise InputError(f"training.keep_every_hours={self.keep_every_hours} must be above 0, or None for none")
        if not 0 <= self.ema_decay <= 1:
            raise InputError(f"training.ema_decay={self.ema_decay} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The section ``evaluation`` of a config: how samples are measured while a run trains, see ``marble evaluate``."""

    every: int = 0
    """Steps; 0 is never."""
    metrics: tuple[str, ...] = ("fd",)
    features: tuple[str, ...] = ("effnet",)
    """The networks, as ``marble evaluate --features`` takes them."""
    num: int = 1000
    """Samples, of the same noise each time."""
    reference: str | None = None
    """A folder, an npz or the name of a data set; None is the train split of the run's data."""
    reference_num: int | None = None
    """So many of its images, from all over it; None is all."""
    best: str | None = "fd"
    """The metric by which checkpoints are kept in ``best``; None is by none."""
    keep_best: int = 1
    """How many of them."""

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("num", 2), ("reference_num", 2), ("keep_best", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"evaluation.{name}={value} must be at least {least}")
        if self.every and not self.metrics:
            raise InputError("evaluation.metrics is empty: name what to measure, or set evaluation.every=0")
        if self.every and self.best is not None and self.best not in self.metrics:
            known = " or ".join(map(repr, self.metrics))
            raise InputError(f"evaluation.best={self.best!r} is not measured: set it to {known}, or to None")
