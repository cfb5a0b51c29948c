"""A trained CLIP in use: images and texts as vectors of one space, and how well they fit."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from marble import contrastive
from marble.data.preprocess import to_float
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.features.open import CLIP_SCALE
from marble.models import Clip
from marble.parallel import DeviceMapping, ParallelConfig
from marble.pipelines.copies import Copyable
from marble.pipelines.rows import integer_images, over_batches
from marble.typing import Array, ImageSpec


class ClipPipeline(Copyable):
    """A ``Clip`` with its tokenizer and parameters: encode_image, encode_text, similarity.

    Images are integers at the data's levels, 0..levels-1, [n h w c]; embeddings [n d] have length 1. Batches are split
    over all devices. params in a call replace the pipeline's own.
    """

    def __init__(
        self,
        *,
        model: Clip,
        params: Any,
        tokenizer: Tokenizer,
        image: ImageSpec,
        batch_size: int,
        mapping: DeviceMapping | None = None,
    ) -> None:
        self.model, self.tokenizer, self.image, self.batch_size = model, tokenizer, image, batch_size
        self.mapping = mapping or ParallelConfig().open()
        self.params = self.mapping.place(params)
        levels = image.levels
        apply = lambda params, half, rows: model.apply({"params": params}, rows, method=half)  # noqa: E731
        self._image_batch = self.mapping.compile_rows(
            lambda params, batch: apply(params, "encode_image", seen(to_float(batch["image"], levels)))
        )
        self._text_batch = self.mapping.compile_rows(
            lambda params, batch: apply(params, "encode_text", batch["tokens"])
        )

    def encode_image(self, images: np.ndarray, *, params: Any = None, progress: bool = False) -> np.ndarray:
        """Embeddings [n d] of images."""
        return self._over(self._image_batch, {"image": integer_images(images, self.image)}, params, progress)

    def encode_text(self, texts: Sequence[str], *, params: Any = None, progress: bool = False) -> np.ndarray:
        """Embeddings [n d] of texts; one that is too long is cut, with a warning."""
        return self._over(self._text_batch, {"tokens": self.tokenizer.encode(texts)[0]}, params, progress)

    def similarity(self, images: np.ndarray, texts: Sequence[str], *, params: Any = None) -> np.ndarray:
        """The cosines [n m] of n images and m texts."""
        return self.encode_image(images, params=params) @ self.encode_text(texts, params=params).T

    def retrieval(self, images: np.ndarray, texts: Sequence[str], *, params: Any = None) -> dict[str, float]:
        """How often an image's text is found first among all, and a text's image; and how often chance finds it."""
        of_images, of_texts = self.encode_image(images, params=params), self.encode_text(texts, params=params)
        zeros = np.zeros_like(of_images)
        return {
            "image_to_text": contrastive.recall(of_images, of_texts, texts),
            "text_to_image": contrastive.recall(of_texts, of_images, texts),
            "retrieval_by_chance": contrastive.recall(zeros, zeros, texts),
        }

    def sample(self, num: int, **request: Any) -> np.ndarray:
        """InputError: CLIP draws nothing."""
        raise InputError(
            f"{num} images asked of a CLIP, which draws none: it judges images, and tells a diffusion model of texts "
            "by text.encoders set to this run's folder clip"
        )

    def _over(self, function: Any, rows: dict[str, np.ndarray], params: Any, progress: bool) -> Any:
        params = self.params if params is None else params
        options = dict(batch_size=self.batch_size, mapping=self.mapping, progress=progress)
        return over_batches(function, params, rows, **options)


def seen(images: Array) -> Array:
    """Images [b h w c] in [-1, 1], grey ones or RGB, as CLIP's image tower reads them [b h w 3]."""
    mean, std = (jnp.asarray(CLIP_SCALE[key], jnp.float32)[None, None, None] for key in ("mean", "std"))
    return (127.5 * (images + 1) - mean) / std
