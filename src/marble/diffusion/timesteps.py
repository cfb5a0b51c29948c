"""How the training loss draws t."""

import jax

from marble.typing import Array


def uniform(keys: Array, num_train_timesteps: int) -> Array:
    """t [b] ~ Uniform{0..T-1}, each from its own key of keys [b] (Ho et al. 2020, Algorithm 1)."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_train_timesteps))(keys)
