"""The optimiser: an optax chain."""

from collections.abc import Callable

import optax

from marble.typing import Array


def warmup_constant(learning_rate: float, warmup_steps: int = 0) -> Callable[[Array], Array]:
    """learning_rate * min(step / warmup_steps, 1) (the DDPM reference's warm-up)."""
    return (
        optax.linear_schedule(0.0, learning_rate, warmup_steps)
        if warmup_steps
        else optax.constant_schedule(learning_rate)
    )


def adam(
    learning_rate_fn: Callable[[Array], Array],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is clipped to clip_norm (Ho et al. 2020, appendix B)."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate_fn, b1=b1, b2=b2, eps=eps))
