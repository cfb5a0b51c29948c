"""CLIP: texts and images as vectors of one space (Radford et al. 2021), by two transformers.

The text transformer alone is what Stable Diffusion reads: OpenAI's ViT-L/14 (123,060,480 parameters, the defaults) in
its first versions, OpenCLIP's ViT-H without its last block in version 2, and two of them in SDXL.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import Implementation
from marble.models.layers import dense, kernel_init, layer_norm, wide
from marble.models.transformer import TransformerBlock
from marble.typing import Array

HIGHEST_IS_END = 2
"""The eos_token_id of configs that were written when the end of a text was looked for as its highest token."""


class TextStates(NamedTuple):
    """What is read off a text, float32 or wider."""

    last: Array
    """[b l w] after the final LayerNorm."""
    penultimate: Array
    """[b l w] as the last block is given it, before any LayerNorm: what SDXL reads."""
    pooled: Array
    """[b w] ``last`` at the text's end."""
    embedding: Array | None
    """[b p] in the space shared with images, not normalised; None without a projection."""


class ImageStates(NamedTuple):
    """What is read off an image, float32 or wider."""

    last: Array
    """[b 1+n w] of the class token and the n patches, before the final LayerNorm."""
    pooled: Array
    """[b w] of the class token, after the final LayerNorm."""
    embedding: Array | None
    """[b p] in the space shared with texts, not normalised; None without a projection."""


class ClipText(nn.Module):
    """tokens [b l] int32, with their start and end, l up to max_length -> ``TextStates``.

    A token sees none after it, and none that mask [b l] is False (or 0) for. A text ends at the first
    ``eos_token_id``, or for 2, which old configs have, at its highest token. ``hidden`` of the perceptrons is
    4 * width by default. A token outside 0..vocab_size-1 gives NaNs; an InputError, at trace time, for more tokens
    than max_length, or heads that don't divide the width.
    """

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int | None = None
    activation: str = "quick_gelu"
    projection: int | None = None
    eos_token_id: int = 49407
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    attention_implementation: Implementation | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None) -> TextStates:
        check_tokens(tokens, self.max_length)
        rows = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02), name="tokens")
        places = nn.Embed(self.max_length, self.width, embedding_init=nn.initializers.normal(0.01), name="positions")
        # Rows are added before they are rounded, and only those that are read are rounded.
        x = (rows(tokens) + places(jnp.arange(tokens.shape[1]))[None]).astype(self.dtype)
        penultimate, x = _transformed(self, x, mask, is_causal=True)
        last = layer_norm(self.epsilon, dtype=self.dtype, name="norm_out")(x)
        pooled = last[jnp.arange(len(tokens)), self._end(tokens)]
        full = wide(self.dtype)
        return TextStates(last.astype(full), penultimate.astype(full), pooled.astype(full), _projected(self, pooled))

    def _end(self, tokens: Array) -> Array:
        """[b] where each text ends; a text without an end is read at its start."""
        return (tokens if self.eos_token_id == HIGHEST_IS_END else tokens == self.eos_token_id).argmax(axis=-1)


class ClipVision(nn.Module):
    """images [b h w 3], less CLIP's mean and over its deviation, h = w = image_size -> ``ImageStates``.

    (Dosovitskiy et al. 2021, with a LayerNorm before the first block.) What patches leave over at the right and
    below is not read. An InputError, at trace time, for images of another size, or heads that don't divide the width.
    """

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int | None = None
    activation: str = "quick_gelu"
    projection: int | None = None
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    attention_implementation: Implementation | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: Array) -> ImageStates:
        self._check(images)
        x = layer_norm(self.epsilon, dtype=self.dtype, name="norm_in")(self._embed(images))
        _, last = _transformed(self, x)
        pooled = layer_norm(self.epsilon, dtype=self.dtype, name="norm_out")(last[:, 0])
        full = wide(self.dtype)
        return ImageStates(last.astype(full), pooled.astype(full), _projected(self, pooled))

    def _embed(self, images: Array) -> Array:
        """The class token and a token a patch, with their places: [b 1+n w]."""
        b, patch, init = len(images), (self.patch_size, self.patch_size), nn.initializers.normal(self.width**-0.5)
        options = dict(use_bias=False, kernel_init=kernel_init, dtype=self.dtype, name="patches")
        patches = nn.Conv(self.width, patch, patch, "VALID", **options)(images).reshape(b, -1, self.width)
        class_token = self.param("class_token", init, (self.width,), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (b, 1, self.width)), patches], axis=1)
        places = nn.Embed(x.shape[1], self.width, embedding_init=init, name="positions")
        return (x + places(jnp.arange(x.shape[1]))[None]).astype(self.dtype)

    def _check(self, images: Array) -> None:
        expected = (self.image_size, self.image_size, 3)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(f"images of shape {list(images.shape)} must be [b {' '.join(map(str, expected))}]: resize")


class Clip(nn.Module):
    """tokens [b l] and images [a h w 3] -> [a b], how well each image fits each text: exp(logit_scale) * cosine.

    The temperature is learned (Radford et al. 2021, 2.4), and starts at 0.07. An InputError unless text and vision
    are projected to one size.
    """

    text: ClipText
    vision: ClipVision

    def setup(self) -> None:
        sizes = (self.text.projection, self.vision.projection)
        if None in sizes or len(set(sizes)) != 1:
            raise InputError(f"text.projection={sizes[0]} and vision.projection={sizes[1]} must be one number")
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(-math.log(0.07)), (), jnp.float32)

    def encode_text(self, tokens: Array, mask: Array | None = None) -> Array:
        """Embeddings of length 1 [b p]; see ClipText."""
        return unit(self.text(tokens, mask).embedding)

    def encode_image(self, images: Array) -> Array:
        """Embeddings of length 1 [a p]; see ClipVision."""
        return unit(self.vision(images).embedding)

    def __call__(self, tokens: Array, images: Array, mask: Array | None = None) -> Array:
        return jnp.exp(self.logit_scale) * (self.encode_image(images) @ self.encode_text(tokens, mask).T)


def check_tokens(tokens: Array, max_length: int) -> None:
    """InputError unless tokens are [b l] integers, l at most max_length."""
    if tokens.ndim != 2 or tokens.shape[1] > max_length or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(
            f"tokens {tokens.dtype}{list(tokens.shape)} must be integers [b l], l at most {max_length}: cut the texts"
        )


def _transformed(
    model: ClipText | ClipVision, x: Array, mask: Array | None = None, *, is_causal: bool = False
) -> tuple[Array, Array]:
    """x [b n w] as it goes into the last block, and as it comes out."""
    block = nn.remat(TransformerBlock) if model.remat else TransformerBlock
    before, mask = x, None if mask is None else mask.astype(bool)
    for i in range(model.num_layers):
        before = x
        x = block(
            model.num_heads,
            model.hidden or 4 * model.width,
            model.activation,
            is_causal=is_causal,
            epsilon=model.epsilon,
            dtype=model.dtype,
            implementation=model.attention_implementation,
            name=f"block_{i}",
        )(x, mask)
    return before, x


def _projected(model: ClipText | ClipVision, pooled: Array) -> Array | None:
    if model.projection is None:
        return None
    made = dense(model.projection, use_bias=False, dtype=model.dtype, name="projection")(pooled)
    return made.astype(wide(model.dtype))


def unit(x: Array) -> Array:
    """x [... p] at length 1."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
