"""The shapes and the few types that the parts of marble exchange.

Shape names: b images of a batch, h height, w width, c channels, T training steps, N sampling steps.
Throughout, ``x_t = alpha * x_0 + sigma * noise``.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array

Batch = Mapping[str, Array]
"""``image`` [b h w c] float32 in [-1, 1]; ``index`` [b] int32, the position in the global batch; and where the
data has them ``label`` [b] int32."""

Context = Mapping[str, Array]
"""What the model is told besides x_t and t; its keys are the model's: ``label`` [b] int32. None is no context."""


class Level(NamedTuple):
    """A noise level: where ``x_t = alpha * x_0 + sigma * noise``. Scalars, or one value an image [b]."""

    t: Array
    """The model's time: an integer in 0..T-1 for models trained on steps. Not read at the clean level."""
    alpha: Array
    sigma: Array

    def like(self, x: Array) -> "Level":
        """The same level with alpha and sigma in x's dtype and shaped to multiply x [b ...]."""

        def expand(coefficient):
            coefficient = jnp.asarray(coefficient, x.dtype)
            return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim) * (coefficient.ndim > 0))

        return self._replace(alpha=expand(self.alpha), sigma=expand(self.sigma))

    @property
    def log_snr(self) -> Array:
        """log(alpha² / sigma²), without forming the ratio; +inf at the clean level."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))


class Prediction(NamedTuple):
    """What a model says about x_t: two readings of one answer, ``x_t = alpha * x_0 + sigma * eps``."""

    x_0: Array
    eps: Array


class DenoiseFn(Protocol):
    """The waist: models, guidance and samplers meet only here."""

    def __call__(self, x_t: Array, t: Array, context: Context | None = None) -> Prediction: ...
