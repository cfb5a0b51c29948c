"""quickstart.sh, test.sh and environment.sh, without installing anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, SCRIPTS, command

from marble.cli.train import configured


@pytest.fixture
def fakes(tmp_path):
    """A PATH on which python and marble write down what they were asked to do."""
    log = tmp_path / "log"
    log.touch()
    for name in ("python", "marble"):
        command(tmp_path, name, f'echo "{name} $*" >> "{log}"')
    return tmp_path


def run(fakes, script, *words, cwd=None, **environment):
    env = {"PATH": f"{fakes}:{os.environ['PATH']}", "HOME": str(fakes), "VIRTUAL_ENV": str(fakes), **environment}
    done = subprocess.run(["bash", ROOT / "launch" / script, *words], env=env, cwd=cwd, capture_output=True, text=True)
    return done, (fakes / "log").read_text().splitlines()


def test_quickstart_trains_samples_and_says_where(fakes):
    workdir = fakes / "my runs"
    done, calls = run(fakes, "quickstart.sh", workdir)
    assert done.returncode == 0, done.stderr
    assert [call for call in calls if call.startswith("marble")] == [
        f"marble train --config configs/digits.py --workdir {workdir}",
        f"marble sample --workdir {workdir} --num 64 --seed 0 --out {workdir}/out --gif",
    ]
    assert f"{workdir}/out/samples.png" in done.stdout
    (install,) = [call for call in calls if "pip install" in call]
    assert "my runs" not in install  # which is no extra


@pytest.mark.parametrize("script", ["quickstart.sh", "text_to_image.sh"])
def test_paths_are_of_the_folder_where_it_was_called(fakes, tmp_path, script):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "my images").mkdir(parents=True)
    words = ["my runs", "my images"] if script == "text_to_image.sh" else ["my runs"]
    done, calls = run(fakes, script, *words, cwd=elsewhere, VARIANT=":smoke")
    assert done.returncode == 0, done.stderr
    called = [call for call in calls if call.startswith("marble")]
    assert called and all(f" --workdir {elsewhere}/my runs" in call for call in called)
    if script == "text_to_image.sh":
        trained = [call for call in called if " train " in call]
        assert all(f"--config.data.source={elsewhere}/my images" in call for call in trained)


def test_what_lies_in_the_workdir_already_is_left_alone(fakes, tmp_path):
    """Its folder data may be somebody's own: without texts of emoji it is not filled, and never removed."""
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "thesis.txt").write_text("three years")
    command(fakes, "marble", f'echo "marble $*" >> "{fakes}/log"; exit 2')
    done, calls = run(fakes, "text_to_image.sh", tmp_path / "run", VARIANT=":smoke")
    assert done.returncode == 2 and calls[-1] == f"marble data emoji --out {tmp_path}/run/data"
    assert (tmp_path / "run" / "data" / "thesis.txt").read_text() == "three years"


def test_a_failed_training_is_not_sampled(fakes):
    command(fakes, "marble", f'echo "marble $*" >> "{fakes}/log"; exit 3')
    done, calls = run(fakes, "quickstart.sh")
    assert done.returncode == 3 and sum(call.startswith("marble") for call in calls) == 1


