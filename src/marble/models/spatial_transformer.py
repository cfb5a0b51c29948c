"""The transformer over an image's pixels, told of a text: how Stable Diffusion's U-Net reads its prompt."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.models.attention import Implementation, MultiHeadAttention, check_heads
from marble.models.layers import GroupNorm, dense, layer_norm
from marble.typing import Array


class SpatialTransformer(nn.Module):
    """x + out(blocks(in(norm(x)))), the pixels being the sequence (Rombach et al. 2022, appendix E.2.1).

    x [b h w c], text [b l d], text_mask [b l] (True for what may be attended to) -> [b h w c]. ``depth`` blocks of
    ``num_heads`` heads (an InputError if they don't divide c). out starts at 0.
    """

    num_heads: int
    depth: int = 1
    num_groups: int = 32
    dtype: Any = jnp.float32
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array, text: Array, text_mask: Array | None = None) -> Array:
        b, h, w, c = x.shape
        check_heads(c, self.num_heads)
        pixels = GroupNorm(self.num_groups, 1e-6, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
        pixels = dense(c, dtype=self.dtype, name="proj_in")(pixels)
        for i in range(self.depth):
            block = CrossAttentionBlock(self.num_heads, self.dtype, self.implementation, name=f"block_{i}")
            pixels = block(pixels, text, text_mask)
        return x + dense(c, zero=True, dtype=self.dtype, name="proj_out")(pixels).reshape(b, h, w, c)


class CrossAttentionBlock(nn.Module):
    """Attention to itself, attention to the text, and a gated perceptron, each added to x [b n c] after a LayerNorm."""

    num_heads: int
    dtype: Any = jnp.float32
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array, text: Array, text_mask: Array | None = None) -> Array:
        def attention(name: str) -> MultiHeadAttention:
            options = dict(use_bias=False, dtype=self.dtype, implementation=self.implementation)
            return MultiHeadAttention(self.num_heads, **options, name=name)

        norms = [layer_norm(dtype=self.dtype, name=f"norm_{i}") for i in range(3)]
        x = x + attention("self_attention")(norms[0](x))
        x = x + attention("cross_attention")(norms[1](x), text, text_mask)
        return x + GatedPerceptron(4 * x.shape[-1], self.dtype, name="perceptron")(norms[2](x))


class GatedPerceptron(nn.Module):
    """[... c] -> [... c]: dense(a * gelu(g)), a and g being halves of one dense layer of x (GEGLU, Shazeer 2020)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        values, gates = jnp.split(dense(2 * self.features, dtype=self.dtype, name="dense_0")(x), 2, axis=-1)
        return dense(x.shape[-1], dtype=self.dtype, name="dense_1")(values * jax.nn.gelu(gates, approximate=False))
