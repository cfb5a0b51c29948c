"""The weights of iDDPM's and ADM's U-Nets and classifiers, as their ``.pt`` files name them, and what a file holds.

Their blocks are numbered through: ``input_blocks.N.J`` is part J of the N-th block on the way down, where block 0 is
the first convolution, and each level's blocks are followed by one that halves; ``output_blocks.N.J`` likewise on the
way up, where what doubles is the last part of a level's last block.

The files hold arrays alone. ``model_of`` reads the architecture off their names and shapes. What those don't say, heads
and the order of the qkv layer's channels, and of a U-Net the sides of its images, is taken from the arguments; else
from the published model of the same architecture; else it is assumed, and said.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marble.convert.adm_published import PUBLISHED, Published
from marble.convert.adm_reading import Places, classified_size, places_of, read
from marble.convert.names import CONV, DENSE, POINTWISE, POINTWISE_1D, Entry, embedding, layer, norm, within
from marble.convert.tensors import Tensors
from marble.errors import InputError
from marble.models.adm import AdmClassifier, AdmEncoder, AdmUNet


def table(model: AdmEncoder, image_size: int) -> list[Entry]:
    """Every array of a model for images of that height, in the order of their file."""
    if not isinstance(model, AdmUNet | AdmClassifier):
        raise InputError(f"{type(model).__name__} has no table here: give an AdmUNet or an AdmClassifier")
    entries = layer("time/dense_0", "time_embed.0", DENSE) + layer("time/dense_1", "time_embed.2", DENSE)
    if isinstance(model, AdmUNet) and model.num_classes is not None:
        entries += embedding("label", "label_emb")
    entries += _down(model, image_size) + _middle()
    if isinstance(model, AdmClassifier):
        return entries + norm("norm_out", "out.0") + within("pool", "out.2.", _pool())
    return entries + _up(model, image_size) + norm("norm_out", "out.0") + layer("conv_out", "out.2", CONV)


def shapes_of(model: AdmEncoder, image_size: int, image_channels: int = 3) -> Any:
    """The shapes of its parameters for square images of these sides; nothing of their size is made."""
    x, t = jnp.zeros((1, image_size, image_size, image_channels)), jnp.zeros(1)
    return jax.eval_shape(model.init, jax.random.key(0), x, t)["params"]


def attends(model: AdmEncoder, image_size: int, level: int) -> bool:
    """Whether a level's blocks are followed by attention."""
    return image_size // 2**level in model.attention_resolutions


def _down(model: AdmEncoder, image_size: int) -> list[Entry]:
    entries, place = layer("conv_in", "input_blocks.0.0", CONV), 1
    for level in range(len(model.channel_mult)):
        if level > 0:
            sample = _block() if model.resblock_updown else layer("", "op", CONV)
            entries += _part(f"down_{level}_sample", f"input_blocks.{place}.0", sample)
            place += 1
        for i in range(model.num_res_blocks):
            has_shortcut = i == 0 and level > 0 and model.width(level) != model.width(level - 1)
            entries += _part(f"down_{level}_block_{i}", f"input_blocks.{place}.0", _block(has_shortcut))
            if attends(model, image_size, level):
                entries += _part(f"down_{level}_attention_{i}", f"input_blocks.{place}.1", _attention())
            place += 1
    return entries


def _middle() -> list[Entry]:
    return [
        *_part("middle_block_0", "middle_block.0", _block()),
        *_part("middle_attention", "middle_block.1", _attention()),
        *_part("middle_block_1", "middle_block.2", _block()),
    ]


def _up(model: AdmUNet, image_size: int) -> list[Entry]:
    entries, place = [], 0
    for level in reversed(range(len(model.channel_mult))):
        has_attention = attends(model, image_size, level)
        for i in range(model.num_res_blocks + 1):
            entries += _part(f"up_{level}_block_{i}", f"output_blocks.{place}.0", _block(has_shortcut=True))
            if has_attention:
                entries += _part(f"up_{level}_attention_{i}", f"output_blocks.{place}.1", _attention())
            place += 1
        if level > 0:
            sample = _block() if model.resblock_updown else layer("", "conv", CONV)
            entries += _part(f"up_{level}_sample", f"output_blocks.{place - 1}.{1 + has_attention}", sample)
    return entries


def _part(ours: str, theirs: str, entries: list[Entry]) -> list[Entry]:
    """The table of a part under its names; a part that is one layer has paths that begin with a slash."""
    bare = [entry._replace(ours=entry.ours.removeprefix("/")) for entry in entries]
    return within(ours, f"{theirs}.", bare)


