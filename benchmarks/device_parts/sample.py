"""Sampling with the CIFAR-10 network, of random weights: what is drawn does not change how long it takes."""

import time

from benchmarks.ours import peak_memory, pipeline

SETTINGS = [
    # precision, sampler, images, steps
    ("bfloat16", "dpm_solver_2m", 64, 20),
    ("bfloat16", "ancestral", 256, 1000),
    ("float32", "ancestral", 256, 1000),
]
SHORTEST = 25.0


def run(tell, seconds_left, smoke, out):
    for dtype, sampler, num, steps in [("float32", "ancestral", 8, 5)] if smoke else SETTINGS:
        setting = dict(dtype=dtype, sampler=sampler, images=num, steps=steps)
        if not smoke and seconds_left() < SHORTEST:
            tell(**setting, left_out=f"{seconds_left():.0f} s were left")
            continue
        try:
            measure(tell, setting, smoke)
        except Exception as error:  # one setting, as for want of memory: the others go on
            tell(**setting, failed=f"{type(error).__name__}: {str(error)[:300]}")


def measure(tell, setting, smoke):
    num, steps = setting["images"], setting["steps"]
    pipe = pipeline(setting["dtype"], num, smoke)
    took = []
    for seed in range(3 if smoke or steps < 100 else 2):
        began = time.perf_counter()
        pipe.sample(num, steps=steps, seed=seed, sampler=setting["sampler"])
        took.append(time.perf_counter() - began)
        if seed == 0:
            tell(**setting, first_call_seconds=round(took[0], 1))  # if there is no time for another
    tell(
        **setting,
        images_per_second=round(num / min(took[1:]), 2),
        seconds=round(min(took[1:]), 3),
        peak_bytes_so_far=peak_memory(),
    )
