"""Which part of a parameter a device has where not every device has all of it."""

import re
from collections.abc import Callable, Sequence

from jax.sharding import PartitionSpec

from marble.errors import InputError


def spec_by_path(
    paths: Sequence[str], min_size: int, num_devices: int
) -> Callable[[str, tuple[int, ...]], PartitionSpec]:
    """spec(path, shape): the arrays in whose path one of these regular expressions is found are split.

    The moments of an optimiser and the moving average have the path of their parameter in their own, so one rule serves
    all of them. An array is split along its longest axis that num_devices divides, the first of equals; one of fewer
    than min_size numbers, or without such an axis, is whole on every device. InputError for what is no expression.
    """
    try:
        expressions = [re.compile(path) for path in paths]
    except re.error as error:
        raise InputError(f"parallel.fsdp_paths={tuple(paths)}: {error}; give regular expressions") from error

    def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        size = 1
        for length in shape:
            size *= length
        axes = [axis for axis, length in enumerate(shape) if length % num_devices == 0 and length]
        if size < min_size or not axes or not any(e.search(path) for e in expressions):
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, "data")

    return spec
