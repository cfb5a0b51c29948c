"""The weights of iDDPM's and ADM's U-Nets and classifiers, as their ``.pt`` files name them, and what a file holds.

Their blocks are numbered through: ``input_blocks.N.J`` is part J of the N-th block on the way down, where block 0 is
the first convolution, and each level's blocks are followed by one that halves; ``output_blocks.N.J`` likewise on the
way up, where what doubles is the last part of a level's last block.

The files hold arrays alone. ``model_of`` reads the architecture off their names and shapes. What those don't say, heads
and the order of the qkv layer's channels, and of a U-Net the sides of its images, is taken from the arguments; else
from the published model of the same architecture; else it is assumed, and said.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class Published(NamedTuple):
    """One published architecture, and the process that it was trained for."""

    files: Sequence[str]
    """The files that hold it."""
    model: AdmUNet | AdmClassifier
    image_size: int
    """The sides of x_t."""
    beta_schedule: str = "linear"
    """linear is DDPM's 1e-4 to 0.02, times 1000 / num_train_timesteps."""
    num_train_timesteps: int = 1000
    time_scale: float = 1.0
    """The network is given the step times this."""


SIDES_64, SIDES_128, SIDES_256, SIDES_512 = (1, 2, 3, 4), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4), (0.5, 1, 1, 2, 2, 4, 4)
"""The channel_mult of images of these sides."""

IDDPM_64 = AdmUNet(channels=128, channel_mult=SIDES_64, num_res_blocks=3, num_heads=4, out_channels=6)
IDDPM_256 = IDDPM_64.clone(channel_mult=SIDES_256, num_res_blocks=2)
ADM_256 = AdmUNet(
    channels=256,
    channel_mult=SIDES_256,
    num_res_blocks=2,
    attention_resolutions=(32, 16, 8),
    head_channels=64,
    resblock_updown=True,
    out_channels=6,
)
ADM_LABELS = ADM_256.clone(num_classes=1000)
ADM_64 = ADM_LABELS.clone(channels=192, channel_mult=SIDES_64, num_res_blocks=3, heads_first=False)
ADM_128 = ADM_LABELS.clone(channel_mult=SIDES_128, num_heads=4, head_channels=None)
ADM_UPSAMPLER = ADM_LABELS.clone(channels=192, reads_low_res=True)

PUBLISHED: Sequence[Published] = (
    Published(
        files=("cifar10_uncond_50M_500K.pt", "cifar10_uncond_vlb_50M_500K.pt"),
        model=IDDPM_64.clone(channel_mult=(1, 2, 2, 2)),
        image_size=32,
        beta_schedule="cosine",
        num_train_timesteps=4000,
        time_scale=0.25,
    ),
    Published(
        files=("imagenet64_uncond_100M_1500K.pt", "imagenet64_uncond_vlb_100M_1500K.pt"),
        model=IDDPM_64,
        image_size=64,
        beta_schedule="cosine",
        num_train_timesteps=4000,
        time_scale=0.25,
    ),
    Published(
        files=("imagenet64_cond_270M_250K.pt",),
        model=IDDPM_64.clone(channels=192, num_classes=1000),
        image_size=64,
        beta_schedule="cosine",
        num_train_timesteps=4000,
    ),
    Published(
        files=("lsun_uncond_100M_1200K_bs128.pt", "lsun_uncond_100M_2400K_bs64.pt"),
        model=IDDPM_256.clone(attention_resolutions=(16,), num_heads=1, scale_shift_norm=False),
        image_size=256,
    ),
    Published(
        files=("upsample_cond_500K.pt",),
        model=IDDPM_256.clone(channels=192, num_classes=1000, reads_low_res=True),
        image_size=256,
        num_train_timesteps=4000,
    ),
    Published(("64x64_diffusion.pt",), ADM_64, 64, "cosine"),
    Published(("128x128_diffusion.pt",), ADM_128, 128),
    Published(("256x256_diffusion.pt",), ADM_LABELS, 256),
    Published(
        files=(
            *("256x256_diffusion_uncond.pt", "lsun_bedroom.pt", "lsun_cat.pt"),
            *("lsun_horse.pt", "lsun_horse_nodropout.pt"),
        ),
        model=ADM_256,
        image_size=256,
    ),
    Published(("512x512_diffusion.pt",), ADM_LABELS.clone(channel_mult=SIDES_512), 512),
    Published(("64_256_upsampler.pt",), ADM_UPSAMPLER.clone(num_heads=4, head_channels=None), 256),
    Published(("128_512_upsampler.pt",), ADM_UPSAMPLER.clone(attention_resolutions=(32, 16)), 512),
    Published(("64x64_classifier.pt",), AdmClassifier(channel_mult=SIDES_64, num_res_blocks=4), 64, "cosine"),
    Published(("128x128_classifier.pt",), AdmClassifier(channel_mult=SIDES_128), 128),
    Published(("256x256_classifier.pt",), AdmClassifier(channel_mult=SIDES_256), 256),
    Published(("512x512_classifier.pt",), AdmClassifier(channel_mult=SIDES_512), 512),
)
"""From the READMEs and the defaults of openai/improved-diffusion and openai/guided-diffusion."""


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


