"""peft's config of adapters, which stands in a file's metadata: read, and written."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from marble.convert.stored import shown
from marble.convert.tensors import Tensors
from marble.errors import InputError
from marble.models.lora import Lora

KEY = "lora_adapter_metadata"
"""What the header of a safetensors file calls it, as JSON."""
PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")
"""peft's ways to start that leave the base as it is."""
PEFT_ALPHA = 8
"""peft's own, where its config does not say."""


def config_in(metadata: Mapping[str, str], part: str, source: str) -> dict[str, Any] | None:
    """peft's config of this part, None where a file says none; InputError for what is no plain LoRA."""
    if KEY not in metadata:
        return None
    try:
        said = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} has metadata {KEY} that is not JSON: download or copy it again") from error
    if not isinstance(said, dict):
        raise InputError(f"{source} has metadata {KEY} that is no object: download or copy it again")
    config = {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")}
    config = config or {key: value for key, value in said.items() if "." not in key}
    kinds = [key for key in ("use_dora", "use_qalora", "lora_bias") if config.get(key)]
    start = config.get("init_lora_weights", True)
    kinds += [f"init_lora_weights={shown(start)}"] if start not in PLAIN_INITS else []
    if kinds:
        raise InputError(f"{source} is LoRA with {', '.join(kinds)}, which is not supported")
    return config or None


def alpha_of(
    name: str, key: Mapping[str, str], tensors: Tensors, config: Mapping[str, Any] | None, source: str
) -> float:
    """What a module's alpha is, in the sense of alpha / rank."""
    rank = tensors[key["up"]].shape[1]
    alpha = rank
    if "alpha" in key:
        alpha = tensors[key["alpha"]].read().item()
    elif config is not None:
        alpha = _of_pattern(config.get("alpha_pattern") or {}, name, source, config.get("lora_alpha", PEFT_ALPHA))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 2**64:
        raise InputError(f"{source} has alpha {shown(alpha)} for {name}, and it must be a number above 0")
    # rsLoRA (Kalajdzievski 2023) divides by the root of the rank
    return float(alpha * math.sqrt(rank) if config and config.get("use_rslora") and "alpha" not in key else alpha)


def _of_pattern(patterns: Any, name: str, source: str, otherwise: Any) -> Any:
    """The first value whose name is the module's or its end, as in peft; there they may be any regular expressions."""
    if not isinstance(patterns, dict):
        raise InputError(f"{source} has the alpha_pattern {shown(patterns)}, and it must be names and numbers")
    for pattern, value in patterns.items():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise InputError(f"{source} has an alpha_pattern {shown(pattern)}, and what is read is names of modules")
        if plain == name or (not pattern.startswith("^") and name.endswith(f".{plain}")):
            return value
    return otherwise


def written(lora: Lora, ranks: Mapping[str, int], part: str) -> str:
    """What peft is told of a part's modules, whose ranks these are, as JSON.

    Those that have another rank than lora's are named, each with an alpha of the same scaling. Only what the adapters
    need, for an older peft refuses keys that it does not know.
    """
    others = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != lora.rank}
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": _whole(lora.scaling * lora.rank if lora.alpha is None else lora.alpha),
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": {name: _whole(lora.scaling * rank) for name, rank in others.items()},
    }
    return json.dumps({f"{part}.{key}": value for key, value in config.items()}, indent=2, sort_keys=True)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
