"""What CLIP is trained by, and how it is looked through: arrays in, arrays out."""

from marble.contrastive.losses import Pairs, at_most, sigmoid, softmax
from marble.contrastive.retrieval import recall

__all__ = ["Pairs", "at_most", "recall", "sigmoid", "softmax"]
