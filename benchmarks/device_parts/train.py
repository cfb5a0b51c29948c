"""Training of the CIFAR-10 network, the most telling setting first."""

import json

from benchmarks.ours import flops_of_an_image, peak_memory, training
from benchmarks.peaks import median_seconds

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
    settings = [("bfloat16", 4, 2)] if smoke else SETTINGS
    flops, peaks = flops_of_an_image(smoke), measured_peaks(out)
    tell(gigaflops_an_image=flops and round(flops / 1e9, 2))
    for dtype, batch_size, steps_per_call in settings:
        setting = dict(dtype=dtype, batch=batch_size, steps_per_call=steps_per_call)
        if seconds_left() < SHORTEST:
            tell(**setting, left_out=f"{seconds_left():.0f} s were left")
            continue
        try:
            found = measured(dtype, batch_size, steps_per_call, smoke)
            tflops = flops and flops * found["images_per_second"] / 1e12
            share = tflops and dtype in peaks and round(tflops / peaks[dtype], 3)
            tell(**setting, **found, tflops=tflops and round(tflops, 2), share_of_measured_peak=share or None)
        except Exception as error:  # one setting, as for want of memory: the others go on
            tell(**setting, failed=f"{type(error).__name__}: {str(error)[:300]}")


def measured_peaks(out) -> dict[str, float]:
    """TFLOP/s of each precision, that the part ``machine`` has found before."""
    rows = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return {row["dtype"]: row["peak_tflops"] for row in rows if "peak_tflops" in row}


def measured(dtype: str, batch_size: int, steps_per_call: int, smoke: bool) -> dict[str, object]:
    found = training(dtype, batch_size, steps_per_call, smoke)
    seconds = median_seconds(found.call, calls=1 if smoke else max(1, 8 // steps_per_call)) / steps_per_call
    memory = found.compiled.memory_analysis()
    return {
        "images_per_second": round(batch_size / seconds, 1),
        "ms_a_step": round(1000 * seconds, 3),
        "compile_seconds": round(found.compile_seconds, 1),
        "peak_bytes_so_far": peak_memory(),
        "program_bytes": memory and memory.temp_size_in_bytes + memory.argument_size_in_bytes,
        "loss": float(found.call()),
    }
