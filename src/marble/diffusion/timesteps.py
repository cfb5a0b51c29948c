"""How the training loss draws t: uniformly, evenly over a batch, or more often where the loss is large.

Time is 0..T-1, or in continuous time, where T is None, the interval [0, 1). A draw that is not uniform comes with the
weights 1 / (T p_t), which leave the expected loss as it was.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.typing import Array

HISTORY = 10
"""How many losses are remembered for each t (Nichol & Dhariwal 2021, section 3.3)."""
UNIFORM_SHARE = 1e-3
"""The share of importance sampling's draws that stays uniform, as in Nichol & Dhariwal's code."""


def uniform(keys: Array, num_train_timesteps: int | None) -> Array:
    """t [b] ~ Uniform{0..T-1} or, for T None, Uniform[0, 1), each from its own key of keys [b] (Ho et al., Alg. 1)."""
    if num_train_timesteps is None:
        return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_train_timesteps, jnp.int32))(keys)


def low_discrepancy(key: Array, index: Array, batch_size: int, num_train_timesteps: int | None) -> Array:
    """frac(u + i/B), and T times that rounded down: one u ~ Uniform[0, 1) for the batch (Kingma et al. 2021, app. I.1).

    index [b] are the images' positions i in the global batch of B = batch_size, key the batch's. Each t is uniform,
    and together they are spread evenly, which lowers the variance of the batch's loss.
    """
    start = jax.random.uniform(key, dtype=jnp.float32)
    place = jnp.mod(start + index.astype(start.dtype) / batch_size, 1.0)
    if num_train_timesteps is None:
        return place
    return jnp.minimum((place * num_train_timesteps).astype(jnp.int32), num_train_timesteps - 1)


class LossHistory(NamedTuple):
    """The last losses at each t, a ring of HISTORY a row: what importance sampling remembers."""

    losses: Array
    """[T HISTORY]."""
    counts: Array
    """[T] int32: how many there have been."""

    @classmethod
    def empty(cls, num_train_timesteps: int) -> "LossHistory":
        """No losses."""
        losses = jnp.zeros((num_train_timesteps, HISTORY), jnp.float32)
        return cls(losses, jnp.zeros(num_train_timesteps, jnp.int32))

    def probabilities(self) -> Array:
        """p_t [T] ~ sqrt(E[L_t²]), mixed with a little of the uniform (Nichol & Dhariwal 2021, eq. 18).

        Uniform until every t has HISTORY losses, and where all of them are 0.
        """
        total = len(self.counts)
        second_moment = jnp.sqrt(jnp.square(self.losses).mean(axis=1))
        is_known = (self.counts >= HISTORY).all() & (second_moment.sum() > 0)
        share = jnp.where(is_known, second_moment / jnp.where(is_known, second_moment.sum(), 1.0), 1 / total)
        return (1 - UNIFORM_SHARE) * share + UNIFORM_SHARE / total

    def updated(self, t: Array, losses: Array) -> "LossHistory":
        """With the losses [b] at t [b], the oldest of each t making room; of one t, in the batch's order."""
        same = t[:, None] == t[None, :]
        earlier, total = jnp.tril(same, -1).sum(axis=1), same.sum(axis=1)
        slot = (self.counts[t] + earlier) % HISTORY
        slot = jnp.where(earlier >= total - HISTORY, slot, HISTORY)  # dropped: of two writes to one place none need win
        return LossHistory(
            self.losses.at[t, slot].set(losses.astype(self.losses.dtype), mode="drop"), self.counts.at[t].add(1)
        )


def importance(keys: Array, history: LossHistory) -> tuple[Array, Array]:
    """(t [b] ~ p_t, 1 / (T p_t) [b]): drawn by second moment of the loss, and the weights that make up for it.

    Each from its own key of keys [b].
    """
    probabilities = history.probabilities()
    ends = jnp.cumsum(probabilities)
    place = jax.vmap(lambda key: jax.random.uniform(key, dtype=ends.dtype))(keys) * ends[-1]
    t = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(ends) - 1).astype(jnp.int32)
    return t, 1 / (len(ends) * probabilities[t])
