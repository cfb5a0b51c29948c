"""marble beside diffusers on PyTorch: the same network, batch and machine, in one run.

    pip install torch diffusers
    python benchmarks/unet_vs_diffusers.py [--only forward|train|sampler] [--repeats N] [--batch B] [--steps N]

forward   the CIFAR-10 network of Ho et al. 2020 (35,746,307 parameters), float32
train     a whole training step of it: draw t and noise, q_sample, mean squared error, gradient, clip by global norm
          1, Adam, moving average of the parameters (on both sides), and marble's checks and sums for the log
sampler   all 1000 ancestral steps of the digits network, 8x8x1 images: marble's compiled loop against a loop over
          UNet2DModel and DDPMScheduler, as in DDPMPipeline

Both sides run in turns, marble first, twice each turn, of which the second is counted, after one round that isn't;
the medians, and the median over the rounds of the quotient, are printed. Both use a GPU if both see one, else the CPU
with all its cores.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room on the same GPU

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from marble.diffusion import denoiser, linear
from marble.models import UNet
from marble.objectives.denoising import diffusion_loss_fn
from marble.objectives.draws import empty_sums
from marble.parallel import compiler_options
from marble.sampling import Ancestral, guidance, image_keys, levels, sample
from marble.training.optimizer import adam
from marble.training.state import TrainState
from marble.training.step import make_train_step

CIFAR10 = UNet()
DIGITS = UNet(
    out_channels=1,
    channels=24,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    num_groups=8,
)
LEARNING_RATE, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.9999


class Pair(NamedTuple):
    """Two calls that do the same work and return when it is done, and marble's share of the other's time at most."""

    title: str
    marble: Callable[[], Any]
    diffusers: Callable[[], Any]
    bar: float


def on_gpu() -> bool:
    return torch.cuda.is_available() and jax.default_backend() == "gpu"


def torch_device() -> torch.device:
    return torch.device("cuda" if on_gpu() else "cpu")


def wait_for_torch() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def torch_unet(model: UNet, size: int) -> torch.nn.Module:
    """diffusers' network of the same architecture."""
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


def same_networks(model: UNet, size: int) -> tuple[Any, torch.nn.Module, int]:
    """Parameters for marble, the network of diffusers, and the number of parameters of both."""
    params = jax.jit(model.init)(jax.random.key(0), *inputs(model, 1, size))["params"]
    net = torch_unet(model, size)
    counts = sum(p.size for p in jax.tree.leaves(params)), sum(p.numel() for p in net.parameters())
    assert counts[0] == counts[1], f"networks of {counts[0]} and {counts[1]} parameters"
    return params, net, counts[0]