class Places(NamedTuple):
    """How the levels stand in the blocks on the way down."""

    num_levels: int
    num_res_blocks: int
    attending: Sequence[int] = ()
    """The levels with attention."""

    def blocks(self, level: int) -> range:
        """The N of ``input_blocks.N`` that are a level's residual blocks; what halves stands before them."""
        start = 1 + level * (self.num_res_blocks + 1)
        return range(start, start + self.num_res_blocks)


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
    places = _places(tensors, source)
    model, image_channels, assumed = _read(tensors, places, reads_low_res, source)
    if isinstance(model, AdmClassifier):
        image_size = _classified_size(tensors, places, image_size, source)
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


def _read(
    tensors: Tensors, places: Places, reads_low_res: bool | None, source: str
) -> tuple[AdmUNet | AdmClassifier, int, list[str]]:
    """The model as far as the file says it, the channels of its images, and what was assumed."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(f"{source} has no {name}: it is no U-Net or classifier of iDDPM or ADM, or not all of one")
        return tensors[name].shape

    channels, width_in = shape("time_embed.0.weight")[1], shape("input_blocks.0.0.weight")[1]
    first_blocks = [f"input_blocks.{places.blocks(level)[0]}.0" for level in range(places.num_levels)]
    widths = [shape(f"{block}.in_layers.2.weight")[0] for block in first_blocks]
    fields = dict(
        channels=channels,
        channel_mult=tuple(width / channels if width % channels else width // channels for width in widths),
        num_res_blocks=places.num_res_blocks,
        scale_shift_norm=shape(f"{first_blocks[0]}.emb_layers.1.weight")[0] == 2 * widths[0],
        resblock_updown=not any(name.endswith((".op.weight", ".conv.weight")) for name in tensors),
    )
    if not _count(tensors, "output_blocks"):
        if "out.2.positional_embedding" not in tensors:
            raise InputError(f"{source} has no way up and no attention pooling: classifiers are read with that alone")
        return AdmClassifier(num_classes=shape("out.2.c_proj.weight")[0], **fields), width_in, []
    out_channels, assumed = shape("out.2.weight")[0], []
    if reads_low_res is None:
        # x_t and low_res have as many channels each, and a learned variance doubles those of the answer.
        reads_low_res = width_in == 2 * out_channels or width_in == out_channels == 6
        assumed = [f"reads_low_res: it reads {width_in} channels and answers {out_channels}"] if reads_low_res else []
    rows = shape("label_emb.weight")[0] if "label_emb.weight" in tensors else None
    model = AdmUNet(out_channels=out_channels, num_classes=rows, reads_low_res=reads_low_res, **fields)
    return model, width_in // 2 if reads_low_res else width_in, assumed


def _places(tensors: Tensors, source: str) -> Places:
    """The one way to divide the blocks on the way down into levels that fits their arrays."""
    found = list(_divisions(tensors))
    if not found:
        raise InputError(f"{source} is no U-Net or classifier of iDDPM or ADM: its blocks are no levels")
    if len(found) > 1:
        ways = " or ".join(f"{places.num_levels} of {places.num_res_blocks}" for places in found)
        raise InputError(f"{source} does not say how its blocks make levels, {ways}: give a config of its model")
    return found[0]


def _divisions(tensors: Tensors) -> Iterator[Places]:
    """A level has num_res_blocks blocks and, but for the first convolution, one before them that halves.

    Blocks that halve have no shortcut and no attention; a level has attention in all of its blocks, or in none.
    """
    count, num_up = _count(tensors, "input_blocks"), _count(tensors, "output_blocks")
    attention, shortcuts, halving = (
        {n for n in range(count) if f"input_blocks.{n}.{part}.weight" in tensors}
        for part in ("1.qkv", "0.skip_connection", "0.op")
    )
    num_doubling = sum(_doubles(name) for name in tensors)
    for num_levels in (n for n in range(1, count) if count % n == 0):
        places = Places(num_levels, count // num_levels - 1)
        levels = [places.blocks(level) for level in range(num_levels)]
        attending = [i for i, blocks in enumerate(levels) if attention.intersection(blocks)]
        if (
            attention == {n for i in attending for n in levels[i]}
            and shortcuts <= {blocks[0] for blocks in levels}
            and (not halving or halving == {blocks[0] - 1 for blocks in levels[1:]})
            and (not num_up or (num_up == count and num_doubling == num_levels - 1))
        ):
            yield places._replace(attending=attending)


def _doubles(name: str) -> bool:
    """Whether this is the kernel of what doubles: a convolution or residual block after the first of its place."""
    first = name.split(".")[2:3] == ["0"]
    return name.startswith("output_blocks.") and not first and name.endswith((".in_layers.2.weight", ".conv.weight"))


def _count(tensors: Tensors, side: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{side}.")})


def _classified_size(tensors: Tensors, places: Places, image_size: int | None, source: str) -> int:
    """The sides of a classifier's images: it has a vector for each pixel at the end, and one for their mean."""
    pixels = tensors["out.2.positional_embedding"].shape[1] - 1
    found = math.isqrt(pixels) * 2 ** (places.num_levels - 1)
    if image_size not in (None, found):
        raise InputError(f"{source} is a classifier of images with sides of {found}, not image_size {image_size}")
    return found


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
