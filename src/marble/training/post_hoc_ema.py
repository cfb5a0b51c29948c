"""Averages of the parameters whose length is chosen after training (Karras et al. 2024, section 3 and appendix C).

While training, two averages are kept whose weights rise as a power of the step:

    average_gamma(t) = integral_0^t p_gamma,t(u) params(u) du,    p_gamma,t(u) = (gamma + 1) u^gamma / t^(gamma + 1)

A length is the standard deviation of p_gamma,t as a share of t, so that an average of length 0.1 looks back over about
the last tenth of the training, whenever that is. Every so many steps both are stored. Afterwards the average of any
length at any step is put together from what was stored, as the sum of stored averages whose weights p come nearest to
the wanted ones, in the mean square.

The numbers are float64 on the host; only ``power_share`` is part of the compiled step.
"""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marble import checkpoint
from marble.errors import InputError
from marble.parallel import agreement
from marble.typing import Array

logger = logging.getLogger(__name__)

LENGTHS = (0.05, 0.10)
"""Of the two averages that are kept (Karras et al. 2024)."""
FOLDER = "ema_snapshots"
"""In a workdir; a folder that holds checkpoints."""
MOST_ERROR = 0.1
"""How far the weights of what is put together may be from the wanted ones, as a share of their size."""


def length_of(gamma: float | np.ndarray) -> float | np.ndarray:
    """sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)), the relative standard deviation (Karras et al. 2024, eq. 3)."""
    return (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)


LONGEST = length_of(0.0)
"""The length of the average of all parameters alike."""


def gamma_of(length: float) -> float:
    """The inverse: the root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2 that is at least 0.

    InputError for a length that is not above 0 and at most 1 / sqrt(12).
    """
    if not 0 < length <= LONGEST:
        raise InputError(f"an average of length {length}: give a number above 0 and at most {LONGEST:.4f}")
    t = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - t, 12 - t]).real.max()))


def power_share(step: Array, gamma: float) -> Array:
    """1 - (1 - 1 / (step + 1))^(gamma + 1): how far update number ``step``, from 0, goes towards the parameters.

    (Karras et al. 2024, eq. 4.) Update 0 takes them whole.
    """
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / (step + 1).astype(jnp.float32)))


def inner_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> np.ndarray:
    """integral p_gamma_a,t_a(u) p_gamma_b,t_b(u) du, of numbers or arrays that broadcast (their appendix C.2)."""
    t_a, gamma_a, t_b, gamma_b = (np.asarray(x, np.float64) for x in (t_a, gamma_a, t_b, gamma_b))
    least, most = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    # The powers of ratios, for those of the steps themselves overflow.
    ratios = (least / t_a) ** gamma_a * (least / t_b) ** gamma_b
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * ratios / most


class Combination(NamedTuple):
    """A sum of stored averages."""

    weights: np.ndarray
    """[n 2]: of each stored step and each of LENGTHS."""
    error: float
    """|| sum of weights * p - wanted p || / || wanted p ||."""


def combination(steps: np.ndarray, length: float, step: int) -> Combination:
    """What comes nearest to the average of that length at step, of those stored at steps [n]: least squares."""
    t = np.repeat(np.asarray(steps, np.float64), len(LENGTHS))
    gamma = np.tile([gamma_of(stored) for stored in LENGTHS], len(steps))
    wanted = gamma_of(length)
    products = inner_product(t[:, None], gamma[:, None], t[None], gamma[None])
    aims = inner_product(t, gamma, step, wanted)
    weights = np.linalg.lstsq(products, aims)[0]
    size = inner_product(step, wanted, step, wanted)
    square = size - 2 * weights @ aims + weights @ products @ weights
    return Combination(weights.reshape(len(steps), -1), float(np.sqrt(max(square, 0.0) / size)))


def reconstruct(workdir: str, length: float, shapes: Any, *, step: int | None = None) -> tuple[int, Any]:
    """(step, parameters): the average of that length at step, by default the newest that was stored.

    shapes are those of the parameters. One stored step is read at a time. InputError where nothing is stored, or too
    little for this length: the message says which lengths there are.
    """
    folder = f"{workdir}/{FOLDER}"
    stored = sorted(checkpoint.saved_steps(folder))
    if not stored:
        raise InputError(
            f"{workdir} has no stored averages to make one of length {length} from: train with training.post_hoc_ema"
        )
    step = stored[-1] if step is None else step
    used = [s for s in stored if s <= step]
    if not used or step > stored[-1]:
        raise InputError(f"{workdir} has averages of steps {stored[0]} to {stored[-1]}, and none of step {step}")
    found = combination(used, length, step)
    if found.error > MOST_ERROR:
        lengths = [x for x in np.geomspace(0.005, LONGEST, 100) if combination(used, x, step).error <= MOST_ERROR]
        have = f"lengths from {min(lengths):.3f} to {max(lengths):.3f}" if lengths else "no length"
        raise InputError(f"an average of length {length} at step {step} of {workdir}: what is stored gives {have}")
    total = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    for at, weights in zip(used, found.weights, strict=True):
        averages = checkpoint.restore(folder, at, {"averages": (shapes,) * len(LENGTHS)})["averages"]
        for weight, average in zip(weights, averages, strict=True):
            total = jax.tree.map(lambda sum_, x, w=weight: sum_ + w * x, total, average)
    logger.info("averaged with length %g at step %d, from what was stored at %d steps", length, step, len(used))
    return step, jax.tree.map(lambda sum_, x: sum_.astype(x.dtype), total, shapes)


class Snapshots:
    """Stores the averages of a run every so many steps, and at its last one; touches nothing where there are none."""

    def __init__(self, workdir: str, step: int, every: int, num_steps: int) -> None:
        """For a run that goes on after step."""
        self._folder, self._step, self._every, self._last = f"{workdir}/{FOLDER}", step, every, num_steps
        self._writer: checkpoint.CheckpointWriter | None = None
        self._stored: set[int] = set()

    def is_due(self, step: int) -> bool:
        """Whether the averages of this step are to be stored, and are not."""
        return step > 0 and (step % self._every == 0 or step == self._last) and step not in self._opened()

    def save(self, step: int, averages: Any) -> None:
        """Begins to store them."""
        self._opened().add(step)
        self._writer.save(step, {"averages": averages})

    def wait(self) -> None:
        """Returns when the last are on the disk."""
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Waits too, and ends."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> set[int]:
        """The steps that are stored. What is there of later ones is of a run that was not kept, and is deleted."""
        if self._writer is None:
            agreement.from_first(lambda: checkpoint.discard_after(self._folder, self._step))
            self._stored = set(agreement.from_first(lambda: checkpoint.saved_steps(self._folder)))
            self._writer = checkpoint.CheckpointWriter(self._folder)
        return self._stored
