"""The U-Net of Stable Diffusion 1.x, 2.x and SDXL: the DDPM U-Net, with a text that every level may attend to.

Rombach et al. 2022, Podell et al. 2023. A level is ``num_res_blocks`` residual blocks (one more on the way up), each
followed, where ``transformer_depth`` of the level is above 0, by a transformer over its pixels and the text. SD 1.x,
the defaults, has 859,520,964 parameters; SD 2.x (``num_heads`` (5, 10, 20, 20), ``text_channels`` 1024) 865,910,724;
SDXL (``channel_mult`` (1, 2, 4), ``transformer_depth`` (0, 2, 10), ``middle_depth`` 10, ``num_heads`` (5, 10, 20),
``text_channels`` 2048, ``pooled_channels`` 1280) 2,567,463,684.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import Implementation
from marble.models.embeddings import MappedEmbedding, TimeEmbedding, span_of, timestep_embedding
from marble.models.layers import GroupNorm, check_sizes, conv, wide
from marble.models.resample import Upsample, downsample
from marble.models.resnet import ResBlock
from marble.models.spatial_transformer import SpatialTransformer
from marble.typing import Array, Context

SIZE_CHANNELS = 256
"""Sinusoids for each of the six numbers of ``size``."""
EPSILON = 1e-5


class ConditionalUNet(nn.Module):
    """x_t [b h w c], t [b], context -> [b h w out_channels] float32.

    The context holds ``text`` [b l text_channels], and it may hold ``text_mask`` [b l], True for the tokens that are to
    be attended to. With ``pooled_channels`` (SDXL) it holds ``pooled_text`` [b pooled_channels] and ``size`` [b 6] in
    pixels: the original image's height and width, the top and left of what was cut from it, and the height and width
    that are wanted. With ``concat_channels`` it holds ``concat`` [b h w concat_channels], which stands behind x_t's
    channels (a mask and the image that it leaves, for the inpainting models). With ``reads_s`` it may hold ``s`` [b],
    the time that a step goes to: the answer is then of the whole way there (Geng et al. 2025).

    Level i has ``channels * channel_mult[i]`` channels, ``num_heads[i]`` heads, and transformers of
    ``transformer_depth[i]`` blocks; the middle's has ``middle_depth``. ``dtype`` is what is computed in (parameters
    stay float32); ``remat`` computes blocks a second time in the gradient instead of keeping their insides. ``train``
    switches dropout on; then ``rngs={"dropout": key}`` is needed.

    An InputError, at trace time, for: channels that num_groups or num_heads don't divide; lists that are not one
    number a level; h or w that the levels can't halve; a context that is not what the network reads.
    """

    out_channels: int = 4
    channels: int = 320
    channel_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    transformer_depth: Sequence[int] = (1, 1, 1, 0)
    middle_depth: int = 1
    num_heads: Sequence[int] = (8, 8, 8, 8)
    text_channels: int = 768
    pooled_channels: int | None = None
    concat_channels: int = 0
    reads_s: bool = False
    dropout: float = 0.0
    num_groups: int = 32
    dtype: Any = jnp.float32
    remat: bool = False
    attention_implementation: Implementation | None = None

    takes_any_size: ClassVar[bool] = True

    @property
    def size_factor(self) -> int:
        """What h and w have to be multiples of."""
        return 2 ** (len(self.channel_mult) - 1)

    @nn.compact
    def __call__(self, x_t: Array, t: Array, context: Context | None = None, *, train: bool = False) -> Array:
        context = context or {}
        self._check(x_t, context)
        emb = self._embed(t, context)
        if self.concat_channels:
            x_t = jnp.concatenate([x_t, context["concat"].astype(x_t.dtype)], axis=-1)
        h = conv(self.channels, dtype=self.dtype, name="conv_in")(x_t)
        h, skips = self._down(h, emb, context, train)
        h = self._block("middle_block_0", h, self._width(-1), emb, train)
        h = self._transformer("middle_attention", h, self.middle_depth, self.num_heads[-1], context)
        h = self._block("middle_block_1", h, self._width(-1), emb, train)
        h = self._up(h, skips, emb, context, train)
        h = nn.swish(GroupNorm(self.num_groups, EPSILON, dtype=self.dtype, name="norm_out")(h))
        return conv(self.out_channels, zero=True, dtype=self.dtype, name="conv_out")(h).astype(wide(self.dtype))

    def _embed(self, t: Array, context: Context) -> Array:
        """The time, and where the model is told of them the text as a whole and the sizes [b 4*channels]."""
        emb = TimeEmbedding(self.channels, dtype=self.dtype, convention="adm", name="time")(t)
        if self.reads_s:
            span = TimeEmbedding(self.channels, dtype=self.dtype, convention="adm", is_zero=True, name="span")
            emb += span(span_of(t, context))
        if self.pooled_channels is None:
            return emb
        size, pooled = context["size"], context["pooled_text"]
        sinusoids = timestep_embedding(size.reshape(-1), SIZE_CHANNELS, "adm").reshape(size.shape[0], -1)
        added = jnp.concatenate([pooled.astype(sinusoids.dtype), sinusoids], axis=-1)
        return emb + MappedEmbedding(4 * self.channels, dtype=self.dtype, name="added")(added)

    def _down(self, h: Array, emb: Array, context: Context, train: bool) -> tuple[Array, list[Array]]:
        """The levels from wide to narrow images, and every block's output on the way."""
        skips = [h]
        for level, depth in enumerate(self.transformer_depth):
            if level > 0:
                h = downsample(h.shape[-1], pads_both_sides=True, dtype=self.dtype, name=f"down_{level}_sample")(h)
                skips.append(h)
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", h, self._width(level), emb, train)
                h = self._transformer(f"down_{level}_attention_{i}", h, depth, self.num_heads[level], context)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], emb: Array, context: Context, train: bool) -> Array:
        """The levels from narrow to wide images, taking the skips from the last to the first."""
        skips = list(skips)
        for level, depth in reversed(list(enumerate(self.transformer_depth))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_block_{i}", h, self._width(level), emb, train)
                h = self._transformer(f"up_{level}_attention_{i}", h, depth, self.num_heads[level], context)
            if level > 0:
                h = Upsample(dtype=self.dtype, name=f"up_{level}_sample")(h)
        return h

    def _block(self, name: str, h: Array, features: int, emb: Array, train: bool) -> Array:
        block = nn.remat(ResBlock) if self.remat else ResBlock
        dropout = self.dropout if train else 0.0
        return block(features, dropout, self.num_groups, self.dtype, EPSILON, name=name)(h, emb)

    def _transformer(self, name: str, h: Array, depth: int, num_heads: int, context: Context) -> Array:
        if depth == 0:
            return h
        made = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        transformer = made(num_heads, depth, self.num_groups, self.dtype, self.attention_implementation, name=name)
        return transformer(h, context["text"], context.get("text_mask"))

    def _width(self, level: int) -> int:
        return self.channels * self.channel_mult[level]

    def _check(self, x_t: Array, context: Context) -> None:
        check_sizes(self, ("channels", "num_res_blocks", "num_groups", "text_channels"))
        for name in ("transformer_depth", "num_heads"):
            if len(getattr(self, name)) != len(self.channel_mult):
                raise InputError(
                    f"model.{name}={getattr(self, name)} must have a number a level, as "
                    f"channel_mult={self.channel_mult} has"
                )
        factor = self.size_factor
        if x_t.ndim != 4 or x_t.shape[1] % factor or x_t.shape[2] % factor:
            raise InputError(
                f"x_t of shape {list(x_t.shape)}: {len(self.channel_mult)} levels take [b h w c] "
                f"with h and w multiples of {factor}"
            )
        self._check_context(x_t, context)

    def _check_context(self, x_t: Array, context: Context) -> None:
        needed = {"text": (None, self.text_channels)}
        if self.pooled_channels is not None:
            needed.update(pooled_text=(self.pooled_channels,), size=(6,))
        if self.concat_channels:
            needed.update(concat=(*x_t.shape[1:3], self.concat_channels))
        allowed = {*needed, "text_mask", *(["s"] if self.reads_s else [])}
        if set(needed) - set(context) or set(context) - allowed:
            raise InputError(f"the context {sorted(context)} was given to a model that reads {', '.join(needed)}")
        for name, shape in needed.items():
            found = context[name].shape
            wanted = (x_t.shape[0], *(at if here is None else here for here, at in zip(shape, found[1:], strict=False)))
            if len(found) != len(shape) + 1 or found != wanted:
                words = ["b", *("l" if here is None else str(here) for here in shape)]
                raise InputError(f"context[{name!r}] of shape {list(found)} must be [{' '.join(words)}]")
