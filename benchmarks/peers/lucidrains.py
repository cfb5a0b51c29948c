"""denoising-diffusion-pytorch's side: its Unet and GaussianDiffusion.

Its network is another architecture than the DDPM paper's: attention at every level, a 7x7 convolution first, two blocks
a level whatever the config says. The width and the multiples are ours, dim and dim_mults; the parameters are then not
as many, and the rows say how many. Nothing is scaled for it.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import io
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Contender
from benchmarks.ours import network_inputs
from benchmarks.peers.torch_device import as_jax_has_it, torch_device, wait_for_torch
from marble.models import UNet

NAME = "lucidrains"
WAYS = ("eager", "compile")
SAMPLERS = ("ancestral", "ddim")
LEARNING_RATE, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.9999
PACKAGE = "denoising_diffusion_pytorch"


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """A block in which an empty torchvision is there, where none is: the package's Trainer alone uses it."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    empty = types.ModuleType("torchvision")
    empty.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    empty.transforms = empty.utils = types.SimpleNamespace()
    sys.modules["torchvision"] = empty
    try:
        yield
    finally:
        del sys.modules["torchvision"]


with without_torchvision(), contextlib.redirect_stdout(io.StringIO()):
    package = importlib.import_module(f"{PACKAGE}.{PACKAGE}")
package.tqdm = functools.partial(package.tqdm, disable=True)


def diffusion(model: UNet, size: int, steps: int, sampler: str = "ancestral") -> torch.nn.Module:
    """Its process and its network, of the width and the multiples of ours."""
    net = package.Unet(dim=model.channels, dim_mults=tuple(model.channel_mult), channels=model.out_channels)
    grid = dict(timesteps=steps) if sampler == "ancestral" else dict(timesteps=1000, sampling_timesteps=steps)
    process = package.GaussianDiffusion(net, image_size=size, objective="pred_noise", beta_schedule="linear", **grid)
    return process.to(torch_device())


def counted(process: torch.nn.Module) -> int:
    """The parameters of its network."""
    return sum(leaf.numel() for leaf in process.model.parameters())


def in_way(process: torch.nn.Module, way: str) -> torch.nn.Module:
    """With its network compiled at its first call, or as it is."""
    if way == "compile":
        process.model.compile()
    return process


def contenders(
    kind: str, model: UNet, batch: int, size: int, parameters: int, dtype: str, ways: tuple[str, ...] = WAYS
) -> list[Contender]:
    """Of ``kind``: forward or train. parameters are ours, with which nothing is done here."""
    as_jax_has_it()
    make, found = {"forward": forward, "train": train}[kind], []
    for way in ways:
        process = in_way(diffusion(model, size, 1000), way)
        call = make(process, batch, (size, size, model.out_channels), getattr(torch, dtype))
        found.append(Contender(f"{NAME} {way}", call, counted(process), is_same=False))
    return found


def cast(dtype: torch.dtype) -> Any:
    """Its forward pass in that precision: parts of it name float32, so it is cast as PyTorch casts it."""
    return torch.autocast(torch_device().type, dtype, enabled=dtype != torch.float32)


def forward(process: torch.nn.Module, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Any]:
    """The network alone."""
    x_t, t = network_inputs(batch, shape)
    x_t = torch.tensor(np.moveaxis(x_t, -1, 1), device=torch_device()).contiguous()
    t = torch.tensor(t, device=torch_device())
    process.eval()

    @torch.no_grad()
    def run() -> None:
        with cast(dtype):
            process.model(x_t, t)
        wait_for_torch()

    return run


def train(process: torch.nn.Module, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Any]:
    """A training step as its Trainer makes it, with a moving average at each step."""
    optimizer = torch.optim.Adam(process.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(
        process, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    images = torch.rand((batch, shape[2], *shape[:2]), device=torch_device())

    def run() -> None:
        with cast(dtype):
            loss = process(images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(process.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(process)
        wait_for_torch()

    return run


def sampling(
    model: UNet,
    batch: int,
    size: int,
    parameters: int,
    dtype: str,
    sampler: str,
    steps: int,
    ways: tuple[str, ...] = WAYS,
) -> list[Contender]:
    """The whole chain, to images on the host: for ancestral one of as many steps."""
    as_jax_has_it()
    found = []
    for way in ways:
        process = in_way(diffusion(model, size, steps, sampler), way).eval()
        call = whole_chain(process, batch, getattr(torch, dtype))
        found.append(Contender(f"{NAME} {way}", call, counted(process), is_same=False))
    return found


def whole_chain(process: torch.nn.Module, batch: int, dtype: torch.dtype) -> Callable[[], Any]:
    """A call that returns images [b h w c], uint8."""

    def run() -> Any:
        with cast(dtype):
            images = process.sample(batch_size=batch)
        return (255 * images.float()).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return run
