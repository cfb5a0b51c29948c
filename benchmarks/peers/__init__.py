"""The libraries that marble is set beside. Only these files import PyTorch, and only where a peer is asked for."""

import importlib
from collections.abc import Callable
from types import ModuleType

EXTRA = "peers"
"""Of marble's extras, the one that brings them."""


def opened(names: list[str], say: Callable[[str], object]) -> dict[str, ModuleType]:
    """The modules of those that are installed; the others are said, and left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(f"benchmarks.peers.{name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in ("benchmarks", "marble"):
                raise
            say(left_out(name, error.name))
    return found


def left_out(peer: str, package: str) -> str:
    """What is said of one that is not there."""
    return f"{peer} is left out: {package} is not installed (pip install 'marble-diffusion[{EXTRA}]' brings it)"
