"""What ADM's networks are built of: residual blocks that can resample, attention with one qkv layer, attention pooling.

(Dhariwal and Nichol 2021, section 3, appendix A; iDDPM, Nichol and Dhariwal 2021.) They differ from DDPM's blocks in
where time and label come in (scale and shift of a normalised image, "AdaGN"), in the normalisation's epsilon, 1e-5, and
in that blocks may halve or double an image's sides inside (Brock et al. 2019, "BigGAN's").
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import attend, check_heads
from marble.models.layers import Dropout, GroupNorm, conv, dense, wide
from marble.typing import Array

EPSILON = 1e-5
"""Of every GroupNorm here."""

Resample = Literal["down", "up"]


class AdmResBlock(nn.Module):
    """shortcut(x) + conv(dropout(swish(norm(conv(swish(norm(x))), emb)))), halved or doubled before the first conv.

    x [b h w c], emb [b e] -> [b h' w' features], sides by ``resample``. emb is a scale and a shift after the second
    norm, (1 + scale) * norm(h) + shift, or without ``scale_shift_norm`` it is added before it. The shortcut is a 1x1
    convolution where the number of channels changes. The second convolution starts at 0.
    """

    features: int
    dropout: float = 0.0
    scale_shift_norm: bool = True
    resample: Resample | None = None
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array) -> Array:
        h = nn.swish(GroupNorm(self.num_groups, EPSILON, dtype=self.dtype, name="norm_0")(x))
        h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = conv(self.features, dtype=self.dtype, name="conv_0")(h)
        norm = GroupNorm(self.num_groups, EPSILON, dtype=self.dtype, name="norm_1")
        size = 2 * self.features if self.scale_shift_norm else self.features
        emb = dense(size, dtype=wide(self.dtype), name="emb")(nn.swish(emb)).astype(h.dtype)[:, None, None]
        if self.scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = Dropout(self.dropout)(nn.swish(h))
        h = conv(self.features, zero=True, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


def resampled(x: Array, resample: Resample | None) -> Array:
    """[b h w c] with its sides halved by means over 2x2 pixels, or doubled by repeating each, or as it is."""
    if resample == "down":
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return x.repeat(2, axis=1).repeat(2, axis=2) if resample == "up" else x


class AdmAttention(nn.Module):
    """x + proj(softmax(q k^T / sqrt(C)) v), each pixel attending to every pixel; x [b h w c], the same shape out.

    q, k and v are one dense layer of the normalised x, its 3c channels in the order of ``split_qkv``. proj starts at 0.
    """

    num_heads: int
    heads_first: bool = True
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        check_heads(c, self.num_heads)
        pixels = GroupNorm(self.num_groups, EPSILON, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
        qkv = dense(3 * c, dtype=self.dtype, name="qkv")(pixels)
        attended = attend(*split_qkv(qkv, self.num_heads, heads_first=self.heads_first)).reshape(b, h, w, c)
        return x + dense(c, zero=True, dtype=self.dtype, name="proj")(attended)


def split_qkv(qkv: Array, num_heads: int, *, heads_first: bool) -> tuple[Array, Array, Array]:
    """[b n 3c] -> q, k, v, each [b n heads C]; the channels are [heads 3 C] with heads_first, else [3 heads C]."""
    b, n, width = qkv.shape
    size = width // 3 // num_heads
    parts = qkv.reshape(b, n, num_heads, 3, size) if heads_first else qkv.reshape(b, n, 3, num_heads, size)
    query, key, value = (part.squeeze(3 if heads_first else 2) for part in jnp.split(parts, 3, 3 if heads_first else 2))
    return query, key, value


class AttentionPool(nn.Module):
    """x [b h w c] -> [b features]: what the pixels' mean, as one token more, attends to (Radford et al. 2021, 2.4).

    Each token has a learned vector added for its place, so that x has to have the sides that the parameters were made
    for (an InputError else). The channels of qkv are [3 heads C].
    """

    features: int
    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        check_heads(c, self.num_heads)
        pixels = x.astype(self.dtype).reshape(b, h * w, c)
        tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1)  # [b 1+hw c]
        tokens = tokens + self._positions(h * w + 1, c).astype(self.dtype)[None]
        qkv = dense(3 * c, dtype=self.dtype, name="qkv")(tokens)
        query, key, value = split_qkv(qkv, self.num_heads, heads_first=False)
        attended = attend(query[:, :1], key, value).reshape(b, c)
        return dense(self.features, dtype=self.dtype, name="proj")(attended)

    def _positions(self, length: int, channels: int) -> Array:
        if self.has_variable("params", "positions"):
            there = self.get_variable("params", "positions").shape[0]
            if there != length:
                raise InputError(
                    f"a classifier of images that shrink to {there - 1} pixels was given one that shrinks to "
                    f"{length - 1}: resize it to the sides that the classifier was made for"
                )
        return self.param("positions", nn.initializers.normal(channels**-0.5), (length, channels), jnp.float32)
