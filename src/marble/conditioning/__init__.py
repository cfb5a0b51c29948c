"""What diffuses in place of an image, and what the model is told beside it.

A *codec* maps images to x_0 and back: codec.py is the protocol, identity.py the space of pixels, autoencoder.py that of
latents. A *conditioner* maps a batch of data, or somebody's request, to the context: conditioner.py is the protocol;
labels.py, text.py, low_res.py and unconditional.py are its members.
"""

from marble.conditioning.autoencoder import Autoencoder
from marble.conditioning.codec import Codec
from marble.conditioning.conditioner import NOTHING_ASKED, Conditioner, Request
from marble.conditioning.identity import Identity
from marble.conditioning.labels import Labels
from marble.conditioning.latents import Origin
from marble.conditioning.low_res import LowRes
from marble.conditioning.text import Text
from marble.conditioning.unconditional import Unconditional

__all__ = [
    "NOTHING_ASKED",
    "Autoencoder",
    "Codec",
    "Conditioner",
    "Identity",
    "Labels",
    "LowRes",
    "Origin",
    "Request",
    "Text",
    "Unconditional",
]
