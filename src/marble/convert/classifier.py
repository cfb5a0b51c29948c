"""Classifiers of noisy images from their files."""

import os
from collections.abc import Sequence
from typing import Any

from marble.convert import adm, files, names
from marble.errors import InputError
from marble.models.adm import AdmClassifier


def adm_classifier(path: str | os.PathLike[str], shape: Sequence[int]) -> tuple[AdmClassifier, Any]:
    """(model, params) of an ADM classifier's file, for images [h w c]; InputError for a file of something else."""
    tensors, source = files.read(path), os.fspath(path)
    found = adm.model_of(tensors, image_size=shape[0], source=source)
    if not isinstance(found.model, AdmClassifier):
        raise InputError(f"{source} holds a {type(found.model).__name__}, which tells no classes: give a classifier")
    if found.image_channels != shape[-1]:
        raise InputError(f"{source} reads images of {found.image_channels} channels, and the model makes {shape[-1]}")
    shapes = adm.shapes_of(found.model, found.image_size, found.image_channels)
    return found.model, names.params_of(adm.table(found.model, found.image_size), tensors, shapes, source=source)
