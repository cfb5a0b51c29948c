"""The peers: the same networks as ours, or said to be others; and denoising-diffusion-pytorch by a stand-in of it."""

import importlib
import sys
import types

import numpy as np
import pytest

from benchmarks import __main__ as runner
from benchmarks import ours

DIGITS = dict(network="digits", dropout=0.0)


@pytest.mark.parity
@pytest.mark.parametrize("network", ["cifar10", "digits"])
def test_the_network_of_diffusers_has_our_parameters(network):
    pytest.importorskip("diffusers")
    from benchmarks.peers import diffusers

    built = ours.experiment("float32", 2, False, network, dropout=0.0)
    size, count = ours.NETWORKS[network].shape[0], ours.count(built)
    net = diffusers.same_network(built.objective.model, size, count)
    assert sum(leaf.numel() for leaf in net.parameters()) == count
    with pytest.raises(AssertionError, match=f"networks of {count + 1} parameters here"):
        diffusers.same_network(built.objective.model, size, count + 1)


@pytest.mark.parity
def test_diffusers_trains_and_samples_images(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from benchmarks.peers import diffusers

    built = ours.experiment("float32", 2, True, **DIGITS)
    model, count = built.objective.model, ours.count(built)
    (one,) = diffusers.contenders("train", model, 2, 8, count, "bfloat16", ("eager",))
    assert one.name == "diffusers eager" and one.is_same and one.parameters == count
    one.call()
    for sampler in diffusers.SAMPLERS:
        (one,) = diffusers.sampling(model, 3, 8, count, "bfloat16", sampler, 4, ("eager",))
        images = one.call()
        assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8 and images.std() > 0
    (one,) = diffusers.contenders("forward", model, 2, 8, count, "float32", ("eager",))
    before = torch.is_grad_enabled()
    one.call()
    assert torch.is_grad_enabled() == before


@pytest.mark.parity
@pytest.mark.slow
def test_train_and_sample_beside_those_that_are_there(tmp_path):
    import json

    pytest.importorskip("diffusers")
    for name in ("train", "sample"):
        out = tmp_path / name
        words = ["--suite", name, "--smoke", "--network", "digits", "--dtype", "float32", "--out", str(out)]
        assert runner.main(words) == 0
        rows = json.loads(out.read_text())["tables"]["In turns"]
        for row in rows:
            assert (row["whose"] == "marble") == (row["our_time_to_its"] is None)
        theirs = next(row for row in rows if row["whose"] == "diffusers eager")
        assert theirs["parameters"] == rows[0]["parameters"]
        assert theirs["gflops"] * theirs["ms"] == pytest.approx(rows[0]["gflops"] * rows[0]["ms"])


@pytest.fixture
def stand_in(monkeypatch):
    """denoising_diffusion_pytorch's two classes, as far as they are used, and no torchvision."""
    torch = pytest.importorskip("torch")
    asked = {}

    class Unet(torch.nn.Conv2d):
        def __init__(self, dim, dim_mults, channels):
            asked.update(dim=dim, dim_mults=dim_mults, channels=channels)
            super().__init__(channels, channels, 3, padding=1)

        def forward(self, x, t):
            return super().forward(x)

    class GaussianDiffusion(torch.nn.Module):
        def __init__(self, model, **words):
            super().__init__()
            asked.update(words)
            self.model = model

        def forward(self, images):
            return self.model(images, None).square().mean()

        def sample(self, batch_size):
            asked["sampled"] = batch_size
            return torch.ones(batch_size, 1, 8, 8)

    package = types.ModuleType("denoising_diffusion_pytorch")
    module = types.ModuleType("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    module.Unet, module.GaussianDiffusion, module.tqdm = Unet, GaussianDiffusion, lambda steps, disable=False: steps
    package.denoising_diffusion_pytorch = module
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.lucidrains", raising=False)
    yield importlib.import_module("benchmarks.peers.lucidrains"), asked
    sys.modules.pop("benchmarks.peers.lucidrains", None)


@pytest.mark.parity
def test_lucidrains_gets_our_width_and_multiples_and_says_its_own_parameters(stand_in):
    lucidrains, asked = stand_in
    model = ours.experiment("float32", 2, False, **DIGITS).objective.model
    (trained,) = lucidrains.contenders("train", model, 2, 8, 367_129, "float32", ("eager",))
    assert (asked["dim"], asked["dim_mults"], asked["channels"]) == (24, (1, 2), 1)
    assert (asked["timesteps"], asked["image_size"], asked["objective"]) == (1000, 8, "pred_noise")
    assert trained.parameters == 10 and not trained.is_same and trained.name == "lucidrains eager"
    trained.call()
    (drawn,) = lucidrains.sampling(model, 3, 8, 367_129, "float32", "ancestral", 7, ("eager",))
    images = drawn.call()
    assert asked["sampled"] == 3 and asked["timesteps"] == 7 and "sampling_timesteps" not in asked
    assert images.shape == (3, 8, 8, 1) and (images == 255).all()
    lucidrains.sampling(model, 3, 8, 367_129, "float32", "ddim", 7, ("eager",))
    assert asked["timesteps"] == 1000 and asked["sampling_timesteps"] == 7


@pytest.mark.parity
def test_an_empty_torchvision_is_there_for_the_import_alone(stand_in):
    lucidrains, _ = stand_in
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed")
    with lucidrains.without_torchvision():
        from torchvision import transforms, utils  # noqa: F401
    assert "torchvision" not in sys.modules
