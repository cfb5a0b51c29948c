"""Configs as diffusers and transformers publish them: what they may say, and the errors for what they may not."""

from collections.abc import Mapping, Sequence
from typing import Any

from marble.errors import InputError


def check_supported(config: Mapping[str, Any], name: str, supported: Mapping[str, Sequence[Any]]) -> None:
    """InputError unless each of these keys, where the config has it, has one of these values."""
    for key, values in supported.items():
        value = _plain(config.get(key, values[0]))
        if value not in [_plain(v) for v in values]:
            raise InputError(f"{name} with {key}={config[key]!r} is not supported: what is, is {_listed(values)}")


def check_blocks(config: Mapping[str, Any], name: str, key: str, supported: Sequence[str]) -> None:
    """InputError unless the blocks that this key names are all of the supported kinds."""
    for block in config.get(key) or ():
        if block not in supported:
            raise InputError(
                f"{name} with the block {block!r} in {key} is not supported: what is, is {_listed(supported)}"
            )


def needed(config: Mapping[str, Any], name: str, key: str) -> Any:
    """config[key], or an InputError."""
    if config.get(key) is None:
        raise InputError(f"{name}'s config has no {key}: it is needed to know the architecture")
    return config[key]


def multiples(widths: Sequence[int], name: str) -> tuple[int, tuple[float, ...]]:
    """(channels, channel_mult) of the widths of a model's levels: the first is one, and whole ones stay whole."""
    if not widths or min(widths) < 1:
        raise InputError(f"{name} with block_out_channels={list(widths)} is not supported: give widths, one a level")
    factors = [width / widths[0] for width in widths]
    return widths[0], tuple(int(f) if f == int(f) else f for f in factors)


def widths_of(channels: int, channel_mult: Sequence[float]) -> list[int]:
    """block_out_channels of ours."""
    return [round(channels * multiple) for multiple in channel_mult]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values)
