"""The launch scripts in tests: fake commands on PATH, which write down their words."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
HARD = """gs://bucket/it's my "run" $(HOME) 100%"""
"""A workdir that comes through as one word only where everything is quoted."""
TRAIN = ["marble", "train", "--config", "configs/digits.py:smoke", "--workdir", HARD]

RECORD = """
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    kept = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "SLURM_", "CUDA_"))}
    file.write(json.dumps({"name": sys.argv[1], "words": sys.argv[2:], "env": kept}) + "\\n")
"""

# Runs the command once a task, with SLURM's variables, and ends with the highest of their statuses.
SRUN = """
while [[ $1 == --* ]]; do shift; done
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost "$@" & pids+=($!)
done
highest=0
for pid in "${pids[@]}"; do
  status=0; wait "$pid" 2>/dev/null || status=$?
  if ((status > highest)); then highest=$status; fi
done
exit "$highest"
"""


def command(folder: Path, name: str, text: str) -> None:
    """A bash script of that name, for a PATH that starts with the folder."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def recorder(folder: Path, name: str, then: str = "true") -> None:
    """A command that appends its words to the file ``calls``, and then does something."""
    (folder / "record.py").write_text(RECORD)
    command(folder, name, f"'{sys.executable}' -S -E '{folder}/record.py' {name} \"$@\"\n{then}")


def python_without_pip(folder: Path, then: str = "true") -> None:
    """A Python that installs nothing, but does this instead."""
    recorder(folder, "python", f'[[ "$*" == "-m pip"* ]] || exec "{sys.executable}" "$@"\n{then}')


def calls(folder: Path, name: str) -> list[dict]:
    """What the recorders of that name were given, one after the other."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if call["name"] == name]


def words(folder: Path, name: str) -> list[list[str]]:
    """The words alone."""
    return [call["words"] for call in calls(folder, name)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a script under test: nothing of what jax has left in ours."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "SLURM_", "TPU_", "CUDA_"))
    }
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "CALLS": str(folder / "calls"), **more}


def launch(folder: Path, script: str, *given: object, timeout: float = 60, **more: str) -> subprocess.CompletedProcess:
    """Runs a launch script to its end, in the folder."""
    return subprocess.run(
        ["bash", ROOT / "launch" / script, *map(str, given)],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
