"""The networks of iDDPM and ADM: a U-Net, its super-resolution form, and the classifier that guides it.

(Nichol and Dhariwal 2021; Dhariwal and Nichol 2021.) The U-Net is DDPM's in its plan (see marble.models.unet), with
other blocks (marble.models.adm_blocks): time and label scale and shift, heads of attention at several resolutions, and
in ADM residual blocks that halve and double. A learned variance is twice the ``out_channels``, the caller's matter.

The classifier is the way down alone, and answers with logits of the label of a noisy image. What guides is the
gradient of ``log_prob`` of them, as marble.sampling.guidance.classifier_guided wants it:

    log_prob_fn = lambda x_t, level, context: log_prob(classifier.apply(variables, x_t, level.t), context["label"])
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.adm_blocks import EPSILON, AdmAttention, AdmResBlock, AttentionPool, Resample
from marble.models.embeddings import TimeEmbedding
from marble.models.layers import GroupNorm, check_sizes, conv, wide
from marble.models.resample import Upsample, downsample, resized
from marble.typing import Array, Context


class AdmEncoder(nn.Module):
    """What the U-Net and the classifier share: their fields, the levels on the way down, and the middle.

    Level i has ``channels * channel_mult[i]`` channels (fractions are fine where that is whole), and self-attention
    where the image's height is one of ``attention_resolutions``; the middle always has it. There are ``num_heads``
    heads, or with ``head_channels`` as many as have that many channels. ``heads_first`` is the order of channels in the
    qkv layer: [heads 3 C], or [3 heads C]; it matters to weights made elsewhere alone. ``scale_shift_norm``
    is AdaGN, and ``resblock_updown`` halves and doubles in residual blocks instead of by a convolution. ``dtype`` is
    what is computed in, but for the vectors of time and label and the last layers, which are ``wide``. ``remat``
    computes residual blocks a second time in the gradient instead of keeping their insides. ``train`` switches dropout
    on; then ``rngs={"dropout": key}`` is needed.
    """

    channels: int = 128
    channel_mult: Sequence[float] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: Sequence[int] = (16, 8)
    num_heads: int = 4
    head_channels: int | None = None
    heads_first: bool = True
    scale_shift_norm: bool = True
    resblock_updown: bool = False
    dropout: float = 0.0
    num_groups: int = 32
    dtype: Any = jnp.float32
    remat: bool = False

    def embed_time(self, t: Array) -> Array:
        """t [b] -> [b 4*channels]."""
        return TimeEmbedding(self.channels, dtype=wide(self.dtype), convention="adm", name="time")(t)

    def go_down(self, x: Array, emb: Array, train: bool) -> tuple[Array, list[Array]]:
        """From the image to the end of the middle, and what is handed over to the way up."""
        h = conv(self.width(0), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        skips = [h]
        for level in range(len(self.channel_mult)):
            if level > 0:
                h = self._halved(f"down_{level}_sample", h, emb, train)
                skips.append(h)
            for i in range(self.num_res_blocks):
                h = self.block(f"down_{level}_block_{i}", h, self.width(level), emb, train)
                h = self.attention_where_due(f"down_{level}_attention_{i}", h)
                skips.append(h)
        h = self.block("middle_block_0", h, self.width(-1), emb, train)
        h = self.attention("middle_attention", h)
        return self.block("middle_block_1", h, self.width(-1), emb, train), skips

    def block(
        self, name: str, h: Array, features: int, emb: Array, train: bool, resample: Resample | None = None
    ) -> Array:
        made = nn.remat(AdmResBlock) if self.remat else AdmResBlock
        dropout = self.dropout if train else 0.0
        options = dict(num_groups=self.num_groups, dtype=self.dtype, name=name)
        return made(features, dropout, self.scale_shift_norm, resample, **options)(h, emb)

    def attention(self, name: str, h: Array) -> Array:
        return AdmAttention(self.heads_of(h.shape[-1]), self.heads_first, self.num_groups, self.dtype, name=name)(h)

    def attention_where_due(self, name: str, h: Array) -> Array:
        return self.attention(name, h) if h.shape[1] in self.attention_resolutions else h

    def normed_out(self, h: Array) -> Array:
        """swish(norm(h)), wide: the last layers answer with more digits than ``dtype`` may have."""
        return nn.swish(GroupNorm(self.num_groups, EPSILON, dtype=wide(self.dtype), name="norm_out")(h))

    def heads_of(self, channels: int) -> int:
        """The heads of attention over that many channels."""
        if self.head_channels is None:
            return self.num_heads
        if channels % self.head_channels:
            divisor = max(n for n in range(1, self.head_channels + 1) if channels % n == 0)
            raise InputError(
                f"{channels} channels can't be split into heads of head_channels {self.head_channels}: "
                f"take head_channels {divisor}"
            )
        return channels // self.head_channels

    def width(self, level: int) -> int:
        """The channels of a level."""
        return round(self.channels * self.channel_mult[level])

    def check(self, x: Array) -> None:
        """InputError for sizes that don't fit each other, or x."""
        check_sizes(self, ("channels", "num_res_blocks", "num_groups", "num_heads"))
        if self.head_channels is not None and self.head_channels < 1:
            raise InputError(f"model.head_channels={self.head_channels} must be at least 1, or None for num_heads")
        for level, mult in enumerate(self.channel_mult):
            if self.width(level) < 1 or abs(self.width(level) - self.channels * mult) > 1e-3:
                raise InputError(f"model.channel_mult={self.channel_mult}: {self.channels} * {mult} is not whole")
        factor = 2 ** (len(self.channel_mult) - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise InputError(
                f"x_t of shape {list(x.shape)}: {len(self.channel_mult)} levels take [b h w c] "
                f"with h and w multiples of {factor}"
            )

    def _halved(self, name: str, h: Array, emb: Array, train: bool) -> Array:
        if self.resblock_updown:
            return self.block(name, h, h.shape[-1], emb, train, "down")
        return downsample(h.shape[-1], pads_both_sides=True, dtype=self.dtype, name=name)(h)


class AdmUNet(AdmEncoder):
    """x_t [b h w c], t [b] (steps, integers or floats), context -> [b h w out_channels] float32.

    With ``num_classes`` the context has to hold ``label`` [b] in 0..num_classes-1: there is a row for each class and
    none for no class, and a label outside gives NaNs. With ``reads_low_res`` it has to hold ``low_res`` [b h' w' c], a
    smaller image, which is read beside x_t, at its size (Saharia et al. 2021). Only to make parameters both may be
    missing. The other fields are AdmEncoder's.

    An InputError, at trace time, for: channels that num_groups or the heads don't divide; h or w that the levels
    can't halve; a context without what the network reads, or with what it doesn't.
    """

    out_channels: int = 3
    num_classes: int | None = None
    reads_low_res: bool = False

    has_null_class: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x_t: Array, t: Array, context: Context | None = None, *, train: bool = False) -> Array:
        self.check(x_t)
        context = self._checked(x_t, context or {})
        emb = self.embed_time(t)
        if self.num_classes is not None:
            rows = nn.initializers.normal(1.0)
            emb = emb + nn.Embed(self.num_classes, emb.shape[-1], embedding_init=rows, name="label")(context["label"])
        if self.reads_low_res:
            x_t = jnp.concatenate([x_t, resized(context["low_res"], x_t.shape[1:3]).astype(x_t.dtype)], axis=-1)
        h, skips = self.go_down(x_t, emb, train)
        h = self._go_up(h, skips, emb, train)
        out = conv(self.out_channels, zero=True, dtype=wide(self.dtype), name="conv_out")
        return out(self.normed_out(h))

    def _go_up(self, h: Array, skips: list[Array], emb: Array, train: bool) -> Array:
        """The levels from narrow to wide images, taking the skips from the last to the first."""
        skips = list(skips)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(f"up_{level}_block_{i}", h, self.width(level), emb, train)
                h = self.attention_where_due(f"up_{level}_attention_{i}", h)
            if level > 0 and self.resblock_updown:
                h = self.block(f"up_{level}_sample", h, h.shape[-1], emb, train, "up")
            elif level > 0:
                h = Upsample(dtype=self.dtype, name=f"up_{level}_sample")(h)
        return h

    def _checked(self, x_t: Array, context: Context) -> Context:
        """The context, which holds just what is read."""
        known = {"label": self.num_classes is not None, "low_res": self.reads_low_res}
        read = [key for key, is_read in known.items() if is_read]
        if self.is_initializing():
            missing = {"label": jnp.zeros(x_t.shape[0], jnp.int32), "low_res": x_t}
            context = {**{key: missing[key] for key in read}, **context}
        if set(context) != set(read):
            raise InputError(
                f"a model of num_classes {self.num_classes} and reads_low_res {self.reads_low_res} was given the "
                f"context {sorted(context)}: it reads {read or 'none'}"
            )
        low_res = context.get("low_res", x_t)
        if low_res.ndim != 4 or (low_res.shape[0], low_res.shape[3]) != (x_t.shape[0], x_t.shape[3]):
            raise InputError(
                f"low_res of shape {list(low_res.shape)} beside x_t of {list(x_t.shape)}: give [b h w c] of as many "
                "images and channels"
            )
        return context


class AdmClassifier(AdmEncoder):
    """x [b h w c], a noisy image at t [b] -> logits [b num_classes] float32.

    The way down of the U-Net, and attention pooling, whose heads are those of ``heads_of`` too. The other fields are
    AdmEncoder's; published ones have ``head_channels`` 64. InputErrors as of AdmUNet, and for images of other sides
    than the parameters were made for.
    """

    num_classes: int = 1000
    head_channels: int | None = 64
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (32, 16, 8)
    resblock_updown: bool = True

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool = False) -> Array:
        self.check(x)
        h, _ = self.go_down(x, self.embed_time(t), train)
        pool = AttentionPool(self.num_classes, self.heads_of(h.shape[-1]), wide(self.dtype), name="pool")
        return pool(self.normed_out(h))


def log_prob(logits: Array, label: Array) -> Array:
    """log p(y | x_t) [b], of a classifier's logits [b num_classes] and label [b]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1)[:, 0]
