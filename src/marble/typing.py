"""The shapes and the few types that the parts of marble exchange.

Shape names: b images of a batch, h height, w width, c channels, T training steps, N sampling steps.
Throughout, ``x_t = alpha * x_0 + sigma * noise``.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError

Array = jax.Array

Batch = Mapping[str, Array]
"""``image`` [b h w c] float32 in [-1, 1]; ``index`` [b] int32, the position in the global batch; and where the
data has them ``label`` [b] int32."""

Context = Mapping[str, Array]
"""What the model is told besides x_t and t; its keys are the model's: ``label`` [b] int32. None is no context."""

Rows = Mapping[str, np.ndarray]
"""Arrays on the host [n ...], a row an image."""


class ImageSpec(NamedTuple):
    """What is known of images before there are any; of the data's, or of what diffuses in their place."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    levels: int | None
    """How many values a pixel can take; None where any number can stand, as in latents."""


class Level(NamedTuple):
    """A noise level: where ``x_t = alpha * x_0 + sigma * noise``. Scalars, or one value an image [b]."""

    t: Array
    """The model's time: 0..T-1 for models trained on steps. Not read at the clean level."""
    alpha: Array
    sigma: Array

    def like(self, x: Array) -> "Level":
        """The same level with alpha and sigma as ``coefficient_like`` makes them."""
        return self._replace(alpha=coefficient_like(self.alpha, x), sigma=coefficient_like(self.sigma, x))

    @property
    def log_snr(self) -> Array:
        """log(alpha² / sigma²), without forming the ratio; +inf at the clean level."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))


def coefficient_like(coefficient: Array, x: Array) -> Array:
    """A coefficient, scalar or [b], in x's dtype and shaped to multiply x [b ...]; InputError unless x is of floats."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"images of dtype {x.dtype} can't diffuse: give floats in [-1, 1]")
    coefficient = jnp.asarray(coefficient).astype(jax.dtypes.canonicalize_dtype(x.dtype))
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim) * (coefficient.ndim > 0))


class Prediction(NamedTuple):
    """What a model says about x_t: two readings of one answer, ``x_t = alpha * x_0 + sigma * eps``."""

    x_0: Array
    eps: Array
    variance: Array | None = None
    """What a model with a learned variance says of it, shaped like x_0; see ``p_posterior`` for how it is read."""


class DenoiseFn(Protocol):
    """The waist: models, guidance and samplers meet only here.

    It is asked at a noise level, not at a t alone: samplers go to levels between the steps of training, and guidance
    needs alpha and sigma to change a prediction's x_0 and eps together.
    """

    def __call__(self, x_t: Array, level: Level, context: Context | None = None) -> Prediction: ...
