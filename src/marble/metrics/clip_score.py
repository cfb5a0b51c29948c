"""Whether images show what their texts say: the CLIP score (Hessel et al. 2021)."""

from typing import NamedTuple

import numpy as np

from marble.errors import InputError
from marble.metrics.kernel import of_length_1
from marble.metrics.rows import as_pair


class ClipScore(NamedTuple):
    """``mean_estimate(found.scores)`` gives the error."""

    mean: float
    scores: np.ndarray
    """[n], of each pair."""


def clip_score(images: np.ndarray, texts: np.ndarray, *, weight: float = 100.0) -> ClipScore:
    """The mean of weight * max(cos(image, text), 0) of embeddings [n d] of images and of their texts, in their order.

    weight 100 is torchmetrics' convention, 2.5 that of the paper. InputError for other numbers or dimensions, or an
    embedding of 0.
    """
    names = ("the images' embeddings", "the texts' embeddings")
    images, texts = as_pair(images, texts, names)
    if len(images) != len(texts):
        raise InputError(f"{len(images)} images and {len(texts)} texts are no pairs: give a text for each image")
    cosines = (of_length_1(images, names[0]) * of_length_1(texts, names[1])).sum(1)
    scores = weight * np.maximum(cosines, 0)
    return ClipScore(float(scores.mean()), scores)
