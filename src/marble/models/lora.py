"""LoRA: kernels that stay as they are, plus products of two narrow ones, which alone are trained (Hu et al. 2021).

    W' = W + (alpha / rank) * down @ up

An adapter of a kernel W [... in out] is ``down`` [... in rank] and ``up`` [rank out]. Of a dense layer it adds
``(alpha / rank) * x @ down @ up`` to what the layer says of x; of a convolution, a convolution of the same window and
stride to ``rank`` channels, and a 1x1 convolution after it. Adapters are a tree that nests as the parameters do, with a
pair at the place of the kernel: ``a/b/kernel/down``.

No layer knows of this: ``merged`` makes whole parameters, for any model's ``apply``, and the gradient flows through it.
It forms every W' that has an adapter, which costs in * rank * out, little beside what a batch costs.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from marble.errors import InputError
from marble.models.layers import wide
from marble.schema import nearest
from marble.typing import Array

ATTENTION = r"attention(_\d+)?/(query|key|value|proj)/kernel$"
"""The four kernels of every attention: of the transformers of a U-Net those to itself and to the text."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which kernels are adapted, and how: alpha None is rank, so that the product is added as it is.

    Targets are regular expressions, searched for in the path ``a/b/kernel``. InputError for a rank below 1, an alpha
    that is not a number above 0, and what is no regular expression.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = (ATTENTION,)

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InputError(f"lora.rank={self.rank!r} must be a whole number of at least 1")
        if self.alpha is not None and not (isinstance(self.alpha, int | float) and 0 < self.alpha < math.inf):
            raise InputError(f"lora.alpha={self.alpha!r} must be a number above 0, or None for the rank")
        if isinstance(self.targets, str) or not self.targets:
            raise InputError(f"lora.targets={self.targets!r} must be a list of one or more regular expressions")
        for expression in self.targets:
            try:
                re.compile(expression)
            except (re.error, TypeError) as error:
                raise InputError(f"lora.targets={expression!r} is no regular expression: {error}") from error

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def targeted(lora: Lora, shapes: Any) -> list[str]:
    """The paths of the kernels that are adapted, in the parameters' order; InputError if a target is none of them.

    shapes is the tree of the parameters, or what ``jax.eval_shape`` says of it.
    """
    kernels = [path for path, leaf in _flat(shapes).items() if _is_kernel(path, leaf)]
    for expression in lora.targets:
        if not any(re.search(expression, path) for path in kernels):
            endings = sorted({"/".join(path.split("/")[-3:]) for path in kernels})
            raise InputError(f"lora.targets={expression!r} is in no kernel's path{nearest(expression, endings)}")
    return [path for path in kernels if any(re.search(expression, path) for expression in lora.targets)]


def init(lora: Lora, shapes: Any, key: Array) -> dict[str, Any]:
    """Adapters, float32: down ~ N(0, 1 / rank²), up = 0, so that at first nothing is added.

    The deviation of 1 / rank is that of diffusers' training scripts, so their learning rates hold here. A pair is drawn
    by its path alone: what else is adapted does not change it. shapes and errors are those of ``targeted``.
    """
    flat = _flat(shapes)
    drawn = {path: _pair(lora.rank, flat[path].shape, _folded(key, path)) for path in targeted(lora, shapes)}
    return traverse_util.unflatten_dict(drawn, sep="/")


def merged(lora: Lora, params: Any, adapters: Any, scale: Any = 1.0) -> dict[str, Any]:
    """W + scale * (alpha / rank) * down @ up for every kernel with an adapter; other leaves are the same objects.

    The sum is ``wide`` and then of the kernel's dtype. scale, which may be traced, is the strength: 0 gives the base's
    numbers. Adapters of several files are merged one after the other. InputError for adapters that don't fit.
    """
    flat, found = dict(_flat(params)), pairs(adapters)
    check_ranks(lora, found)
    for path, pair in found.items():
        flat[path] = _sum(path, flat.get(path), pair, scale, lora.scaling)
    return traverse_util.unflatten_dict(flat, sep="/")


def pairs(adapters: Any) -> dict[str, Mapping[str, Any]]:
    """{"a/b/kernel": {"down", "up"}} of adapters; InputError if one is no such pair."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in _flat(adapters).items():
        kernel, _, half = path.rpartition("/")
        found.setdefault(kernel, {})[half] = leaf
    for path, pair in found.items():
        if set(pair) != {"down", "up"}:
            raise InputError(f"the adapter {path} is {sorted(pair)}, and must be a pair of down and up")
        down, up = pair["down"].shape, pair["up"].shape
        if len(down) < 2 or len(up) != 2 or down[-1] != up[0]:
            raise InputError(f"the adapter {path} has down {list(down)} and up {list(up)}: no product of them")
    return found


def check_ranks(lora: Lora, found: Mapping[str, Mapping[str, Any]]) -> None:
    """InputError if no pair has the rank of lora: then its alpha / rank is not theirs. A file may have other ranks."""
    ranks = sorted({pair["up"].shape[0] for pair in found.values()})
    if lora.rank not in ranks:
        raise InputError(f"lora.rank={lora.rank} is that of no adapter; theirs are {ranks}")


def num_parameters(adapters: Any) -> int:
    """How many numbers are trained."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(adapters))


def _sum(path: str, kernel: Any, pair: Mapping[str, Any], scale: Any, scaling: float) -> Array:
    down, up = pair["down"], pair["up"]
    if kernel is None:
        raise InputError(f"the adapter {path} is of no kernel of these parameters: is it of this model?")
    if kernel.shape != (*down.shape[:-1], up.shape[-1]):
        raise InputError(
            f"the adapter {path} has down {list(down.shape)} and up {list(up.shape)}, "
            f"and its kernel is {list(kernel.shape)}: is it of this model?"
        )
    dtype = wide(kernel.dtype)
    # The default precision of a TPU is bfloat16's, and W' would lose what training has found.
    product = jnp.matmul(down.astype(dtype), up.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    strength = jnp.asarray(scale, dtype) * jnp.asarray(scaling, dtype)
    return (kernel.astype(dtype) + strength * product).astype(kernel.dtype)


def _pair(rank: int, shape: Iterable[int], key: Array) -> dict[str, Array]:
    *window, inputs, outputs = shape
    down = jax.random.normal(key, (*window, inputs, rank), jnp.float32) / rank
    return {"down": down, "up": jnp.zeros((rank, outputs), jnp.float32)}


def _folded(key: Array, path: str) -> Array:
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def _is_kernel(path: str, leaf: Any) -> bool:
    return path.rpartition("/")[2] == "kernel" and len(leaf.shape) >= 2


def _flat(tree: Any) -> Mapping[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")
