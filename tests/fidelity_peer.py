"""torch-fidelity with random weights of its Inception; importing it skips a test where it or PyTorch is absent.

It imports torchvision for data sets and networks that are not compared. torchvision's usual wheels are for CUDA alone,
so where it is absent a stand-in takes its place, in the process of these tests.
"""

import importlib
import importlib.util
import sys
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("torch_fidelity") is None:
    pytest.skip("torch-fidelity is not installed: pip install --no-deps torch-fidelity==0.4.0", allow_module_level=True)

PARTS = ("", ".datasets", ".models", ".transforms", ".transforms.functional")


def imported(name):
    """A module of torch-fidelity."""
    absent = [] if importlib.util.find_spec("torchvision") else [f"torchvision{part}" for part in PARTS]
    sys.modules |= {name: mock.MagicMock() for name in absent}
    try:
        return importlib.import_module(f"torch_fidelity.{name}")
    finally:
        for stand_in in absent:
            del sys.modules[stand_in]


FeatureExtractorInceptionV3 = imported("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
LAYERS = ["2048", "logits_unbiased", "logits"]


def write_weights(path, seed=0):
    """A file of its Inception's names with random numbers, such that no layer's output dies or grows; its path."""
    with mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url") as load:
        load.side_effect = lambda *_, **__: {}
        with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
            theirs = FeatureExtractorInceptionV3("inception-v3-compat", LAYERS)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in theirs.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        if name.endswith("conv.weight"):
            value = noise * (2 / np.prod(value.shape[1:])) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            value = torch.exp(0.2 * noise)
        elif value.is_floating_point():
            value = 0.1 * noise
        state[name] = value
    torch.save(state, path)
    return path


def extractor(path):
    """Their network of that file: uint8 [b 3 h w] -> the LAYERS."""
    return FeatureExtractorInceptionV3("inception-v3-compat", LAYERS, feature_extractor_weights_path=str(path))
