"""What the network is told besides the image, as vectors: the time, and the label."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.models.layers import dense
from marble.typing import Array

Convention = Literal["ddpm", "adm", "mixed"]
"""How sinusoids stand: sines first, with 1e-4 the last frequency (Ho et al. 2020); cosines first, with 1e-4 one after
the last (Dhariwal and Nichol 2021; Stable Diffusion); cosines first with DDPM's frequencies (diffusers' DiT)."""


def timestep_embedding(t: Array, dim: int, convention: Convention = "ddpm") -> Array:
    """Sines and cosines of t at dim/2 frequencies from 1 down to about 1e-4 in a geometric row.

    t [b] in steps, integers or floats; the answer [b dim] float32, or of t's precision if that is higher. dim must be
    even and at least 4, else an InputError. Vaswani et al. 2017, section 3.5, in one of three orders and spacings:
    by DDPM's the frequencies are exp(-ln 1e4 * i / (dim/2 - 1)), by ADM's exp(-ln 1e4 * i / (dim/2)).
    """
    if dim % 2 or dim < 4:
        raise InputError(f"a timestep embedding of {dim} channels: give an even number, 4 or more")
    last = dim // 2 if convention == "adm" else dim // 2 - 1
    frequencies = np.exp(-np.log(1e4) * np.arange(dim // 2) / last)
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    angles = t[:, None] * jnp.asarray(frequencies, t.dtype)[None]
    sines, cosines = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([sines, cosines] if convention == "ddpm" else [cosines, sines], axis=-1)


class TimeEmbedding(nn.Module):
    """t [b] -> [b features]: the sinusoids, then a dense layer, swish, and a dense layer (Ho et al. 2020).

    ``features`` are 4 * channels where nothing else is said.
    """

    channels: int
    dtype: Any = jnp.float32
    features: int | None = None
    convention: Convention = "ddpm"
    is_zero: bool = False
    """Whether it starts as 0, so that a network that gets it says what it said before."""

    @nn.compact
    def __call__(self, t: Array) -> Array:
        sinusoids = timestep_embedding(t, self.channels, self.convention)
        return _mapped(sinusoids, self.features or 4 * self.channels, self.dtype, is_zero=self.is_zero)


def span_of(t: Array, context: Mapping[str, Array] | None) -> Array:
    """t - s [b], how far a step goes, in the model's time: the context's ``s`` [b] is where to; without it 0."""
    s = (context or {}).get("s", t)
    return (t - s).astype(jnp.promote_types(t.dtype, jnp.float32))


class MappedEmbedding(nn.Module):
    """x [b d] -> [b features]: a dense layer, swish, and a dense layer, as for the time."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _mapped(x, self.features, self.dtype)


def _mapped(x: Array, features: int, dtype: Any, *, is_zero: bool = False) -> Array:
    h = nn.swish(dense(features, dtype=dtype, name="dense_0")(x))
    return dense(features, zero=is_zero, dtype=dtype, name="dense_1")(h)


class LabelEmbedding(nn.Module):
    """label [b] int32 -> [b features]: a learned row a class, and where a model knows no class, one more for that.

    Rows start as N(0, 1) (Dhariwal and Nichol 2021). A label outside 0..num_rows-1 gives NaNs.
    """

    num_rows: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        rows = nn.Embed(
            self.num_rows,
            self.features,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="rows",
        )
        return rows(label)
