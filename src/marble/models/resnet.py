"""The residual block: two convolutions, and between them the place where time and label come in."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from marble.models.layers import Dropout, GroupNorm, conv, dense
from marble.typing import Array


class ResBlock(nn.Module):
    """shortcut(x) + conv(dropout(swish(norm(conv(swish(norm(x))) + dense(swish(emb)))))) (Ho et al. 2020).

    x [b h w c], emb [b e] -> [b h w features]; emb None leaves its place out. The shortcut is the identity, or a 1x1
    convolution (a dense layer over the channels) where the number of channels changes. The second convolution starts
    at 0. ``dropout`` is a rate; above 0 it draws from the ``dropout`` stream.
    """

    features: int
    dropout: float = 0.0
    num_groups: int = 32
    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        h = nn.swish(GroupNorm(self.num_groups, self.epsilon, dtype=self.dtype, name="norm_0")(x))
        h = conv(self.features, dtype=self.dtype, name="conv_0")(h)
        if emb is not None:
            h = h + dense(self.features, dtype=self.dtype, name="emb")(nn.swish(emb))[:, None, None]
        h = nn.swish(GroupNorm(self.num_groups, self.epsilon, dtype=self.dtype, name="norm_1")(h))
        h = Dropout(self.dropout)(h)
        h = conv(self.features, zero=True, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h
