"""What CLIP says of texts: beside its features of images, for how well the two go together."""

import os
from collections.abc import Sequence

import jax
import numpy as np

from marble.convert.folder import open_part, params_of_part
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.models.clip import Clip, unit


def embed_texts(folder: str | os.PathLike[str], texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """Embeddings of length 1 [n d] float32 of texts, by the folder of a CLIPModel with its tokenizer.

    They are in the space of the layer ``embedding`` of ``open_features("clip:FOLDER")``. InputError for no text, or for
    another network's folder.
    """
    part = open_part(folder)
    if not isinstance(part.model, Clip):
        raise InputError(f"{folder} holds a {part.kind}, which does not read texts: give the folder of a CLIPModel")
    if not texts:
        raise InputError("no texts are given: give one an image")
    model, params = part.model.text, params_of_part(part)["text"]
    tokens = Tokenizer.open(folder, max_length=model.max_length).encode(list(texts))[0]

    @jax.jit
    def embeddings(params, tokens):
        with jax.default_matmul_precision("highest"):
            return unit(model.apply({"params": params}, tokens).embedding)

    calls = []
    for start in range(0, len(tokens), batch_size):
        some = tokens[start : start + batch_size]
        filled = np.concatenate([some, np.repeat(some[-1:], batch_size - len(some), axis=0)])
        calls.append(np.asarray(embeddings(params, filled))[: len(some)])
    return np.concatenate(calls)
