"""FID's Inception in the files that PyTorch's libraries share: ``pt_inception-2015-12-05-6726825d.pth`` and its copies.

pytorch-fid, torch-fidelity, torchmetrics and others read the same arrays by the same names, in a checkpoint of PyTorch;
an npz or a safetensors of these names is read too. Our paths are their names, so the table is a rule.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from marble.convert.names import CONV, DENSE, SAME, Entry, flat, params_of, renamed
from marble.convert.npz_file import read_arrays
from marble.convert.tensors import Tensor, Tensors
from marble.models.inception import LEAST_SIDE, Inception

NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Our numbers of a batch normalisation, and PyTorch's."""
COUNTER = ".num_batches_tracked"
"""How a name ends of what PyTorch keeps for training alone."""


def open_inception(path: str | os.PathLike[str]) -> tuple[Inception, Any]:
    """(network, parameters) of a file; InputError, which begins with the path, for a file of another network."""
    model, tensors = Inception(), as_now(read_arrays(path))
    return model, params_of(table(model), tensors, shapes_of(model), source=os.fspath(path))


@functools.cache
def shapes_of(model: Inception) -> Any:
    """The shapes of its parameters, for which nothing is computed: tracing 94 convolutions takes its time, too."""
    image = jnp.zeros((1, LEAST_SIDE, LEAST_SIDE, 3))
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def table(model: Inception) -> list[Entry]:
    """Our paths and their names."""
    layers = [path for path in flat(shapes_of(model)) if not path.startswith("fc")]
    ends = [Entry("fc/kernel", "fc.weight", DENSE), Entry("fc_bias", "fc.bias")]
    return [_entry(path) for path in layers] + ends


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of a file without the counters that PyTorch keeps for training."""
    return renamed(tensors, lambda name: None if name.endswith(COUNTER) else name)


def _entry(path: str) -> Entry:
    """``mixed_5b/branch1x1/bn/mean``: ``Mixed_5b.branch1x1.bn.running_mean``."""
    *parts, leaf = path.split("/")
    name = ".".join([parts[0].capitalize(), *parts[1:]])
    return Entry(path, f"{name}.weight", CONV) if leaf == "kernel" else Entry(path, f"{name}.{NORM[leaf]}", SAME)
