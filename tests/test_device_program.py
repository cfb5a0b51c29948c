"""The suite device of benchmarks: its time, its faults, its report; and at tiny sizes, here, what it measures."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import jax
import pytest
from processes import ROOT

from benchmarks import ours
from benchmarks.device_parts import report, unpack
from benchmarks.suites import device


def run(checkout, *words, timeout=300):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--suite", "device", *map(str, words)],
        cwd=checkout,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def rows(folder, part):
    return [row for row in report.rows_of(folder) if row["part"] == part]


@pytest.mark.parametrize("slow", [1.0, 100.0])
def test_every_part_has_its_least_however_long_the_others_take(slow):
    left, names = 480.0, list(device.PARTS)
    for i, name in enumerate(names):
        given = device.seconds_for(names[i:], left, 1.0)
        assert device.PARTS[name][0] <= given <= device.PARTS[name][1]
        left -= min(given, slow * 30)
    assert left >= 0


def test_without_operations_from_the_compiler_the_rest_is_measured(monkeypatch):
    """As of an accelerator's, which tells them after compiling alone."""
    assert ours.flops_of_an_image(smoke=True) > 1e6
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda self: None)
    assert ours.flops_of_an_image(smoke=True) is None


def test_a_part_that_runs_again_replaces_what_it_found(tmp_path):
    for i in range(2):
        for part in ("machine", "digits", "end"):
            device.forget(tmp_path, part)
            device.say(tmp_path, part, number=i)
        (tmp_path / "part_digits").mkdir()
        (tmp_path / "digits").mkdir(exist_ok=True)  # somebody else's
        device.forget(tmp_path, "digits")
        assert not (tmp_path / "part_digits").exists() and (tmp_path / "digits").exists()
    assert [(row["part"], row["number"]) for row in report.rows_of(tmp_path)] == [("machine", 1)]


def test_what_is_left_is_never_exceeded():
    assert device.seconds_for(list(device.PARTS), 7.0, 1.0) == 7.0
    assert device.seconds_for(["digits"], 1000.0, 2.0) == 2 * device.PARTS["digits"][1]


FAKES = {
    "machine": "def run(tell, seconds_left, smoke, out):\n    tell(device='a fake', smoke=smoke)\n",
    "train": "def run(tell, seconds_left, smoke, out):\n    tell(found=1)\n    raise ValueError('a fault')\n",
    "sample": "import time\ndef run(tell, seconds_left, smoke, out):\n    tell(found=2)\n    time.sleep(600)\n",
    "peer": "def run(tell, seconds_left, smoke, out):\n    import a_package_that_is_not_there\n",
    "text_to_image": "def run(tell, seconds_left, smoke, out):\n    tell(found=3)\n",
    "theory": "import os\ndef run(tell, seconds_left, smoke, out):\n    os.kill(os.getpid(), 11)\n",
    "profile": "def run(tell, seconds_left, smoke, out):\n    tell(longest=[])\n",
    "digits": "def run(tell, seconds_left, smoke, out):\n    tell(left=seconds_left())\n",
}


def test_a_part_that_fails_hangs_or_lacks_a_package_is_said_and_the_rest_goes_on(tmp_path):
    parts = tmp_path / "benchmarks" / "device_parts"
    shutil.copytree(ROOT / "benchmarks", parts.parent, ignore=shutil.ignore_patterns("device_parts", "__pycache__"))
    parts.mkdir()
    (parts / "__init__.py").touch()
    for name, text in FAKES.items():
        (parts / f"{name}.py").write_text(text)
    out = tmp_path / "out"
    done = run(tmp_path, "--out", "out", "--minutes", 0.3, "--smoke")
    assert done.returncode == 1
    assert [row["part"] for row in report.rows_of(out) if "done" in row] == [
        *("machine", "peer", "text_to_image", "profile", "digits")
    ]
    assert rows(out, "machine")[0] == {"part": "machine", "device": "a fake", "smoke": True}
    found, failed = rows(out, "train")
    assert found["found"] == 1 and failed["log"][-1] == "ValueError: a fault"
    found, stopped = rows(out, "sample")
    assert found["found"] == 2 and stopped["stopped"].startswith("after 5 s")
    assert rows(out, "peer")[0]["left_out"] == "a_package_that_is_not_there is not installed"
    assert rows(out, "theory")[0]["failed"] == "status -11"
    assert 0 < rows(out, "digits")[0]["left"] < 18
    assert rows(out, "end")[0]["failed"] == ["train", "theory"]
    assert rows(out, "end")[0]["seconds"] < 18

    done = run(tmp_path, "--out", tmp_path / "late", "--minutes", 0.01, "--only", "machine", "digits")
    assert [sorted(row) for row in report.rows_of(tmp_path / "late")] == [["left_out", "part"]] * 2 + [
        ["failed", "part", "seconds"]
    ]


@pytest.mark.end_to_end
@pytest.mark.slow
def test_at_tiny_sizes_it_measures_on_this_machine(tmp_path):
    done = run(ROOT, "--out", tmp_path, "--smoke", "--only", "machine", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    machine = report.merged(report.rows_of(tmp_path), "machine")
    assert machine["platform"] == "cpu" and machine["versions"]["jax"]
    assert machine["peak_tflops"] > 0 and machine["gigabytes_per_second"] > 0
    counted, row, _ = rows(tmp_path, "train")
    assert (row["dtype"], row["batch"], row["steps_per_call"]) == ("bfloat16", 4, 2)
    assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["ms_a_step"], rel=1e-2)
    tflops = counted["gigaflops_an_image"] * row["images_per_second"] / 1000
    peak = next(row["peak_tflops"] for row in rows(tmp_path, "machine") if row.get("dtype") == "bfloat16")
    assert row["share_of_measured_peak"] == pytest.approx(tflops / peak, abs=0.02)
    assert 0.5 < row["loss"] < 2


