"""Self-attention over the pixels of an image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.layers import GroupNorm, dense, wide
from marble.typing import Array


class SelfAttention(nn.Module):
    """x + proj(softmax(q k^T / sqrt(C_head)) v), each pixel attending to every pixel (Ho et al. 2020).

    x [b h w c], the same shape out; q, k and v are dense layers of the normalised x, ``num_heads`` heads of
    C_head = c / num_heads channels each (an InputError if that isn't whole). The softmax is ``wide``, and
    proj starts at 0.
    """

    num_heads: int = 1
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        check_heads(c, self.num_heads)
        pixels = GroupNorm(self.num_groups, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
        query, key, value = (
            dense(c, dtype=self.dtype, name=name)(pixels).reshape(b, h * w, self.num_heads, c // self.num_heads)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value).reshape(b, h, w, c)
        return x + dense(c, zero=True, dtype=self.dtype, name="proj")(attended)


def attend(query: Array, key: Array, value: Array) -> Array:
    """softmax(q k^T / sqrt(C)) v, each [b n heads C]; jax's own has scores of float32 whatever it is given."""
    if wide(query.dtype) == jnp.float32:
        return jax.nn.dot_product_attention(query, key, value)
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), value)


def check_heads(channels: int, num_heads: int) -> None:
    """InputError unless the channels can be split into that many equal heads."""
    if channels % num_heads:
        divisor = max(n for n in range(1, num_heads + 1) if channels % n == 0)
        raise InputError(f"{channels} channels can't be split into num_heads {num_heads}: take num_heads {divisor}")
