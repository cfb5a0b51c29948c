"""diffusers' side: UNet2DModel of the same architecture, a training step of it, and its pipelines."""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch

from benchmarks.measure import Contender
from benchmarks.ours import network_inputs
from benchmarks.peers.torch_device import as_jax_has_it, torch_device, wait_for_torch
from marble.models import UNet

NAME = "diffusers"
WAYS = ("eager", "compile")
"""PyTorch as it is, and torch.compile."""
LEARNING_RATE, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.9999
SAMPLERS = {
    "ancestral": lambda: diffusers.DDPMScheduler(variance_type="fixed_large"),
    "ddim": lambda: diffusers.DDIMScheduler(),
    "dpm_solver_2m": lambda: diffusers.DPMSolverMultistepScheduler(),
}
"""marble's samplers that both have."""


def torch_unet(model: UNet, size: int) -> torch.nn.Module:
    """diffusers' network of the same architecture, for images of this many pixels a side."""
    widths = tuple(model.channels * multiple for multiple in model.channel_mult)
    attends = [size // 2**level in model.attention_resolutions for level in range(len(widths))]
    net = diffusers.UNet2DModel(
        sample_size=size,
        in_channels=model.out_channels,
        out_channels=model.out_channels,
        block_out_channels=widths,
        layers_per_block=model.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=None,
        dropout=model.dropout,
        norm_num_groups=model.num_groups,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
    )
    return net.to(torch_device())


def same_network(model: UNet, size: int, parameters: int) -> torch.nn.Module:
    """The same, once its parameters are as many as ours."""
    net = torch_unet(model, size)
    found = sum(leaf.numel() for leaf in net.parameters())
    assert found == parameters, f"networks of {parameters} parameters here and {found} in diffusers"
    return net


def in_way(net: torch.nn.Module, way: str) -> torch.nn.Module:
    """A network of its own, eager or compiled at its first call."""
    net = copy.deepcopy(net)
    if way == "compile":
        net.compile()
    return net


def contenders(
    kind: str, model: UNet, batch: int, size: int, parameters: int, dtype: str, ways: tuple[str, ...] = WAYS
) -> list[Contender]:
    """Of ``kind``: forward or train."""
    as_jax_has_it()
    net = same_network(model, size, parameters)
    make = {"forward": forward, "train": train}[kind]
    shape = size, size, model.out_channels
    return [
        Contender(f"{NAME} {way}", make(in_way(net, way), batch, shape, getattr(torch, dtype)), parameters)
        for way in ways
    ]


def forward(net: torch.nn.Module, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Any]:
    """The network alone, its parameters in that precision."""
    net = net.to(dtype).eval()
    x_t, t = network_inputs(batch, shape)
    x_t = torch.tensor(np.moveaxis(x_t, -1, 1), device=torch_device(), dtype=dtype).contiguous()
    t = torch.tensor(t, device=torch_device())

    @torch.no_grad()
    def run() -> None:
        net(x_t, t)
        wait_for_torch()

    return run


def train(net: torch.nn.Module, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Any]:
    """A training step, with a forward pass of that precision."""
    images, _ = network_inputs(batch, shape)
    return diffusers_training(net, images, autocast=None if dtype == torch.float32 else dtype)


def diffusers_training(
    net: torch.nn.Module, images: np.ndarray, autocast: torch.dtype | None = None
) -> Callable[[], Any]:
    """What a script of diffusers' does in a step: t and noise, the loss, the gradient, clip, Adam, moving average."""
    scheduler = diffusers.DDPMScheduler()
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    x_0 = torch.tensor(np.moveaxis(images, -1, 1), device=torch_device()).contiguous()

    def run() -> None:
        noise = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        with torch.autocast(x_0.device.type, autocast, enabled=autocast is not None):
            eps = net(scheduler.add_noise(x_0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(eps.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        average.update_parameters(net)
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
    """The whole chain of its pipeline, to images on the host."""
    as_jax_has_it()
    net = same_network(model, size, parameters).to(getattr(torch, dtype)).eval()
    return [
        Contender(f"{NAME} {way}", whole_chain(in_way(net, way), batch, sampler, steps), parameters) for way in ways
    ]


def whole_chain(net: torch.nn.Module, batch: int, sampler: str, steps: int) -> Callable[[], Any]:
    """A call of DDPMPipeline, or of DDIMPipeline, with that sampler's scheduler."""
    kind = diffusers.DDIMPipeline if sampler == "ddim" else diffusers.DDPMPipeline
    # bfloat16 has no NumPy, so that the images come as tensors, from which the pipeline makes its arrays.
    pipe = kind(net, SAMPLERS[sampler]())
    pipe.set_progress_bar_config(disable=True)

    def run() -> Any:
        images = pipe(batch_size=batch, num_inference_steps=steps, output_type="pt").images
        return (255 * images.float()).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return run
