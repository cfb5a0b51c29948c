"""JSON that every reader takes: Python's own has NaN and Infinity, which are no JSON.

Measurements have null in their place. In a config an infinity is a choice, and has to come back as one: it is written
as 1e999, which is a number by the grammar of JSON, and infinity to Python.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

INFINITIES = {math.inf: "\0inf", -math.inf: "\0-inf"}
"""What stands for them on the way: no string of a config has a zero character."""


def dumps(value: Any, *, indent: int | None = None) -> str:
    """The JSON of measurements, null for what is not finite."""
    return json.dumps(_replaced(value, lambda number: None), indent=indent)


def dumps_config(config: Any, *, indent: int | None = None) -> str:
    """The JSON of a config, which ``json.loads`` gives back with its infinities."""
    text = json.dumps(_replaced(config, INFINITIES.get), indent=indent)
    for number, mark in INFINITIES.items():
        text = text.replace(json.dumps(mark), "1e999" if number > 0 else "-1e999")
    return text


def _replaced(value: Any, instead: Callable[[float], Any]) -> Any:
    """The value with another in the place of every float in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, instead) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, instead) for item in value]
    return instead(value) if isinstance(value, float) and not math.isfinite(value) else value
