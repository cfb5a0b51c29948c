"""The tests marked ``device``, on this device: what is computed there beside closed forms and the CPU."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent.parent
RESULT = re.compile(r"^\S+::.* (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)


def run(tell, seconds_left, smoke, out):
    platform = jax.devices()[0].platform
    words = [sys.executable, "-m", "pytest", "-vv", "-rfE", "-m", "device", "-p", "no:cacheprovider", "tests/device"]
    log = out / "theory_tests.log"
    with open(log, "w") as file:
        tests = subprocess.Popen(
            [*words, *(["-k", "not runs"] if smoke else [])],
            cwd=ROOT,
            env={**os.environ, "MARBLE_TEST_PLATFORM": {"gpu": "cuda"}.get(platform, platform)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            status = tests.wait(timeout=max(10.0, seconds_left() - 5))
        except subprocess.TimeoutExpired:
            tests.kill()
            status = "none: it was stopped"
    printed = log.read_text(errors="replace")
    counts = Counter(word.lower() for word in RESULT.findall(printed))
    faults = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    tell(platform=platform, status=status, **counts, faults=faults[:20])
    if status or not counts["passed"]:
        raise SystemExit(f"not all tests passed: see {log.name}")
