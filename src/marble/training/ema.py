"""The moving average of the parameters, which samples better than the parameters themselves."""

from typing import Any

import jax
import jax.numpy as jnp

from marble.typing import Array


def ema_update(ema_params: Any, params: Any, *, step: Array, ema_decay: float) -> Any:
    """ema_decay * ema_params + (1 - ema_decay) * params; the first update (step 0) takes params whole.

    So the random initial values are never part of the average (as in the DDPM reference).
    """
    decay = jnp.where(step == 0, 0.0, ema_decay)
    return jax.tree.map(lambda ema, new: ema + (1 - decay).astype(ema.dtype) * (new - ema), ema_params, params)
