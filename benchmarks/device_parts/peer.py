"""diffusers' UNet2DModel beside ours: the same network, batch and precision, in turns."""

import contextlib
import functools
import time

import jax
import numpy as np

from device_parts.common import experiment, training

ROUNDS = 4


def run(tell, seconds_left, smoke, out):
    import torch
    import unet_vs_diffusers  # noqa: F401  where diffusers is missing, that is said at once

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as jax has it
    torch.backends.cudnn.benchmark = True
    precisions = ("float32",) if smoke else ("bfloat16", "float32")
    # What torch compiles comes last: it takes longest, and can fail for want of a compiler.
    for is_compiled in (False, *([] if smoke else [True])):
        for dtype in precisions:
            setting = dict(dtype=dtype, torch_compile=is_compiled)
            if seconds_left() < 30 and not smoke:
                tell(**setting, left_out=f"{seconds_left():.0f} s were left")
                continue
            try:
                measure(tell, seconds_left, smoke, **setting)
            except Exception as error:  # one setting: the others go on
                tell(**setting, failed=f"{type(error).__name__}: {str(error)[:300]}")


def measure(tell, seconds_left, smoke, *, dtype, torch_compile):
    import torch
    from unet_vs_diffusers import diffusers_training, torch_unet

    batch_size = 4 if smoke else 128
    same = dict(dropout=0.0)  # as diffusers' network has it
    ours = training(dtype, batch_size, 1, smoke, **same)
    net = torch_unet(experiment(dtype, batch_size, smoke, **same).objective.model, 32)
    net = torch.compile(net) if torch_compile else net
    images = np.random.default_rng(0).standard_normal((batch_size, 32, 32, 3), np.float32)
    theirs = diffusers_training(net, images, autocast=torch.bfloat16 if dtype == "bfloat16" else None)
    mine = functools.partial(finished, ours.call)
    setting = dict(what="train", dtype=dtype, batch=batch_size, torch_compile=torch_compile)
    tell(**setting, **in_turns(mine, theirs, batch_size))
    sampling(tell, seconds_left, net, dtype, torch_compile, smoke)


def finished(call):
    return jax.block_until_ready(call())


def sampling(tell, seconds_left, net, dtype, is_compiled, smoke):
    """The network alone, as a sampler asks it: 20 ancestral steps of 64 images."""
    import diffusers
    import torch
    from unet_vs_diffusers import torch_device, wait_for_torch

    num, steps = (4, 2) if smoke else (64, 20)
    setting = dict(what="sample", dtype=dtype, images=num, steps=steps, torch_compile=is_compiled)
    if seconds_left() < 20 and not smoke:
        return tell(**setting, left_out=f"{seconds_left():.0f} s were left")
    built = experiment(dtype, num, smoke)
    pipe = built.pipeline(jax.jit(built.init_params)(), mapping=built.parallel.open(tuple(jax.devices()[:1])))
    cast = torch.autocast(torch_device().type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    @torch.no_grad()
    def theirs():
        scheduler = diffusers.DDPMScheduler()
        scheduler.set_timesteps(steps)
        x = torch.randn((num, 3, 32, 32), device=torch_device())
        for t in scheduler.timesteps:
            with cast:
                eps = net(x, t.to(torch_device())).sample
            x = scheduler.step(eps.float(), t, x).prev_sample
        wait_for_torch()

    tell(**setting, **in_turns(lambda: pipe.sample(num, steps=steps), theirs, num))


def in_turns(ours, theirs, images: int) -> dict[str, object]:
    """Medians of both, and the median of the ratio round by round; the first two rounds are not counted."""
    took = []
    for _ in range(ROUNDS + 2):
        row = []
        for call in (ours, theirs):
            began = time.perf_counter()
            call()
            row.append(time.perf_counter() - began)
        took.append(row)
    counted = np.array(took[2:])
    mine, other = np.median(counted, axis=0)
    return {
        "marble_images_per_second": round(images / mine, 1),
        "diffusers_images_per_second": round(images / other, 1),
        "time_as_a_share_of_diffusers": round(float(np.median(counted[:, 0] / counted[:, 1])), 3),
        "diffusers_first_call_seconds": round(took[0][1], 1),
    }