@pytest.mark.slow
def test_text_to_image_at_tiny_sizes(tmp_path):
    """Without PyTorch or diffusers their side is left out, and said so."""
    done = run(ROOT, "--out", tmp_path, "--smoke", "--only", "text_to_image")
    assert done.returncode == 0, done.stdout + done.stderr
    compiled, ours, *theirs, _ = rows(tmp_path, "text_to_image")
    assert compiled["compile_seconds"] > 0 and compiled["program_bytes"] > 0
    assert (ours["whose"], ours["attention"], ours["images"], ours["steps"]) == ("marble", "xla", 2, 2)
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"], rel=0.1)
    assert {row["whose"] for row in theirs} == {"diffusers"}
    assert any("images_per_second" in row or "left_out" in row for row in theirs)


@pytest.mark.slow
def test_all_of_it_at_tiny_sizes(tmp_path):
    done = run(ROOT, "--out", tmp_path, "--smoke", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    first, drawn, _ = rows(tmp_path, "sample")
    assert first["first_call_seconds"] > drawn["seconds"] > 0
    kernels = rows(tmp_path, "profile")[0]["longest"]
    assert len(kernels) == 10 and sum(kernel["share"] for kernel in kernels) <= 1
    assert kernels == sorted(kernels, key=lambda kernel: -kernel["share"])
    assert rows(tmp_path, "theory")[0]["passed"] >= 9
    assert rows(tmp_path, "digits")[0]["train_seconds"] > 0


RESULTS = [
    {"part": "machine", "device": "a chip", "count": 1, "python": "3.12", "driver": "D", "versions": {"jax": "1"}},
    {"part": "machine", "peak_tflops": 900.5, "dtype": "bfloat16"},
    {"part": "machine", "gigabytes_per_second": 3000.0},
    {"part": "train", "dtype": "bfloat16", "batch": 128, "steps_per_call": 16, "images_per_second": 5000.0},
    {"part": "train", "dtype": "float32", "batch": 512, "steps_per_call": 1, "left_out": "3 s were left"},
    {"part": "sample", "dtype": "bfloat16", "sampler": "ancestral", "images": 256, "steps": 1000, "seconds": 12.5,
     "images_per_second": 20.5},
    {"part": "peer", "what": "train", "dtype": "bfloat16", "torch_compile": True, "time_as_a_share_of_diffusers": 0.8},
    {"part": "text_to_image", "whose": "marble", "dtype": "bfloat16", "images": 4, "attention": "cudnn", "steps": 20,
     "compile_seconds": 40.0, "images_per_second": 3.25, "seconds": 1.23},
    {"part": "text_to_image", "whose": "diffusers", "dtype": "bfloat16", "images": 4, "torch_compile": True,
     "steps": 20, "left_out": "diffusers is not installed"},
    {"part": "profile", "longest": [{"kernel": "a|b", "ms_a_step": 1.5, "share": 0.4}]},
    {"part": "digits", "failed": "status 1", "log": ["a line", "an error"]},
]  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# A project\n\n## Results\n\nOn a CPU.\n\n## After\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RESULTS))
    return tmp_path


def test_the_report_has_what_was_found_and_what_was_not(checkout):
    assert report.write([checkout / "run"], checkout) == 0
    page = (checkout / "benchmarks" / "results" / "gpu.md").read_text()
    assert "## a chip" in page and "900.5 TFLOP/s in bfloat16, 3000.0 GB/s" in page
    assert "| a/b | 1.5 | 0.4 |" in page
    assert "Not there (dtype=float32, batch=512, steps_per_call=1): 3 s were left." in page
    assert "Not there: status 1. a line an error" in page
    readme = (checkout / "README.md").read_text()
    assert readme.count("5,000.0 images/s") == 1 and "bfloat16, batch 128, 16 steps a call" in readme
    assert "256 images by 1000 steps of ancestral, bfloat16 | 12.5 s" in readme
    assert "time as a share of diffusers' (torch.compile) | 0.8" in readme
    what = "text to image, SD 1.5's networks, 4 by 20 steps, bfloat16: marble, attention cudnn | 3.25 images/s"
    assert what in readme and readme.count("text to image") == 1
    left = "whose=diffusers, dtype=bfloat16, images=4, torch_compile=True, steps=20"
    assert f"Not there ({left}): diffusers is not installed." in page
    assert readme.index("On a CPU.") < readme.index("5,000.0") < readme.index("## After")


def test_a_second_report_takes_the_place_of_the_first(checkout):
    report.write([checkout / "run"], checkout)
    once = (checkout / "README.md").read_text()
    report.write([checkout / "run"], checkout)
    assert (checkout / "README.md").read_text() == once


def test_a_folder_without_results_is_named(checkout, capsys):
    assert report.write([checkout], checkout) == 2
    assert f"{checkout} has no results.jsonl" in capsys.readouterr().err
    assert "On accelerators" not in (checkout / "README.md").read_text()


def test_wheels_are_unpacked_unless_they_are_installed(tmp_path, capsys):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    assert unpack.main(str(wheels), str(tmp_path / "site")) == 2
    assert "make them with bash launch/device_check.sh" in capsys.readouterr().err
    for name, module in {
        "Not_There-1.0": "not_there",
        "numpy-0.1": "numpy",
        "ml_collections-9": "ml_collections",
    }.items():
        with zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{module}/__init__.py", "")
    assert unpack.main(str(wheels), str(tmp_path / "site")) == 0
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["not_there"]
