"""The tests marked ``device``, on this device: what is computed there beside closed forms and the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent.parent


def run(tell, seconds_left, smoke, out):
    platform = jax.devices()[0].platform
    words = [sys.executable, "-m", "pytest", "-q", "-rfE", "-m", "device", "-p", "no:cacheprovider"]
    words += ["-k", "not runs"] if smoke else []
    done = subprocess.run(
        [*words, "tests/device"],
        cwd=ROOT,
        env={**os.environ, "MARBLE_TEST_PLATFORM": {"gpu": "cuda"}.get(platform, platform)},
        capture_output=True,
        text=True,
        timeout=max(10.0, seconds_left() - 5),
    )
    printed = done.stdout.splitlines()
    counts = dict(
        (word, int(number)) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    )
    tell(
        platform=platform,
        **counts,
        faults=[line for line in printed if line.startswith(("FAILED", "ERROR", "E  "))][:20],
    )
    (out / "theory_tests.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(done.returncode)
