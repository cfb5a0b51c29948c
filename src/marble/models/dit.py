"""The diffusion transformer, DiT (Peebles and Xie 2023): patches of x_t as tokens, time and label in every block.

Time and label become one vector. In each block a dense layer of it shifts and scales what the two branches read, and
gates what they add (adaLN-zero): the layer starts at 0, so that a fresh network is the identity between its ends.
Told of a text, patches attend to it in each block, between the two branches (PixArt-alpha, Chen et al. 2023).

With 4 latent channels in, 8 out and 1000 classes, S/2 (width 384, 12 layers, 6 heads) has 32,865,056 parameters,
B/2 (768, 12, 12) 130,315,808, L/2 (1024, 24, 16) 457,840,672 and XL/2 (the defaults) 674,834,720.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.models.attention import Implementation, MultiHeadAttention, check_heads
from marble.models.embeddings import Convention, TimeEmbedding, span_of, timestep_embedding
from marble.models.layers import dense, layer_norm, wide
from marble.models.patches import from_patches, into_patches
from marble.models.transformer import Perceptron
from marble.typing import Array, Context

TIME_CHANNELS = 256
"""Of the sinusoids, whatever the width."""
TEXT = "text", "text_mask"


class DiT(nn.Module):
    """x_t [b h w c], t [b] (steps, integers or floats), context -> [b h w out_channels] float32.

    With ``num_classes`` the context may hold ``label`` [b] in 0..num_classes, where ``num_classes`` is the null class;
    no label means the null class. With ``text_channels`` it holds ``text`` [b l text_channels], and it may hold
    ``text_mask`` [b l], True for the tokens that are to be attended to. With ``reads_s`` it may hold ``s`` [b], the
    time that a step goes to: the answer is then of the whole way there (Geng et al. 2025).

    Positions are of the image at hand, 0 to h / patch_size - 1 and 0 to w / patch_size - 1; with ``grid_size`` they are
    stretched to 0..grid_size, as diffusers does with an image that has another size than those trained on.
    ``time_convention`` is how sinusoids of t stand: "adm" in the paper's own weights, "mixed" in diffusers'; and
    ``perceptron_epsilon``, of the LayerNorm before each perceptron, is 1e-6 in the paper's and 1e-5 in diffusers'.
    ``dtype`` is what is computed in (parameters stay float32), and ``remat`` computes the blocks a second time in the
    gradient instead of keeping their insides. ``scan_blocks`` compiles one block for all of them, whose parameters are
    stacked in the program and stay one block's each outside of it: a gradient then compiles in a tenth of the time.
    ``train`` changes nothing: DiT has no dropout.

    An InputError, at trace time, for: a width that num_heads or 4 don't divide; h or w that patch_size doesn't divide;
    a context that the network doesn't read.
    """

    out_channels: int = 4
    patch_size: int = 2
    width: int = 1152
    num_layers: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int | None = 1000
    text_channels: int | None = None
    reads_s: bool = False
    grid_size: int | None = None
    time_convention: Convention = "adm"
    perceptron_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    remat: bool = False
    scan_blocks: bool = False
    attention_implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x_t: Array, t: Array, context: Context | None = None, *, train: bool = False) -> Array:
        self._check(x_t, context or {})
        rows, columns = x_t.shape[1] // self.patch_size, x_t.shape[2] // self.patch_size
        label = (context or {}).get("label")
        given = (self.width, self.num_classes, self.time_convention, self.dtype)
        emb = Conditioning(*given, name="conditioning")(t, label)
        if self.reads_s:
            features = dict(features=self.width, convention=self.time_convention, is_zero=True, name="span")
            emb += TimeEmbedding(TIME_CHANNELS, self.dtype, **features)(span_of(t, context))
        x = dense(self.width, dtype=self.dtype, name="patches")(into_patches(x_t, self.patch_size))
        x = (x + positions(rows, columns, self.width, self.grid_size)[None]).astype(self.dtype)
        x = self._blocks(x, emb, *((context or {}).get(name) for name in TEXT))
        shift, scale = modulation(emb, 2, self.width, self.dtype, "modulation_out")
        x = layer_norm(1e-6, is_affine=False, dtype=self.dtype, name="norm_out")(x) * (1 + scale) + shift
        x = dense(self.patch_size**2 * self.out_channels, zero=True, dtype=self.dtype, name="dense_out")(x)
        return from_patches(x, rows, columns, self.patch_size).astype(wide(self.dtype))

    def _blocks(self, x: Array, emb: Array, *told: Array | None) -> Array:
        kind = nn.remat(DiTBlock) if self.remat else DiTBlock
        features = int(self.width * self.mlp_ratio)
        given = (self.num_heads, features, self.perceptron_epsilon, self.dtype, self.attention_implementation)
        names = [f"block_{i}" for i in range(self.num_layers)]
        if not self.scan_blocks or self.is_initializing():
            for name in names:
                x = kind(*given, name=name)(x, emb, *told)
            return x
        stacked = jax.tree.map(lambda *of_blocks: jnp.stack(of_blocks), *map(self.variables["params"].get, names))
        block = kind(*given, parent=None)
        return jax.lax.scan(lambda x, params: (block.apply({"params": params}, x, emb, *told), None), x, stacked)[0]

    def _check(self, x_t: Array, context: Context) -> None:
        for name in ("patch_size", "width", "num_layers", "num_heads", "grid_size", "text_channels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.width * self.mlp_ratio < 1:
            raise InputError(f"model.mlp_ratio={self.mlp_ratio} must be above 0, or the perceptrons have no channels")
        check_heads(self.width, self.num_heads)
        if x_t.ndim != 4 or x_t.shape[1] % self.patch_size or x_t.shape[2] % self.patch_size:
            raise InputError(
                f"x_t of shape {list(x_t.shape)}: patches of {self.patch_size} take [b h w c] "
                f"with h and w multiples of {self.patch_size}"
            )
        read = [*([] if self.num_classes is None else ["label"]), *([] if self.text_channels is None else TEXT)]
        read += ["s"] if self.reads_s else []
        if set(context) - set(read) or ("text" in read and "text" not in context):
            raise InputError(
                f"a model of num_classes {self.num_classes} and text_channels {self.text_channels} was given the "
                f"context {sorted(context)}: it reads {read or 'none'}"
            )


class Conditioning(nn.Module):
    """t [b], label [b] or None -> [b width]: two dense layers of the sinusoids of t, plus the label's row.

    With num_classes there is a row a class and one more, the last, for no class. All start as N(0, 0.02^2).
    """

    width: int
    num_classes: int | None
    time_convention: Convention = "adm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: Array, label: Array | None = None) -> Array:
        init = nn.initializers.normal(0.02)
        layer = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name=name)  # noqa: E731
        h = timestep_embedding(t, TIME_CHANNELS, self.time_convention)
        emb = layer("time_1")(nn.silu(layer("time_0")(h)))
        if self.num_classes is None:
            return emb
        rows = nn.Embed(self.num_classes + 1, self.width, dtype=self.dtype, embedding_init=init, name="label")
        return emb + rows(jnp.full(t.shape, self.num_classes, jnp.int32) if label is None else label)


class DiTBlock(nn.Module):
    """x + gate attention(norm(x) (1 + scale) + shift), then the same with a perceptron of ``features``.

    x [b n c], emb [b c] -> [b n c]; the six of shift, scale and gate [b 1 c] are a dense layer of swish(emb) that
    starts at 0. ``epsilon`` is the second norm's; the first one's is 1e-6. Between them x attends to
    the text [b l d], where there is one, as it is; what that adds starts at 0 too.
    """

    num_heads: int
    features: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: Array, emb: Array, text: Array | None = None, text_mask: Array | None = None) -> Array:
        norm_0, norm_1 = (
            layer_norm(epsilon, is_affine=False, dtype=self.dtype, name=f"norm_{i}")
            for i, epsilon in enumerate((1e-6, self.epsilon))
        )
        attention = MultiHeadAttention(
            self.num_heads, dtype=self.dtype, implementation=self.implementation, name="attention"
        )
        perceptron = Perceptron(self.features, "gelu_new", self.dtype, name="perceptron")
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = modulation(emb, 6, x.shape[-1], self.dtype, "modulation")
        x = x + gate_0 * attention(norm_0(x) * (1 + scale_0) + shift_0)
        if text is not None:
            options = dict(zero=True, dtype=self.dtype, implementation=self.implementation)
            x = x + MultiHeadAttention(self.num_heads, **options, name="text_attention")(x, text, text_mask)
        return x + gate_1 * perceptron(norm_1(x) * (1 + scale_1) + shift_1)


def modulation(emb: Array, parts: int, width: int, dtype: Any, name: str) -> list[Array]:
    """That many [b 1 width], of a dense layer of swish(emb) which starts at 0."""
    return jnp.split(dense(parts * width, zero=True, dtype=dtype, name=name)(nn.silu(emb))[:, None], parts, axis=-1)


def positions(rows: int, columns: int, channels: int, grid_size: int | None = None) -> np.ndarray:
    """Where each patch is, [rows*columns channels] float32: half of the channels for its column, half for its row.

    Each half is sines, then cosines, of the place times 1e4^(-i / (channels/4)) (Vaswani et al. 2017, in two
    dimensions). With grid_size places are multiplied by grid_size / rows and grid_size / columns. InputError unless 4
    divides the channels.
    """
    if channels % 4:
        raise InputError(f"model.width={channels}: 2-D positions take a multiple of 4, as {channels + -channels % 4}")
    places = [np.arange(n) * ((grid_size or n) / n) for n in (columns, rows)]
    column, row = np.meshgrid(*places)
    frequencies = 1e4 ** (-np.arange(channels // 4) / (channels // 4))
    angles = [place.reshape(-1, 1) * frequencies[None] for place in (column, row)]
    return np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=-1).astype(np.float32)
