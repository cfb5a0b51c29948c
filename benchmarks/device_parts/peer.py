"""diffusers' UNet2DModel beside ours: the same network, batch and precision, in turns."""

import contextlib
import functools
import time

import jax
import numpy as np

from benchmarks.ours import experiment, pipeline, training
from benchmarks.timing import in_turns

ROUNDS = 4


def run(tell, seconds_left, smoke, out):
    import diffusers  # noqa: F401  where it is missing, that is said at once

    from benchmarks.peers.torch_device import as_jax_has_it

    as_jax_has_it()
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

    from benchmarks.peers.diffusers import diffusers_training, torch_unet

    batch_size = 4 if smoke else 128
    same = dict(dropout=0.0)  # as diffusers' network has it
    ours = training(dtype, batch_size, 1, smoke, **same)
    net = torch_unet(experiment(dtype, batch_size, smoke, **same).objective.model, 32)
    net = torch.compile(net) if torch_compile else net
    images = np.random.default_rng(0).standard_normal((batch_size, 32, 32, 3), np.float32)
    theirs = diffusers_training(net, images, autocast=torch.bfloat16 if dtype == "bfloat16" else None)
    mine = functools.partial(finished, ours.call)
    setting = dict(what="train", dtype=dtype, batch=batch_size, torch_compile=torch_compile)
    tell(**setting, **told(mine, theirs, batch_size))
    sampling(tell, seconds_left, net, dtype, torch_compile, smoke)


def finished(call):
    return jax.block_until_ready(call())


def sampling(tell, seconds_left, net, dtype, is_compiled, smoke):
    """The network alone, as a sampler asks it: 20 ancestral steps of 64 images."""
    import diffusers
    import torch

    from benchmarks.peers.torch_device import torch_device, wait_for_torch

    num, steps = (4, 2) if smoke else (64, 20)
    setting = dict(what="sample", dtype=dtype, images=num, steps=steps, torch_compile=is_compiled)
    if seconds_left() < 20 and not smoke:
        return tell(**setting, left_out=f"{seconds_left():.0f} s were left")
    pipe = pipeline(dtype, num, smoke)
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

    tell(**setting, **told(lambda: pipe.sample(num, steps=steps), theirs, num))


def told(ours, theirs, images: int) -> dict[str, object]:
    """Medians of both, and the median of the ratio round by round; the first two rounds are not counted."""
    first = []

    def peer():
        began = time.perf_counter()
        theirs()
        first.append(time.perf_counter() - began)

    turns = in_turns({"marble": ours, "diffusers": peer}, rounds=ROUNDS, warmup=2, before=0)
    return {
        "marble_images_per_second": round(images / turns.median("marble"), 1),
        "diffusers_images_per_second": round(images / turns.median("diffusers"), 1),
        "time_as_a_share_of_diffusers": round(turns.ratio("marble", "diffusers").median, 3),
        "diffusers_first_call_seconds": round(first[0], 1),
    }
