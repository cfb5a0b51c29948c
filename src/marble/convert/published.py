"""Configs as diffusers and transformers publish them: what they may say, and the errors for what they may not."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from marble.errors import InputError

Pair = tuple[str, str]
"""A kind of block: on the way down, and up."""


@contextlib.contextmanager
def told_of(path: str | PathLike[str]) -> Iterator[None]:
    """A block whose InputErrors begin with the path of what is wrong, where they don't yet."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error


def check_supported(config: Mapping[str, Any], name: str, supported: Mapping[str, Sequence[Any]]) -> None:
    """InputError unless each of these keys, where the config has it, has one of these values."""
    for key, values in supported.items():
        value = _plain(config.get(key, values[0]))
        if value not in [_plain(v) for v in values]:
            raise unsupported(name, key, config[key], _listed(values))


def check_blocks(config: Mapping[str, Any], name: str, key: str, supported: Sequence[str]) -> None:
    """InputError unless the blocks that this key names are all of the supported kinds."""
    for block in config.get(key) or ():
        if block not in supported:
            raise InputError(
                f"{name} with the block {block!r} in {key} is not supported: what is, is {_listed(supported)}"
            )


def attending(config: Mapping[str, Any], name: str, levels: int, plain: Pair, with_attention: Pair) -> list[bool]:
    """Whether each level attends, by the blocks that a config names; the kinds are those on the way down, and up.

    InputError where there is another block, or not one a level, and where the way up is not the way down.
    """
    down, up = needed(config, name, "down_block_types"), needed(config, name, "up_block_types")
    for key, side in (("down_block_types", 0), ("up_block_types", 1)):
        check_blocks(config, name, key, (plain[side], with_attention[side]))
    attends = [block == with_attention[0] for block in down]
    if [block == with_attention[1] for block in reversed(up)] != attends:
        raise unsupported(name, "up_block_types", list(up), "down_block_types reversed")
    if len(attends) != levels:
        raise unsupported(name, "down_block_types", list(down), f"{levels} blocks, one for each of block_out_channels")
    return attends


def unsupported(name: str, key: str, value: Any, supported: str) -> InputError:
    """The error for a key of a config that says what our network is not."""
    return InputError(f"{name} with {key}={value!r} is not supported: what is, is {supported}")


def needed(config: Mapping[str, Any], name: str, key: str) -> Any:
    """config[key], or an InputError."""
    if config.get(key) is None:
        raise InputError(f"{name}'s config has no {key}: it is needed to know the architecture")
    return config[key]


def side_of(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """The sides of what the network reads, by sample_size: a number, or that number twice. InputError for another."""
    size = needed(config, name, "sample_size") if default is None else config.get("sample_size", default)
    side = size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size
    if not isinstance(side, int):
        raise unsupported(name, "sample_size", size, "a number")
    return side


def one_number_of_channels(config: Mapping[str, Any], name: str, default: int) -> int:
    """in_channels and out_channels; InputError where they differ."""
    read, made = config.get("in_channels", default), config.get("out_channels", default)
    if read != made:
        raise unsupported(name, "in_channels", read, f"that of out_channels, {made}")
    return made


def multiples(widths: Sequence[int], name: str) -> tuple[int, tuple[float, ...]]:
    """(channels, channel_mult) of the widths of a model's levels: the first is one, and whole ones stay whole."""
    if not widths or min(widths) < 1:
        raise unsupported(name, "block_out_channels", list(widths), "one width, above 0, a level")
    factors = [width / widths[0] for width in widths]
    return widths[0], tuple(int(f) if f == int(f) else f for f in factors)


def widths_of(channels: int, channel_mult: Sequence[float]) -> list[int]:
    """block_out_channels of ours."""
    return [round(channels * multiple) for multiple in channel_mult]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values)
