"""The U-Net of the DDPM paper (Ho et al. 2020, appendix B): what is read off x_t, at time t, given the context.

    conv_in - level 0 - level 1 - ... - middle - ... - level 1 - level 0 - norm, swish, conv_out
                 |         |                              |         |
                 +---------+--- each block's output ------+---------+  is concatenated on the way up

A level is ``num_res_blocks`` residual blocks (one more on the way up), each followed by self-attention where the
image's height is one of ``attention_resolutions``; between levels the sides halve, and double again.
The CIFAR-10 network of the paper (the defaults) has 35,746,307 parameters; the one for 256x256 images
(``channel_mult`` (1, 1, 2, 2, 4, 4)) has 113,673,219.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import SelfAttention
from marble.models.embeddings import Convention, LabelEmbedding, TimeEmbedding, span_of
from marble.models.layers import GroupNorm, check_sizes, conv, wide
from marble.models.patches import from_patches, into_patches
from marble.models.resample import Upsample, downsample, resized
from marble.models.resnet import ResBlock
from marble.typing import Array, Context


class UNet(nn.Module):
    """x_t [b h w c], t [b] (steps, integers or floats), context -> [b h w out_channels] float32.

    Level i has ``channels * channel_mult[i]`` channels. With ``num_classes`` the context may hold ``label`` [b] in
    0..num_classes, where ``num_classes`` is the null class, unless ``has_null_class`` is False, as for some published
    weights; no label means the null class. With ``reads_x_0`` it may hold ``x_0`` [b h w c], an earlier estimate of the
    image; none means zeros (Chen et al. 2022). With ``reads_low_res`` it has to hold ``low_res`` [b h' w' c], a smaller
    image, which is read beside x_t, at its size (Saharia et al. 2021), and may hold ``aug_level`` [b] in [0, 1], how
    noisy that is; none means 0 (Ho et al. 2022). With ``adds_low_res`` too the answer is that image and what the
    network adds to it, which suits ``prediction_type="x_0"``: a fresh network answers with interpolation. ``dtype`` is
    what is computed in (parameters stay float32), and ``remat`` computes the residual blocks a second time in the
    gradient instead of keeping their insides. ``train`` switches dropout on; then ``rngs={"dropout": key}`` is needed.

    With ``reads_s`` the context may hold ``s`` [b], the time that a step goes to: the answer is then of the whole way
    from t to s (Geng et al. 2025), and without it of t alone.

    With ``patch_size`` p above 1 squares of p x p pixels are read as one, of p p c channels, and answered likewise, so
    that the first level has h / p rows: for large images, which cost the most there (Luhman & Luhman 2022).

    Other libraries' U-Nets of this shape differ in four numbers, whose defaults are the paper's: ``head_channels``,
    channels a head, from which each level has its number of heads, in place of num_heads; the ``epsilon`` of the
    normalisations; ``time_convention``, how sinusoids of t stand; and ``pads_both_sides`` where the sides halve.

    An InputError, at trace time, for: channels that num_groups, num_heads or head_channels don't divide; h or w that
    the levels can't halve; a context that the network doesn't read.
    """

    out_channels: int = 3
    channels: int = 128
    channel_mult: Sequence[float] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    num_heads: int = 1
    dropout: float = 0.0
    num_groups: int = 32
    num_classes: int | None = None
    has_null_class: bool = True
    reads_x_0: bool = False
    reads_low_res: bool = False
    adds_low_res: bool = False
    reads_s: bool = False
    patch_size: int = 1
    head_channels: int | None = None
    epsilon: float = 1e-6
    time_convention: Convention = "ddpm"
    pads_both_sides: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    reads_aug_level: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x_t: Array, t: Array, context: Context | None = None, *, train: bool = False) -> Array:
        self._check(x_t, context or {})
        emb = self._embed(t, context or {})
        if self.reads_x_0:
            x_t = jnp.concatenate([x_t, (context or {}).get("x_0", jnp.zeros_like(x_t))], axis=-1)
        if self.reads_low_res:
            beside = resized(context["low_res"], x_t.shape[1:3]).astype(x_t.dtype)
            x_t = jnp.concatenate([x_t, beside], axis=-1)
        rows, columns, size = x_t.shape[1] // self.patch_size, x_t.shape[2] // self.patch_size, self.patch_size
        h = into_patches(x_t, size).reshape(len(x_t), rows, columns, -1)
        h = conv(self.channels, dtype=self.dtype, name="conv_in")(h)
        h, skips = self._down(h, emb, train)
        h = self._block("middle_block_0", h, self._width(-1), emb, train)
        h = self._attention("middle_attention", h)
        h = self._block("middle_block_1", h, self._width(-1), emb, train)
        h = self._up(h, skips, emb, train)
        h = nn.swish(GroupNorm(self.num_groups, self.epsilon, dtype=self.dtype, name="norm_out")(h))
        h = conv(size**2 * self.out_channels, zero=True, dtype=self.dtype, name="conv_out")(h)
        h = from_patches(h.reshape(len(h), rows * columns, -1), rows, columns, size).astype(wide(self.dtype))
        return h + beside if self.adds_low_res else h

    def _embed(self, t: Array, context: Context) -> Array:
        """Time and label [b 4*channels]."""
        emb = TimeEmbedding(self.channels, self.dtype, convention=self.time_convention, name="time")(t)
        if self.reads_low_res:
            level = 1000 * context.get("aug_level", jnp.zeros(t.shape, jnp.float32))  # as wide as steps are
            emb += TimeEmbedding(self.channels, self.dtype, convention=self.time_convention, name="aug_level")(level)
        if self.reads_s:
            span = TimeEmbedding(self.channels, self.dtype, convention=self.time_convention, is_zero=True, name="span")
            emb += span(span_of(t, context))
        if self.num_classes is None:
            return emb
        label = context.get("label", jnp.full(t.shape, self.num_classes, jnp.int32))
        num_rows = self.num_classes + self.has_null_class
        return emb + LabelEmbedding(num_rows, 4 * self.channels, dtype=self.dtype, name="label")(label)

    def _down(self, h: Array, emb: Array, train: bool) -> tuple[Array, list[Array]]:
        """The levels from wide to narrow images, and every block's output on the way."""
        skips = [h]
        for level in range(len(self.channel_mult)):
            if level > 0:
                options = dict(pads_both_sides=self.pads_both_sides, dtype=self.dtype, name=f"down_{level}_sample")
                h = downsample(h.shape[-1], **options)(h)
                skips.append(h)
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", h, self._width(level), emb, train)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attention(f"down_{level}_attention_{i}", h)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], emb: Array, train: bool) -> Array:
        """The levels from narrow to wide images, taking the skips from the last to the first."""
        skips = list(skips)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_block_{i}", h, self._width(level), emb, train)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attention(f"up_{level}_attention_{i}", h)
            if level > 0:
                h = Upsample(dtype=self.dtype, name=f"up_{level}_sample")(h)
        return h

    def _block(self, name: str, h: Array, features: int, emb: Array, train: bool) -> Array:
        block = nn.remat(ResBlock) if self.remat else ResBlock
        dropout = self.dropout if train else 0.0
        return block(features, dropout, self.num_groups, self.dtype, self.epsilon, name=name)(h, emb)

    def _attention(self, name: str, h: Array) -> Array:
        num_heads = self.num_heads
        if self.head_channels is not None:
            if h.shape[-1] % self.head_channels:
                raise InputError(f"{h.shape[-1]} channels can't be split into heads of {self.head_channels} channels")
            num_heads = h.shape[-1] // self.head_channels
        return SelfAttention(num_heads, self.num_groups, self.dtype, self.epsilon, name=name)(h)

    def _width(self, level: int) -> int:
        return round(self.channels * self.channel_mult[level])

    def _check(self, x_t: Array, context: Context) -> None:
        check_sizes(self, ("channels", "num_res_blocks", "num_groups", "num_heads", "patch_size"))
        if self.head_channels is not None and (self.head_channels < 1 or self.num_heads != 1):
            raise InputError(
                f"model.head_channels={self.head_channels} must be at least 1, and model.num_heads={self.num_heads} "
                "left out: channels a head say how many heads there are"
            )
        if self.adds_low_res and not self.reads_low_res:
            raise InputError("model.adds_low_res=True adds what the model does not read: set model.reads_low_res=True")
        factor = self.patch_size * 2 ** (len(self.channel_mult) - 1)
        if x_t.ndim != 4 or x_t.shape[1] % factor or x_t.shape[2] % factor:
            raise InputError(
                f"x_t of shape {list(x_t.shape)}: {len(self.channel_mult)} levels take [b h w c] "
                f"with h and w multiples of {factor}"
            )
        of_low_res = {"low_res": self.reads_low_res, "aug_level": self.reads_low_res}
        known = {"label": self.num_classes is not None, "x_0": self.reads_x_0, "s": self.reads_s, **of_low_res}
        read = [key for key, is_read in known.items() if is_read]
        if set(context) - set(read) or (self.reads_low_res and "low_res" not in context):
            raise InputError(
                f"a model of num_classes {self.num_classes} was given the context {sorted(context)}: "
                f"it reads {read or 'none'}"
            )
