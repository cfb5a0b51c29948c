"""Text encoders from their folders."""

from typing import Any

import flax.linen as nn
import numpy as np

from marble.convert.folder import open_part
from marble.convert.unread import frozen_params
from marble.errors import InputError
from marble.models.bert import Bert
from marble.models.clip import Clip, ClipText


def open_text_encoder(folder: str, *, dtype: Any = np.float32) -> tuple[nn.Module, Any]:
    """(model, params) of a CLIP's text tower or a BERT; InputError where the folder holds another network.

    dtype is what the network computes in, and what its parameters are held in, for they are not trained.
    """
    part = open_part(folder, dtype=dtype)
    if isinstance(part.model, ClipText | Bert):
        return part.model, frozen_params(part, dtype)
    if isinstance(part.model, Clip):
        return part.model.text, frozen_params(part, dtype)["text"]
    raise InputError(f"{folder} holds a {part.kind}, which encodes no text: give the folder of a CLIP or a BERT")
