"""Gaussian data on the straight way from noise, x_t = (1 - t) x_0 + t noise, x_0 ~ N(MEAN, STD²): in closed form."""

import flax.linen as nn
import jax.numpy as jnp

from marble.models.embeddings import span_of

MEAN, STD = 0.2, 0.3


def _moments(t):
    t = t.reshape(-1, 1)
    return (1 - t) * MEAN, jnp.sqrt(((1 - t) * STD) ** 2 + t**2)


def flow_map(x, t, s):
    """Where the probability flow takes x [b d] from times t [b] to s [b]: each number keeps its quantile."""
    (mean_t, std_t), (mean_s, std_s) = _moments(t), _moments(s)
    return mean_s + (x - mean_t) * std_s / std_t


def velocity(x, t):
    """dx/dt of that flow, E[noise - x_0 | x_t] of x [b d] at t [b]."""
    mean, std = _moments(t)
    t = t.reshape(-1, 1)
    off = (x - mean) / std**2
    return t * off - (MEAN + (1 - t) * STD**2 * off)


class Known(nn.Module):
    """The velocity, exactly, and what is learnt to be added to it: a + b x, by t and, with reads_s, by t - s.

    The model of a diffusion objective; x_t [b 1 1 d], t [b] as rectified flow tells it. Fresh, it is the exact teacher.
    """

    reads_s: bool = False
    reads_x_0: bool = False

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        del train
        x = x_t.reshape(len(x_t), -1)
        t = jnp.asarray(t, jnp.float32)
        times = [t, span_of(t, context)] if self.reads_s else [t]
        told = jnp.stack([time / 1000 for time in times], axis=-1)
        h = nn.tanh(nn.Dense(64)(jnp.concatenate([told, jnp.sqrt(told + 0.01)], axis=-1)))
        h = nn.tanh(nn.Dense(64)(h))
        a, b = jnp.split(nn.Dense(2, kernel_init=nn.initializers.zeros)(h), 2, axis=-1)
        return (velocity(x, t / 1000) + a + b * x).reshape(x_t.shape)
