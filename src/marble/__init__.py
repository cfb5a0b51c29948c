"""marble: denoising diffusion models in JAX/Flax.

    import marble

    pipe = marble.load("runs/digits")
    images = pipe.sample(64, seed=0)          # uint8 [64 8 8 1]

The parts: marble.diffusion, marble.vae, marble.autoencoding and marble.contrastive (the theory), marble.models,
marble.sampling, marble.conditioning, marble.objectives, marble.training, marble.convert, marble.data, marble.pipelines,
marble.metrics, marble.features, marble.evaluation, marble.parallel, marble.errors.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PARTS = (
    "autoencoding",
    "compression",
    "conditioning",
    "contrastive",
    "conversion",
    "convert",
    "data",
    "demo",
    "diffusion",
    "errors",
    "evaluation",
    "export",
    "features",
    "metrics",
    "models",
    "objectives",
    "parallel",
    "pipelines",
    "sampling",
    "training",
    "vae",
)


_FUNCTIONS = {"load": "marble.loading", "evaluate": "marble.evaluation"}
"""What is found in this module itself, and where it is."""


def __getattr__(name: str) -> Any:
    """Parts are imported when they are first used, so that ``import marble`` is quick and needs jax and flax alone."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _PARTS:
        return importlib.import_module(f"marble.{name}")
    raise AttributeError(f"module 'marble' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS, *_PARTS]
