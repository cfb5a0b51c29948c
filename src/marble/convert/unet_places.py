"""The places of a U-Net's blocks, here and in a file: one walk through the network for all that have these blocks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

OURS = {
    "down_block": "down_{level}_block_{i}",
    "down_attention": "down_{level}_attention_{i}",
    "down_sample": "down_{level}_sample",
    "middle_block": "middle_block_{i}",
    "middle_attention": "middle_attention",
    "up_block": "up_{level}_block_{i}",
    "up_attention": "up_{level}_attention_{i}",
    "up_sample": "up_{level}_sample",
}
"""Names of the parts, by what they are, with level and index i. Others' may also have level and index as they are
counted otherwise: above (level - 1), mirrored (the levels from the last), and next (i + 1)."""
DIFFUSERS = {
    "down_block": "down_blocks.{level}.resnets.{i}",
    "down_attention": "down_blocks.{level}.attentions.{i}",
    "down_sample": "down_blocks.{above}.downsamplers.0.conv",
    "middle_block": "mid_block.resnets.{i}",
    "middle_attention": "mid_block.attentions.{i}",
    "up_block": "up_blocks.{mirrored}.resnets.{i}",
    "up_attention": "up_blocks.{mirrored}.attentions.{i}",
    "up_sample": "up_blocks.{mirrored}.upsamplers.0.conv",
}


class Place(NamedTuple):
    """One part of the network."""

    kind: Literal["block", "attention", "sample"]
    level: int | None
    """None in the middle."""
    ours: str
    theirs: str
    is_wider: bool
    """Of a block: whether its number of channels changes."""


def places(
    channels: int, widths: Sequence[int], num_res_blocks: int, attends: Sequence[bool], theirs: Mapping[str, str]
) -> Iterator[Place]:
    """The parts in the order of the computation; channels are those after the first layer, widths those of levels."""
    for part, level, i, is_wider in _walk(channels, widths, num_res_blocks, attends):
        counted = dict(level=level, i=i, above=(level or 0) - 1, mirrored=len(widths) - 1 - (level or 0), next=i + 1)
        kind = part.partition("_")[2]
        yield Place(kind, level, OURS[part].format(**counted), theirs[part].format(**counted), is_wider)


def _walk(
    channels: int, widths: Sequence[int], num_res_blocks: int, attends: Sequence[bool]
) -> Iterator[tuple[str, int | None, int, bool]]:
    """(part, level, index, whether its channels change)."""
    width, skips = channels, [channels]
    for level, features in enumerate(widths):
        if level > 0:
            yield "down_sample", level, 0, False
            skips.append(width)
        for i in range(num_res_blocks):
            yield "down_block", level, i, width != features
            if attends[level]:
                yield "down_attention", level, i, False
            width = features
            skips.append(width)
    yield from (("middle_block", None, i, False) for i in (0, 1))
    yield "middle_attention", None, 0, False
    for level, features in reversed(list(enumerate(widths))):
        for i in range(num_res_blocks + 1):
            yield "up_block", level, i, width + skips.pop() != features
            if attends[level]:
                yield "up_attention", level, i, False
            width = features
        if level > 0:
            yield "up_sample", level, 0, False
