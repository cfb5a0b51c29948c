"""BERT: a transformer that reads a text in both directions (Devlin et al. 2019), and sentences as vectors.

The defaults are of MiniLM (Wang et al. 2020) as sentence-transformers' all-MiniLM-L6-v2 has it, less a last layer
("pooler") that it does not use: 22,565,376 parameters.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from marble.models.attention import Implementation
from marble.models.clip import check_tokens
from marble.models.layers import layer_norm, wide
from marble.models.transformer import TransformerBlock
from marble.typing import Array


class Bert(nn.Module):
    """tokens [b l] int32, with their start and end, l up to max_length -> states [b l w], float32 or wider.

    mask [b l] is True (or 1) for the tokens that are there; types [b l] says which of two texts a token is of, 0 where
    nothing is said. A token outside 0..vocab_size-1 gives NaNs; an InputError, at trace time, for more tokens than
    max_length, or heads that don't divide the width.
    """

    vocab_size: int = 30522
    max_length: int = 512
    width: int = 384
    num_layers: int = 6
    num_heads: int = 12
    hidden: int = 1536
    activation: str = "gelu"
    num_types: int = 2
    epsilon: float = 1e-12
    dtype: Any = jnp.float32
    attention_implementation: Implementation | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None, types: Array | None = None) -> Array:
        check_tokens(tokens, self.max_length)
        mask = None if mask is None else mask.astype(bool)
        x = layer_norm(self.epsilon, dtype=self.dtype, name="norm_in")(self._embed(tokens, types))
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        for i in range(self.num_layers):
            x = block(
                self.num_heads,
                self.hidden,
                self.activation,
                norm_last=True,
                epsilon=self.epsilon,
                dtype=self.dtype,
                implementation=self.attention_implementation,
                name=f"block_{i}",
            )(x, mask)
        return x.astype(wide(self.dtype))

    def _embed(self, tokens: Array, types: Array | None) -> Array:
        """The sum of what a token, its place and its type are embedded as: [b l w]."""
        types = jnp.zeros_like(tokens) if types is None else types
        places = jnp.arange(tokens.shape[1])
        return (
            self._rows("tokens", self.vocab_size)(tokens)
            + self._rows("types", self.num_types)(types)
            + self._rows("positions", self.max_length)(places)[None]
        )

    def _rows(self, name: str, count: int) -> nn.Embed:
        return nn.Embed(count, self.width, embedding_init=nn.initializers.normal(0.02), name=name)


def sentence_embedding(states: Array, mask: Array) -> Array:
    """[b w] of length 1: the mean of states [b l w] over the tokens that mask [b l] has (Reimers and Gurevych 2019).

    A text of no token gives zeros.
    """
    weights = mask.astype(states.dtype)[..., None]
    mean = (states * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), jnp.finfo(mean.dtype).tiny)
