"""The optimiser: an optax chain."""

import math
from collections.abc import Callable

import optax

from marble.errors import InputError
from marble.typing import Array

FINAL_SHARE = 0.01
"""What a decay leaves of the learning rate. Not 0: a run that goes on for more steps than were planned still learns."""


def warmup_decay(
    learning_rate: float, warmup_steps: int = 0, decay_steps: int | None = None
) -> Callable[[Array], Array]:
    """learning_rate * min(step / warmup_steps, 1) (the DDPM reference's warm-up), then constant.

    With decay_steps it falls from the end of the warm-up along half a cosine, to a hundredth of it at step
    decay_steps, and stays there.
    """
    if not 0 < learning_rate < math.inf or warmup_steps < 0:
        raise InputError(
            f"optimizer.learning_rate={learning_rate} must be positive, and warmup_steps={warmup_steps} not negative"
        )
    if decay_steps is None:
        after = optax.constant_schedule(learning_rate)
    elif decay_steps > warmup_steps:
        after = optax.cosine_decay_schedule(learning_rate, decay_steps - warmup_steps, alpha=FINAL_SHARE)
    else:
        raise InputError(f"optimizer.decay_steps={decay_steps} must be above warmup_steps={warmup_steps}")
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


def adam(
    learning_rate_fn: Callable[[Array], Array],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is clipped to clip_norm (Ho et al. 2020, appendix B)."""
    if not (0 <= b1 < 1 and 0 <= b2 < 1 and eps > 0 and clip_norm > 0):
        raise InputError(
            f"optimizer.b1={b1} and b2={b2} must be from 0 to below 1, eps={eps} and clip_norm={clip_norm} positive"
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate_fn, b1=b1, b2=b2, eps=eps))
