"""Devices, versions, and what the machine can do at most."""

from benchmarks.machine import about
from benchmarks.peaks import bandwidth, matrix_peak


def run(tell, seconds_left, smoke, out):
    tell(**about())
    for dtype in ("bfloat16", "float32"):
        tell(peak_tflops=round(matrix_peak(dtype, 256 if smoke else 8192) / 1e12, 2), dtype=dtype)
    tell(gigabytes_per_second=round(bandwidth(2**20 if smoke else 2**28) / 1e9, 1))
