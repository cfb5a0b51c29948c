"""Attention: softmax(q k^T / sqrt(C)) v, over the pixels of an image, or over the tokens of a sequence."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.layers import GroupNorm, dense, wide
from marble.typing import Array

Implementation = Literal["xla", "cudnn"]
"""What computes it: XLA's own products, or cuDNN's flash attention, for bfloat16 and float16 on NVIDIA's GPUs."""


class SelfAttention(nn.Module):
    """x + proj(softmax(q k^T / sqrt(C_head)) v), each pixel attending to every pixel (Ho et al. 2020).

    x [b h w c], the same shape out; q, k and v are dense layers of the normalised x, ``num_heads`` heads of
    C_head = c / num_heads channels each (an InputError if that isn't whole). The softmax is ``wide``, and
    proj starts at 0.
    """

    num_heads: int = 1
    num_groups: int = 32
    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        check_heads(c, self.num_heads)
        pixels = GroupNorm(self.num_groups, self.epsilon, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
        query, key, value = (
            dense(c, dtype=self.dtype, name=name)(pixels).reshape(b, h * w, self.num_heads, c // self.num_heads)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, implementation=self.implementation).reshape(b, h, w, c)
        return x + dense(c, zero=True, dtype=self.dtype, name="proj")(attended)


class MultiHeadAttention(nn.Module):
    """proj(softmax(q k^T / sqrt(C_head)) v) of a sequence to itself, or to a context (Vaswani et al. 2017, 3.2).

    x [b n c], context [b l d] -> [b n c]; q is a dense layer of x, k and v of the context, or of x where there is none.
    Heads have ``head_channels`` channels, by default c / num_heads (an InputError if that isn't whole). ``use_bias`` is
    of q, k and v. mask [b l] is True for what may be attended to; ``is_causal`` hides what comes after a place. With
    ``zero`` proj starts at 0.
    """

    num_heads: int
    head_channels: int | None = None
    use_bias: bool = True
    is_causal: bool = False
    zero: bool = False
    dtype: Any = jnp.float32
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, mask: Array | None = None) -> Array:
        if self.head_channels is None:
            check_heads(x.shape[-1], self.num_heads)
        width = (self.head_channels or x.shape[-1] // self.num_heads) * self.num_heads
        source = x if context is None else context

        def heads(name: str, of: Array) -> Array:
            made = dense(width, use_bias=self.use_bias, dtype=self.dtype, name=name)(of)
            return made.reshape(*of.shape[:2], self.num_heads, width // self.num_heads)  # [b n heads C]

        query, key, value = heads("query", x), heads("key", source), heads("value", source)
        attended = attend(
            query, key, value, mask=mask, is_causal=self.is_causal, implementation=self.implementation
        ).reshape(*x.shape[:2], width)
        return dense(x.shape[-1], zero=self.zero, dtype=self.dtype, name="proj")(attended)


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    is_causal: bool = False,
    implementation: Implementation | None = None,
) -> Array:
    """softmax(q k^T / sqrt(C)) v, each [b n heads C]; jax's own has scores of float32 whatever it is given.

    mask [b l] is True for the keys that may be attended to; with is_causal a query sees no key after its place.
    implementation None is jax's choice.
    """
    if wide(query.dtype) == jnp.float32:
        of_keys = None if mask is None else mask[:, None, None, :]
        options = dict(mask=of_keys, is_causal=is_causal, implementation=implementation)
        return jax.nn.dot_product_attention(query, key, value, **options)
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    if is_causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool)[None, None], scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), value)


def check_heads(channels: int, num_heads: int) -> None:
    """InputError unless the channels can be split into that many equal heads."""
    if num_heads < 1:
        raise InputError(f"num_heads {num_heads} must be at least 1")
    if channels % num_heads:
        divisor = max(n for n in range(1, num_heads + 1) if channels % n == 0)
        raise InputError(f"{channels} channels can't be split into num_heads {num_heads}: take num_heads {divisor}")