def inputs(model: UNet, batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """x_t [b h w c] and t [b]."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, model.out_channels), np.float32)
    return images, rng.integers(0, 1000, batch)


def forward(batch: int, steps: int) -> Pair:
    params, net, count = same_networks(CIFAR10, 32)
    x_t, t = (jnp.asarray(x) for x in inputs(CIFAR10, batch, 32))
    theirs = torch.tensor(np.moveaxis(np.asarray(x_t), -1, 1), device=torch_device()), torch.tensor(np.asarray(t))
    theirs = theirs[0].contiguous(), theirs[1].to(torch_device())
    apply = jax.jit(CIFAR10.apply, compiler_options=compiler_options(gradients=False))

    @torch.no_grad()
    def run_diffusers():
        net(*theirs)
        wait_for_torch()

    return Pair(
        f"forward pass, {count:,} parameters, batch {batch}",
        lambda: apply({"params": params}, x_t, t).block_until_ready(),
        run_diffusers,
        1.15,
    )


def train(batch: int, steps: int) -> Pair:
    params, net, count = same_networks(CIFAR10, 32)
    images, _ = inputs(CIFAR10, batch, 32)
    return Pair(
        f"train step, {count:,} parameters, batch {batch}",
        marble_training(params, images),
        diffusers_training(net, images),
        1.15,
    )


def marble_training(params: Any, images: np.ndarray) -> Callable[[], Any]:
    optimizer = adam(lambda step: LEARNING_RATE, clip_norm=CLIP_NORM)
    loss_fn = diffusion_loss_fn(CIFAR10, linear())
    step = make_train_step(loss_fn, optimizer, ema_decay=EMA_DECAY)
    step = jax.jit(step, donate_argnums=0, compiler_options=compiler_options(gradients=True))
    state = jax.jit(lambda params: TrainState.create(params, optimizer, sums=empty_sums()))(params)
    batch = {"image": jnp.asarray(images), "index": jnp.arange(len(images))}
    key = jax.random.key(0)

    def run():
        nonlocal state
        state, metrics = step(state, batch, key)
        return metrics["loss"].block_until_ready()

    return run


def diffusers_training(
    net: torch.nn.Module, images: np.ndarray, autocast: torch.dtype | None = None
) -> Callable[[], Any]:
    """A training step in float32, or with a forward pass of that precision."""
    scheduler = diffusers.DDPMScheduler()
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    x_0 = torch.tensor(np.moveaxis(images, -1, 1), device=torch_device()).contiguous()

    def run():
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


def sampler(batch: int, steps: int) -> Pair:
    params, net, count = same_networks(DIGITS, 8)
    schedule = linear()
    keys = image_keys(0, jnp.arange(batch))

    @functools.partial(jax.jit, compiler_options=compiler_options(gradients=False))
    def run_marble(params, grid, keys):
        def model(x_t, t, context):
            return DIGITS.apply({"params": params}, x_t, t, context)

        denoise_fn = guidance.static_threshold(denoiser(model, schedule))
        return sample(denoise_fn, Ancestral(), grid, keys, (8, 8, 1))

    @torch.no_grad()
    def run_diffusers():
        scheduler = diffusers.DDPMScheduler()
        scheduler.set_timesteps(steps)
        x = torch.randn((batch, 1, 8, 8), device=torch_device())
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x).prev_sample
        wait_for_torch()

    return Pair(
        f"{steps} ancestral steps, 8x8x1, {count:,} parameters, batch {batch}",
        lambda: run_marble(params, levels(schedule, steps, "leading"), keys).block_until_ready(),
        run_diffusers,
        0.8,
    )


MAKERS = {"forward": (forward, 8, 15), "train": (train, 8, 9), "sampler": (sampler, 64, 3)}
"""For each measurement what makes it, its batch size, and how many rounds are counted."""


def seconds(call: Callable[[], Any]) -> float:
    call()  # its own kind goes before it, as in training: neither side pays for the other's spinning threads and caches
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(pair: Pair, repeats: int) -> str:
    """One line of the table."""
    rounds = np.array([(seconds(pair.marble), seconds(pair.diffusers)) for _ in range(repeats + 1)])[1:]
    ours, theirs = np.median(rounds, axis=0)
    ratio = np.median(rounds[:, 0] / rounds[:, 1])
    return f"| {pair.title} | {ours:.3f} s | {theirs:.3f} s | {ratio:.2f} | {pair.bar:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MAKERS, action="append", help="one of the measurements; may be repeated")
    parser.add_argument("--repeats", type=int, help="rounds that are counted (default 15 forward, 9 train, 3 sampler)")
    parser.add_argument("--batch", type=int, help="batch size (default 8 forward, 8 train, 64 sampler)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the sampler")
    args = parser.parse_args()
    device = jax.devices()[0].device_kind if on_gpu() else f"CPU, {os.cpu_count()} cores"
    print(f"{device}; jax {jax.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}\n")
    print("| what | marble | diffusers | ratio | bar |\n| --- | --- | --- | --- | --- |")
    for name in args.only or MAKERS:
        make, batch, repeats = MAKERS[name]
        print(measure(make(args.batch or batch, args.steps), args.repeats or repeats), flush=True)


if __name__ == "__main__":
    main()
