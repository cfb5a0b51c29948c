"""The longest kernels of a training step, from jax's profiler."""

import collections
from pathlib import Path

import jax

from benchmarks.ours import training

STEPS = 3
MOST = 10


def run(tell, seconds_left, smoke, out):
    dtype, batch_size = ("float32", 8) if smoke else ("bfloat16", 128)
    found = training(dtype, batch_size, 1, smoke)
    for _ in range(2):
        jax.block_until_ready(found.call())
    folder = out / "part_profile"
    with jax.profiler.trace(str(folder)):
        for _ in range(STEPS):
            jax.block_until_ready(found.call())
    times = kernels(newest(folder))
    total = sum(times.values())
    longest = [
        {"kernel": name[:160], "ms_a_step": round(ms, 4), "share": round(ms / total, 4)}
        for name, ms in times.most_common(MOST)
    ]
    tell(dtype=dtype, batch=batch_size, ms_a_step=round(total, 3), kinds=len(times), longest=longest)
    (out / "train_step.hlo.txt").write_text(found.compiled.as_text()[:4_000_000])


def newest(folder: Path) -> Path:
    return max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def kernels(path: Path) -> collections.Counter:
    """Milliseconds a step of each kernel: of a GPU or TPU its own lines, on a CPU the operations of XLA's threads."""
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    of_device = [plane for plane in planes if plane.name.startswith("/device:") and "CUSTOM" not in plane.name]
    times: collections.Counter = collections.Counter()
    for plane in of_device or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            # Lines such as "XLA Modules" and "Steps" hold the same time again, as a whole.
            if of_device and not (line.name.startswith("Stream") or line.name == "XLA Ops"):
                continue
            if not of_device and "XLA" not in line.name and "tf_" not in line.name:
                continue
            for event in line.events:
                if event.name.startswith("ThunkExecutor"):  # of a CPU, which holds the kernels' time again
                    continue
                times[event.name] += event.duration_ns / 1e6 / STEPS
    return times
