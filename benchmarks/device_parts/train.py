"""Training of the CIFAR-10 network, the most telling setting first."""

from device_parts.common import median_seconds, peak_memory, training

SETTINGS = [
    # precision, batch, steps a call
    ("bfloat16", 128, 1),
    ("float32", 128, 1),
    ("bfloat16", 512, 1),
    ("bfloat16", 128, 16),
    ("float32", 512, 1),
    ("bfloat16", 512, 16),
    ("float32", 128, 16),
    ("float32", 512, 16),
]
SHORTEST = 20.0
"""Seconds that a setting takes at least, most of it to compile."""


def run(tell, seconds_left, smoke, out):
    settings = [("float32", 8, 1), ("bfloat16", 8, 2)] if smoke else SETTINGS
    for dtype, batch_size, steps_per_call in settings:
        setting = dict(dtype=dtype, batch=batch_size, steps_per_call=steps_per_call)
        if seconds_left() < SHORTEST:
            tell(**setting, left_out=f"{seconds_left():.0f} s were left")
            continue
        try:
            tell(**setting, **measured(dtype, batch_size, steps_per_call, smoke))
        except Exception as error:  # one setting, as for want of memory: the others go on
            tell(**setting, failed=f"{type(error).__name__}: {str(error)[:300]}")


def measured(dtype: str, batch_size: int, steps_per_call: int, smoke: bool) -> dict[str, object]:
    found = training(dtype, batch_size, steps_per_call, smoke)
    seconds = median_seconds(found.call, calls=max(1, 8 // steps_per_call)) / steps_per_call
    flops = (found.compiled.cost_analysis() or {}).get("flops")
    memory = found.compiled.memory_analysis()
    return {
        "images_per_second": round(batch_size / seconds, 1),
        "ms_a_step": round(1000 * seconds, 3),
        # XLA counts the body of a loop once, so that a program of several steps says what one has.
        "tflops": None if not flops else round(flops / seconds / 1e12, 2),
        "compile_seconds": round(found.compile_seconds, 1),
        "peak_bytes": peak_memory(),
        "program_bytes": memory and memory.temp_size_in_bytes + memory.argument_size_in_bytes,
        "loss": float(found.call()),
    }
