"""LoRA's adapters of the networks that such files are of: read onto parameters, and written of a run's."""

import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from marble.convert import conditional_unet, dit, lora
from marble.convert.names import Table
from marble.errors import InputError
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dit import DiT
from marble.models.lora import Lora, merged


def adapted(model: nn.Module, params: Any, path: str | os.PathLike[str], scale: float = 1.0) -> Any:
    """The parameters with a file's adapters in them, scale times; InputError where they are not this model's."""
    if not np.isfinite(scale):
        raise InputError(f"lora_scale={scale} must be a number: 1 is what was trained, 0 nothing")
    table, part = table_of(model)
    found, pairs = lora.read_file(path, table, params, part=part)
    return merged(found, params, pairs, scale)


def written(found: Lora, pairs: Any, model: nn.Module, path: str | os.PathLike[str], *, dtype: Any = None) -> Path:
    """Writes a run's adapters as diffusers reads them."""
    table, part = table_of(model)
    lora.write(found, pairs, table, path, part=part, dtype=dtype)
    return Path(path)


def table_of(model: nn.Module) -> tuple[Table, str]:
    """The table of a network, and what it is called in a pipeline; InputError for one that no such file is of."""
    if isinstance(model, ConditionalUNet):
        return conditional_unet.table(model), "unet"
    if isinstance(model, DiT):
        return dit.table(model), "transformer"
    raise InputError(f"files of LoRA are of a ConditionalUNet or a DiT, and this model is a {type(model).__name__}")
