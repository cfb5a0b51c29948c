"""What importing costs and needs."""

import subprocess
import sys
from pathlib import Path

import pytest

import marble

ROOT = Path(__file__).parent.parent

CORE = ["marble", "marble.diffusion", "marble.models", "marble.sampling"]

BLOCK = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"blocked: {{name}}")
sys.meta_path.insert(0, Blocker())
"""

OPTIONAL = {
    *("tensorflow", "tensorflow_datasets", "torch", "grain", "ml_collections", "tensorboardX", "orbax", "optax"),
    *("sklearn", "PIL", "tqdm", "absl"),
}


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("module", CORE)
def test_the_core_needs_jax_and_flax_alone(module):
    # Whatever jax and flax import themselves is theirs; marble's own imports are blocked after theirs are done.
    program = f"import jax, flax.linen\n{BLOCK.format(blocked=OPTIONAL)}\nimport {module}"
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_importing_marble_is_quick_and_touches_no_data_library():
    program = (
        "import time; t = time.perf_counter(); import marble; took = time.perf_counter() - t\n"
        "import sys; print(took)\n"
        "print([m for m in ('tensorflow_datasets', 'tensorflow', 'grain') if m in sys.modules])"
    )
    times = []
    for _ in range(3):
        took, loaded = python(program).stdout.split("\n")[:2]
        assert loaded == "[]"
        times.append(float(took))
    assert min(times) < 1.5


def test_parts_are_found_when_they_are_asked_for():
    folders = {path.parent.name for path in (ROOT / "src" / "marble").glob("*/__init__.py")} - {"cli"}
    assert {"metrics", "parallel", "training"} <= folders
    for part in (*folders, "errors"):
        assert part in dir(marble)
        assert marble.__getattr__(part) is sys.modules[f"marble.{part}"]  # whether another import brought it or not
    assert python("import marble; marble.diffusion.linear; marble.load; marble.sampling.sample").returncode == 0
    assert "no attribute 'nothing'" in python("import marble; marble.nothing").stderr


def test_no_backend_starts_at_import():
    program = (
        "import marble.builders, marble.run, marble.cli.train, marble.cli.sample\n"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
