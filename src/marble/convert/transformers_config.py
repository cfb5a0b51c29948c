"""The keys of transformers' ``config.json``, and what our networks call them."""

from collections.abc import Mapping
from typing import Any

from marble.errors import InputError

Fields = Mapping[str, tuple[str, Any]]
"""Our argument: the key in config.json, and transformers' default where a file leaves it out."""

BLOCKS: Fields = {
    "num_layers": ("num_hidden_layers", 12),
    "activation": ("hidden_act", "quick_gelu"),
    "epsilon": ("layer_norm_eps", 1e-5),
}

ACTIVATION_NAMES: Mapping[str, str] = {
    **{name: name for name in ("quick_gelu", "gelu", "gelu_new", "silu", "relu")},
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "swish": "silu",
}
"""transformers' names: ours. Those that stand for one of ours are the same formula, to float32's last digits."""


def read(config: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Our arguments, from a config.json; an InputError for a value of another kind, and for an unknown activation."""
    return {ours: _checked(key, config.get(key, default), default) for ours, (key, default) in fields.items()}


def written(model: Any, fields: Fields) -> dict[str, Any]:
    """The keys of a config.json for a network's arguments."""
    return {key: getattr(model, ours) for ours, (key, _) in fields.items()}


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that a config.json names; InputError where it names none."""
    named = config.get("architectures") or ["CLIPModel"] * (config.get("model_type") == "clip")
    if len(named) != 1:
        raise InputError(
            f"config key architectures={config.get('architectures')!r} must name one class: give architecture"
        )
    return named[0]


def _checked(key: str, value: Any, default: Any) -> Any:
    if key == "hidden_act":
        if value not in ACTIVATION_NAMES:
            raise InputError(f"config key {key}={value!r} is not supported: it can be {', '.join(ACTIVATION_NAMES)}")
        return ACTIVATION_NAMES[value]
    kinds, said = ((int, float), "a number") if isinstance(default, float) else ((int,), "a whole number")
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"config key {key}={value!r} is not supported: it must be {said}, such as {default}")
    return value