def _block(has_shortcut: bool = False) -> list[Entry]:
    shortcut = layer("shortcut", "skip_connection", POINTWISE) if has_shortcut else []
    return [
        *norm("norm_0", "in_layers.0"),
        *layer("conv_0", "in_layers.2", CONV),
        *layer("emb", "emb_layers.1", DENSE),
        *norm("norm_1", "out_layers.0"),
        *layer("conv_1", "out_layers.3", CONV),
        *shortcut,
    ]


def _attention() -> list[Entry]:
    return norm("norm", "norm") + layer("qkv", "qkv", POINTWISE_1D) + layer("proj", "proj_out", POINTWISE_1D)


def _pool() -> list[Entry]:
    return [
        Entry("positions", "positional_embedding", DENSE),
        *layer("qkv", "qkv_proj", POINTWISE_1D),
        *layer("proj", "c_proj", POINTWISE_1D),
    ]


HEAD_CHANNELS = 64
"""Of most published models of ADM, and assumed of others that resample in residual blocks."""


class Found(NamedTuple):
    """What a file holds."""

    model: AdmUNet | AdmClassifier
    image_size: int
    """The sides of x_t."""
    image_channels: int
    published: Published | None
    """The published model of this architecture, where there is one: it knows the process too."""
    assumed: Sequence[str]
    """What the file does not say, and where it was taken from, a sentence each."""


def model_of(
    tensors: Tensors,
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
    head_channels: int | None = None,
    heads_first: bool | None = None,
    reads_low_res: bool | None = None,
    source: str = "the file",
) -> Found:
    """The model of a file's tensors; what an argument gives is not asked of the published models.

    num_groups is 32, as in all of them, and dropout 0. InputError, which begins with source, for a file of another
    architecture, or one whose images' sides are not known.
    """
    if num_heads is not None and head_channels is not None:
        raise InputError(f"num_heads {num_heads} and head_channels {head_channels}: give one of them")
    places = places_of(tensors, source)
    model, image_channels, assumed = read(tensors, places, reads_low_res, source)
    if isinstance(model, AdmClassifier):
        image_size = classified_size(tensors, places, image_size, source)
    published = _published(model, places, image_size)
    if published is not None and image_size is None:
        image_size = published.image_size
        assumed.append(f"image_size {image_size}: {_as(published)}")
    if image_size is None:
        raise InputError(
            f"{source} is none of the published models, and does not say for what images it is: give image_size"
        )
    heads, said = _heads(model, published, num_heads, head_channels)
    if heads_first is None:
        heads_first = published is None or published.model.heads_first
        said.append(f"heads_first {heads_first}: {_as(published) if published else 'the default of guided-diffusion'}")
    heights = tuple(image_size // 2**level for level in places.attending)
    model = model.clone(attention_resolutions=heights, heads_first=heads_first, **heads)
    return Found(model, image_size, image_channels, published, (*assumed, *said))


def _published(model: AdmEncoder, places: Places, image_size: int | None) -> Published | None:
    """The published model with the same arrays, if it is for images of that size."""
    unsaid = ("attention_resolutions", "num_heads", "head_channels", "heads_first")
    for published in PUBLISHED:
        other, size = published.model, published.image_size
        attending = [level for level in range(len(other.channel_mult)) if attends(other, size, level)]
        same = other.clone(**{name: getattr(model, name) for name in unsaid}) == model
        if same and attending == list(places.attending) and image_size in (None, size):
            return published
    return None


def _heads(
    model: AdmEncoder, published: Published | None, num_heads: int | None, head_channels: int | None
) -> tuple[dict[str, int | None], list[str]]:
    """num_heads and head_channels, and a sentence where neither was given."""
    if num_heads is not None or head_channels is not None:
        return {"num_heads": num_heads or model.num_heads, "head_channels": head_channels}, []
    is_adm = isinstance(model, AdmClassifier) or model.resblock_updown
    if published is not None:
        num_heads, head_channels, reason = published.model.num_heads, published.model.head_channels, _as(published)
    elif is_adm:
        num_heads, head_channels, reason = model.num_heads, HEAD_CHANNELS, "as most published models of ADM have"
    else:
        num_heads, head_channels, reason = 4, None, "as most published models of iDDPM have"
    value = f"num_heads {num_heads}" if head_channels is None else f"head_channels {head_channels}"
    return {"num_heads": num_heads, "head_channels": head_channels}, [f"{value}: {reason}"]


def _as(published: Published) -> str:
    return f"as {published.files[0]}, whose arrays have the same names and shapes"
