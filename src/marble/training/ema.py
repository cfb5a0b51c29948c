"""The moving average of the parameters, which samples better than the parameters themselves."""

from typing import Any

import jax
import jax.numpy as jnp

from marble.typing import Array


def ema_update(ema_params: Any, params: Any, *, step: Array, ema_decay: float, ema_warmup: bool = True) -> Any:
    """decay ema_params + (1 - decay) params, the average after update number ``step``, counted from 0.

    Update 0 takes params whole. After it the decay is ema_decay or, with ema_warmup, min(ema_decay,
    (1 + step) / (10 + step)), so that a young average is one over the last tenth of the updates, and not mostly the
    parameters at the beginning. For ema_decay 0.9999 the two part until step 89,990. The initial values have no
    weight but through update 0, whose parameters are still near them, or the same where a learning rate warms up from
    0: of n updates that one has the weight ema_decay^(n - 1) without ema_warmup, as in the DDPM reference (Ho et al.
    2020), and with it at most 10! / n^9.
    """
    new_share = jnp.float32(1 - ema_decay)
    if ema_warmup:
        new_share = jnp.maximum(new_share, 9 / (10 + step).astype(jnp.float32))
    return towards(ema_params, params, jnp.where(step == 0, 1.0, new_share))


def towards(average: Any, params: Any, share: Array) -> Any:
    """(1 - share) average + share params, leaf by leaf, in the leaf's dtype; a share of 1 is params to the bit."""

    def moved(old: Array, new: Array) -> Array:
        return jnp.where(share == 1, new, old + share.astype(old.dtype) * (new - old))

    return jax.tree.map(moved, average, params)
