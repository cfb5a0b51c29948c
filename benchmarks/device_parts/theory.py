"""The tests marked ``device``, on this device: what is computed there beside closed forms and the CPU."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RESULT = re.compile(r"^\S+::.* (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
FILES = ("test_numbers.py", "test_runs.py")
"""The second has trainings in processes of their own, and takes longer."""


def run(tell, seconds_left, smoke, out):
    platform = platform_of_jax()
    all_passed = True
    for name in FILES[:1] if smoke else FILES:
        log = out / f"theory_{name.removesuffix('.py')}.log"
        status = tests(name, platform, log, max(10.0, seconds_left() - 5))
        printed = log.read_text(errors="replace")
        counts = Counter(word.lower() for word in RESULT.findall(printed))
        faults = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        tell(tests=name, platform=platform, status=status, **counts, faults=faults[:20])
        all_passed = all_passed and status == 0 and counts["passed"] > 0
    if not all_passed:
        raise SystemExit("not all tests passed: see the logs theory_*.log")


def platform_of_jax():
    """Asked in another process: a TPU belongs to the one that has opened it."""
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()[-1]
    return {"gpu": "cuda"}.get(found, found)


def tests(name, platform, log, limit):
    """The exit status of the tests of a file, or that they were stopped, with all that they have started."""
    words = [sys.executable, "-m", "pytest", "-vv", "-rfE", "-m", "device", "-p", "no:cacheprovider"]
    with open(log, "w") as file:
        child = subprocess.Popen(
            [*words, f"tests/device/{name}"],
            cwd=ROOT,
            env={**os.environ, "MARBLE_TEST_PLATFORM": platform},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"none: stopped after {limit:.0f} s"
