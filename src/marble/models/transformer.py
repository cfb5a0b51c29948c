"""The transformer's block: attention and a perceptron, each the end of a residual branch (Vaswani et al. 2017)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.models.attention import Implementation, MultiHeadAttention
from marble.models.layers import dense, layer_norm
from marble.typing import Array


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the approximation of OpenAI's CLIP (Hendrycks and Gimpel 2016)."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}
"""By the names that published configs use; gelu_new is the one with a tanh."""


class Perceptron(nn.Module):
    """[... c] -> [... c]: a dense layer of ``features``, the activation, and a dense layer back."""

    features: int
    activation: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = ACTIVATIONS[self.activation](dense(self.features, dtype=self.dtype, name="dense_0")(x))
        return dense(x.shape[-1], dtype=self.dtype, name="dense_1")(h)


class TransformerBlock(nn.Module):
    """Self-attention, then a perceptron of ``features``, added to x [b n c] one after the other.

    Each branch begins with a LayerNorm of what it reads (as CLIP's do), or with ``norm_last`` the sums are normalised
    (as BERT's are). mask [b n] is True for the tokens that may be attended to.
    """

    num_heads: int
    features: int
    activation: str = "gelu"
    norm_last: bool = False
    is_causal: bool = False
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        attention = MultiHeadAttention(
            self.num_heads,
            is_causal=self.is_causal,
            dtype=self.dtype,
            implementation=self.implementation,
            name="attention",
        )
        perceptron = Perceptron(self.features, self.activation, self.dtype, name="perceptron")
        norm_0, norm_1 = (layer_norm(self.epsilon, dtype=self.dtype, name=name) for name in ("norm_0", "norm_1"))
        if self.norm_last:
            x = norm_0(x + attention(x, mask=mask))
            return norm_1(x + perceptron(x))
        x = x + attention(norm_0(x), mask=mask)
        return x + perceptron(norm_1(x))
