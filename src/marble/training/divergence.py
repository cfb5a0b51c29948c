"""When a training has diverged: what is said, and which checkpoints are still good."""

import math

from marble import checkpoint
from marble.errors import RunError
from marble.parallel import agreement
from marble.training.state import TrainState

SET_ASIDE = "checkpoints-diverged"
REMEDY = "Lower optimizer.learning_rate, lengthen optimizer.warmup_steps, or look at the data"


class Divergence:
    """Ends a run whose loss, gradient or held-out loss is not finite, and names the checkpoint to go on from.

    A checkpoint is good when every loss and gradient up to its step was finite, and its held-out loss, where there was
    one. Those that are not are moved out of the way, so that the same command goes on from one that is.
    """

    def __init__(self, workdir: str, checkpoints: checkpoint.CheckpointWriter) -> None:
        self._workdir, self._checkpoints = workdir, checkpoints

    def checked(self, state: TrainState) -> TrainState:
        """The state, or a RunError that names the step at which a loss or gradient was not finite."""
        if state.diverged:
            step = int(state.step)
            raise RunError(f"the loss or its gradient was not finite at step {step + 1}; {self._way_back(step)}")
        return state

    def check_held_out(self, step: int, loss: float) -> None:
        """RunError unless the held-out loss at this step is finite; the checkpoint of that step is then set aside."""
        if not math.isfinite(loss):
            raise RunError(f"the held-out loss is {loss} at step {step}; {self._way_back(step - 1)}")

    def _way_back(self, last_good: int) -> str:
        """What there is to go on from, when all was finite until step last_good."""
        self._checkpoints.wait()
        newest, aside = agreement.from_first(lambda: self._newest_good(last_good))
        moved = f" (those after it are in {SET_ASIDE})" if aside else ""
        if newest is None:
            return f"there is no checkpoint from before it{moved}: the same command begins anew. {REMEDY}"
        before = f"the newest checkpoint from before it is of step {newest}{moved}"
        return f"{before}: the same command goes on from there. {REMEDY}"

    def _newest_good(self, last_good: int) -> tuple[int | None, list[int]]:
        saved = checkpoint.saved_steps(self._workdir)
        bad = [step for step in saved if step > last_good]
        checkpoint.set_aside(self._workdir, bad, folder=SET_ASIDE)
        return next((step for step in saved if step <= last_good), None), bad