@pytest.mark.parametrize("family", ["emoji", "cifar10_text"])
@pytest.mark.parametrize("variant", [":smoke", ":tiny", ":quick", ""])
def test_the_parts_of_text_to_image_are_trained_in_order_by_configs_that_there_are(fakes, tmp_path, family, variant):
    workdir, data = tmp_path / "my runs", tmp_path / "my data"
    done, calls = run(fakes, "text_to_image.sh", workdir, data, FAMILY=family, VARIANT=variant)
    assert done.returncode == 0, done.stderr
    trained = [call.removeprefix("marble train --config ") for call in calls if call.startswith("marble train")]
    parts = ["autoencoder", "clip", "latent", "upsampler"]
    for part, call in zip(parts, trained, strict=True):
        config, given = call.split(f" --workdir {workdir / part} ")
        words = [word for word in re.split(" (?=--config)", given) if word.startswith("--config.")]
        complete = configured(str(ROOT / config), words)
        assert complete.data.data_dir == f"{workdir}/prepared"
        assert complete.data.source == (str(data) if family == "emoji" else None)
    (latent,) = [call for call in trained if "latent.py" in call]
    assert f"--config.autoencoder.path={workdir}/autoencoder/vae" in latent
    assert f"--config.text.encoders=('{workdir}/clip/clip',)" in latent
    order = [calls.index(next(call for call in calls if part in call)) for part in (*parts, "marble sample")]
    assert order == sorted(order) and re.findall(r"part (\d) of 6", done.stdout) == list("123456")
    prepared = [call for call in calls if call.startswith("marble data")]
    assert prepared == (
        [] if family == "emoji" else [f"marble data prepare cifar10 --data_dir {workdir}/prepared --source {data}"]
    )


@pytest.mark.parametrize(
    ("smi", "extra"),
    [("CUDA Version: 13.0", "[cuda13]"), ("CUDA Version: 12.4", "[cuda12]"), (None, "")],
)
def test_the_extra_of_the_accelerator_is_installed(fakes, smi, extra):
    command(fakes, "nvidia-smi", f"echo '{smi}'" if smi else "exit 9")
    _, calls = run(fakes, "quickstart.sh")
    (install,) = [call for call in calls if "pip install" in call]
    assert install.endswith(f"--editable .{extra}")


def test_the_test_extra_is_added(fakes):
    for name in ("ruff", "lint-imports"):
        command(fakes, name, "true")
    command(fakes, "nvidia-smi", "exit 9")
    done, calls = run(fakes, "test.sh", "-k", "some name")
    assert done.returncode == 0, done.stderr
    assert any(call.endswith("--editable .[test]") for call in calls)
    assert re.fullmatch(r"python -m pytest -n [1-4] --dist loadfile --no-loadscope-reorder -k some name", calls[-1])


def test_too_old_a_python_is_refused(tmp_path):
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        command(tmp_path, name, "exit 1")
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
    copy = tmp_path / "checkout"
    (copy / "launch").mkdir(parents=True)
    for script in SCRIPTS:
        (copy / "launch" / script.name).write_text(script.read_text())
    done = subprocess.run(
        ["bash", copy / "launch" / "quickstart.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Python 3.11, 3.12 or 3.13, but PATH has none: install" in done.stderr


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"python3": (3, 14), "python3.13": (3, 13), "python3.12": (3, 12)}, "python3.13"),
        ({"python3": (3, 14), "python3.13": None, "python3.12": None, "python3.11": (3, 11)}, "python3.11"),
        ({"python3": (3, 10), "python3.13": None, "python3.12": None, "python3.11": None, "python": (3, 12)}, "python"),
        ({"python3": (3, 13)}, "python3"),
        ({"python3": (3, 14), "python3.13": None, "python3.12": None, "python3.11": None, "python": (3, 14)}, None),
    ],
)
def test_a_python_of_a_tested_version_is_found(tmp_path, versions, found):
    for name, version in versions.items():
        check = f"import sys; sys.version_info = ({version}); exec(sys.argv[2])"
        answer = f"case $1 in --version) echo 'Python {version}' ;; *) '{sys.executable}' -c '{check}' \"$@\" ;; esac"
        command(tmp_path, name, answer if version else "exit 127")
    finding = f'source <(sed -n "/^find_python/,/^}}/p" "{ROOT}/launch/environment.sh"); find_python'
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", finding], env=env, capture_output=True, text=True)
    if found:
        assert (done.stdout, done.returncode) == (f"{found}\n", 0)
    else:
        assert done.returncode == 2 and "needs Python 3.11, 3.12 or 3.13, but PATH has Python (3, 14):" in done.stderr
