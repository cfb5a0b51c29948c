"""What the names and shapes of a file say of a network of iDDPM or ADM: its levels, widths, and what it answers.

``marble.convert.adm.model_of`` adds what they don't say.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from marble.convert.reading import Shapes
from marble.convert.tensors import Tensors
from marble.errors import InputError
from marble.models.adm import AdmClassifier, AdmUNet

DOWN, UP = r"input_blocks\.([^.]+)", r"output_blocks\.([^.]+)"
"""How the names of the numbered blocks begin."""
NOT_ALL = "it is no U-Net or classifier of iDDPM or ADM, or not all of one"


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


def places_of(tensors: Tensors, source: str) -> Places:
    """The one way to divide the blocks on the way down into levels that fits their arrays."""
    found = list(_divisions(tensors, source))
    if not found:
        raise InputError(f"{source} is no U-Net or classifier of iDDPM or ADM: its blocks are no levels")
    if len(found) > 1:
        ways = " or ".join(f"{places.num_levels} of {places.num_res_blocks}" for places in found)
        raise InputError(f"{source} does not say how its blocks make levels, {ways}: give a config of its model")
    return found[0]


def _divisions(tensors: Tensors, source: str) -> Iterator[Places]:
    """A level has num_res_blocks blocks and, but for the first convolution, one before them that halves.

    Blocks that halve have no shortcut and no attention; a level has attention in all of its blocks, or in none.
    """
    shapes = Shapes(tensors, source, NOT_ALL)
    count, num_up = shapes.count(DOWN), shapes.count(UP)
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


def read(
    tensors: Tensors, places: Places, reads_low_res: bool | None, source: str
) -> tuple[AdmUNet | AdmClassifier, int, list[str]]:
    """The model as far as the file says it, the channels of its images, and what was assumed."""
    shapes = Shapes(tensors, source, NOT_ALL)
    channels, width_in = shapes.of("time_embed.0.weight")[1], shapes.of("input_blocks.0.0.weight")[1]
    first_blocks = [f"input_blocks.{places.blocks(level)[0]}.0" for level in range(places.num_levels)]
    widths = [shapes.of(f"{block}.in_layers.2.weight")[0] for block in first_blocks]
    fields = dict(
        channels=channels,
        channel_mult=tuple(width / channels if width % channels else width // channels for width in widths),
        num_res_blocks=places.num_res_blocks,
        scale_shift_norm=shapes.of(f"{first_blocks[0]}.emb_layers.1.weight")[0] == 2 * widths[0],
        resblock_updown=not any(name.endswith((".op.weight", ".conv.weight")) for name in tensors),
    )
    if not shapes.count(UP):
        if "out.2.positional_embedding" not in tensors:
            raise InputError(f"{source} has no way up and no attention pooling: classifiers are read with that alone")
        return AdmClassifier(num_classes=shapes.of("out.2.c_proj.weight")[0], **fields), width_in, []
    out_channels, assumed = shapes.of("out.2.weight")[0], []
    if reads_low_res is None:
        # x_t and low_res have as many channels each, and a learned variance doubles those of the answer.
        reads_low_res = width_in == 2 * out_channels or width_in == out_channels == 6
        assumed = [f"reads_low_res: it reads {width_in} channels and answers {out_channels}"] if reads_low_res else []
    rows = shapes.of("label_emb.weight")[0] if "label_emb.weight" in tensors else None
    model = AdmUNet(out_channels=out_channels, num_classes=rows, reads_low_res=reads_low_res, **fields)
    return model, width_in // 2 if reads_low_res else width_in, assumed


def classified_size(tensors: Tensors, places: Places, image_size: int | None, source: str) -> int:
    """The sides of a classifier's images: it has a vector for each pixel at the end, and one for their mean."""
    pixels = tensors["out.2.positional_embedding"].shape[1] - 1
    found = math.isqrt(pixels) * 2 ** (places.num_levels - 1)
    if image_size not in (None, found):
        raise InputError(f"{source} is a classifier of images with sides of {found}, not image_size {image_size}")
    return found
