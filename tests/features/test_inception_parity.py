"""FID's Inception beside torch-fidelity's, by one file of random weights: features, logits, ways of resizing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fidelity_peer import extractor, imported, torch, write_weights
from peer import arrays_of, assert_near, converted
from PIL import Image

from marble.convert import inception
from marble.convert.names import tensors_of
from marble.features import open_features
from marble.models import Inception

pytestmark = pytest.mark.parity
like_tensorflow = imported("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 40, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth")


@pytest.fixture(scope="module")
def theirs(weights):
    return extractor(weights)


def test_what_is_read_off_images_of_32_pixels(weights, theirs):
    """features, logits, and the block that the graph calls mixed_6, of which theirs says nothing, in its place."""
    seen = []
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.no_grad():
        features, logits, biased = theirs(torch.tensor(IMAGES.transpose(0, 3, 1, 2)))
    hook.remove()
    network = open_features(f"inception:{weights}")
    states = jax.jit(lambda p, x: Inception().apply({"params": p}, network.prepare(x)))(network.params, IMAGES)
    np.testing.assert_allclose(states.features, features, atol=1e-4)
    for found, expected in ((states.features, features), (states.logits, logits), (states.biased_logits, biased)):
        assert_near(found, expected)
    assert_near(states.spatial, seen[0][:, :7].permute(0, 2, 3, 1).reshape(3, 2023))


@pytest.mark.parametrize("resize", ["torch_fidelity", "ddpm", "clean_fid", "pytorch_fid"])
def test_images_are_prepared_as_each_library_does(resize, weights):
    network = open_features(f"inception:{weights}", resize=resize)
    floats = np.random.default_rng(1).uniform(-1, 1, (2, 48, 400, 3)).astype(np.float32)
    given = floats if resize == "ddpm" else IMAGES
    np.testing.assert_allclose(network.prepare(jnp.asarray(given)), prepared(resize, given), atol=2e-5)


def prepared(resize, images):
    """By PyTorch: torch-fidelity's own function, pytorch-fid's lines, and clean-fid's with Pillow."""
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)).float()
    if resize == "clean_fid":
        made = [
            np.asarray(Image.fromarray(channel).resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            for channel in pixels.numpy().reshape(-1, *pixels.shape[2:])
        ]
        pixels = (torch.tensor(np.stack(made)).reshape(*pixels.shape[:2], 299, 299) - 128) / 128
    elif resize == "pytorch_fid":
        pixels = torch.nn.functional.interpolate(pixels / 255, size=(299, 299), mode="bilinear", align_corners=False)
        pixels = 2 * pixels - 1
    else:
        pixels = (pixels + 1) * 127.5 if resize == "ddpm" else pixels
        pixels = (like_tensorflow(pixels, size=(299, 299), align_corners=False) - 128) / 128
    return pixels.numpy().transpose(0, 2, 3, 1)


def test_there_and_back_nothing_changes_but_the_counters(theirs):
    model = Inception()
    converted(inception.table(model), arrays_of(theirs), inception.shapes_of(model), inception.as_now)


def test_the_file_that_we_write_they_load(theirs, weights):
    """Without the counters, which PyTorch makes itself."""
    model, params = inception.open_inception(weights)
    state = {name: torch.tensor(array) for name, array in tensors_of(inception.table(model), params)}
    theirs.load_state_dict({**theirs.state_dict(), **state}, strict=True)
    assert set(theirs.state_dict()) - set(state) == {n for n in theirs.state_dict() if n.endswith(inception.COUNTER)}
