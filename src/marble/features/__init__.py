"""What networks say of images: features to judge samples by, in float32 and streamed over all devices.

Reading order: resize -> network -> open -> stream. ``open_features`` opens one of four networks by name and path, and
nothing is downloaded; ``featurize`` gives its rows for any number of images, ``embed_texts`` those of CLIP for texts.
"""

from marble.features.network import FeatureNetwork
from marble.features.open import open_features
from marble.features.resize import RESIZES, Resize
from marble.features.stream import Featurizer, featurize
from marble.features.texts import embed_texts

__all__ = ["RESIZES", "FeatureNetwork", "Featurizer", "Resize", "embed_texts", "featurize", "open_features"]
