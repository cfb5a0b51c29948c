"""diffusers' side: what its script for unconditional images does (train_unconditional.py), on the same network.

Its settings are that script's defaults, but for the batch size, which is ours: AdamW 1e-4 with betas 0.95 and 0.999 and
weight decay 1e-6, a warm-up and a cosine down to 0, clip 1, 1000 linear betas, and its moving average (power 3/4, at
most 0.9999). The images lie in memory as tensors, where the script decodes them anew.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from benchmarks.peers.diffusers import torch_unet
from benchmarks.peers.torch_device import torch_device, wait_for_torch
from benchmarks.quality_parts.setting import Setting
from marble.convert.folder import open_part, params_of_part
from marble.evaluation import of_source

NAME = "diffusers"
RECIPE = "train_unconditional.py: AdamW 1e-4, warm-up and cosine, clip 1, average of power 3/4"
CLIP_NORM = 1.0


def points(setting: Setting, workdir: Path) -> Iterator[tuple[int, float, Any]]:
    """(step, seconds of training until there, averaged parameters as marble's) of each point, as it is reached.

    workdir stays empty.
    """
    began = time.perf_counter()
    torch.manual_seed(0)
    net = torch_unet(setting.experiment.objective.model, setting.source.image_shape[0])
    step = train_step(net, setting)
    images = pixels(setting)
    average = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, **class_and_config(net)
    )
    average.to(torch_device())
    seconds, began = time.perf_counter() - began, time.perf_counter()
    for done, batch in enumerate(batches(images, setting), start=1):
        step(batch)
        average.step(net.parameters())
        if done % setting.every == 0:
            wait_for_torch()
            seconds += time.perf_counter() - began
            yield done, seconds, as_ours(average)
            began = time.perf_counter()


def class_and_config(net: torch.nn.Module) -> dict[str, Any]:
    """What the moving average needs to be saved as a model."""
    return dict(model_cls=diffusers.UNet2DModel, model_config=net.config)


def train_step(net: torch.nn.Module, setting: Setting) -> Any:
    """A function of a batch [b c h w] in [-1, 1] that makes one step."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=setting.warmup, num_training_steps=setting.num_steps)
    in_half = setting.config.model.dtype == "bfloat16"

    def step(x_0: torch.Tensor) -> None:
        noise = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        with torch.autocast(x_0.device.type, torch.bfloat16, enabled=in_half):
            eps = net(scheduler.add_noise(x_0, noise, t), t).sample
        torch.nn.functional.mse_loss(eps.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()

    return step


def pixels(setting: Setting) -> torch.Tensor:
    """The training images [n c h w], uint8."""
    found = of_source(setting.source, "train")
    return torch.tensor(np.moveaxis(np.concatenate(list(found.batches(1000))), -1, 1)).contiguous()


def batches(images: torch.Tensor, setting: Setting) -> Iterator[torch.Tensor]:
    """The images in a new order each epoch, half of them mirrored, in [-1, 1], for as many steps as are asked for."""
    size, order = setting.batch_size, torch.empty(0, dtype=torch.long)
    for _ in range(setting.num_steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(images))])
        chosen, order = images[order[:size]].to(torch_device()), order[size:]
        mirrored = torch.rand(size, 1, 1, 1, device=chosen.device) < 0.5
        yield torch.where(mirrored, chosen.flip(-1), chosen).float() / 127.5 - 1


def as_ours(average: EMAModel) -> Any:
    """The parameters of the moving average in marble's tree, by way of a folder of diffusers'."""
    with tempfile.TemporaryDirectory() as folder:
        average.save_pretrained(folder)
        return params_of_part(open_part(folder))
