"""What holds for every launch script: shellcheck, --help, and refusals that name what is missing."""

import subprocess

import pytest
from launching import HARD, ROOT, SCRIPTS, launch

TRAIN = ["--", "marble", "train", "--config", "digits:smoke", "--workdir", HARD]
CLOUD = ["--name", "n", "--zone", "z-a"]

REFUSALS = [
    ("supervise.sh", [], "the command to run is missing"),
    ("supervise.sh", ["--max_restarts", "many", *TRAIN], "--max_restarts 'many' is not a whole number"),
    ("supervise.sh", ["--max_restarts", *TRAIN], "--max_restarts has no value"),
    ("supervise.sh", ["marble", "train"], "unexpected word 'marble': the command to run goes after --"),
    ("local.sh", TRAIN, "--processes is missing"),
    ("local.sh", ["--processes", "0", *TRAIN], "--processes 0"),
    ("local.sh", ["--processes", "2"], "the command to run is missing"),
    ("local.sh", ["--proceses", "2"], "there is no option --proceses"),
    ("worker.sh", ["run"], "the command to run is missing"),
    ("worker.sh", ["begin"], "there is no action 'begin'; there are: setup, run, logs, status, stop"),
    ("tpu_vm.sh", ["begin"], "there is no action 'begin'"),
    ("tpu_vm.sh", ["status", "--zone", "z-a"], "--name is missing"),
    ("tpu_vm.sh", ["status", "--name", "n"], "--zone is missing"),
    ("tpu_vm.sh", ["create", *CLOUD], "--accelerator_type is missing"),
    ("tpu_vm.sh", ["up", *CLOUD, "--accelerator_type", "v5e-8"], "the command to run is missing"),
    ("tpu_vm.sh", ["run", *CLOUD], "the command to run is missing"),
    ("tpu_mig.sh", ["status", *CLOUD], "--project is missing"),
    ("tpu_mig.sh", ["create", *CLOUD, "--project", "p", "--topology", "4x4", *TRAIN], "--machine_type is missing"),
    ("tpu_mig.sh", ["run", *CLOUD, "--project", "p", "--", "marble", "train", "--workdir", "a b"], "'a b' would go"),
    ("gke.sh", ["status"], "--name is missing"),
    ("gke.sh", ["apply", "--name", "n", *TRAIN], "--image is missing"),
    ("gke.sh", ["apply", "--name", "n", "--image", "i", *TRAIN], "--accelerator is missing"),
    ("slurm.sh", ["--nodes", "2", *TRAIN], "--gpus_per_node is missing"),
    ("slurm.sh", ["--nodes", "2", "--gpus_per_node", "8"], "the command to run is missing"),
    ("device_check.sh", ["--minutes", "some"], "--minutes 'some' is not a whole number"),
    ("device_check.sh", ["--python", "three"], "--python 'three' is not a version such as 3.12"),
    ("device_check.sh", ["--quality", "nowhere"], "--quality nowhere has no cifar10: marble data prepare cifar10"),
    (
        "device_check.sh",
        ["--captions", "nowhere"],
        "--captions nowhere has no metadata.jsonl: give a folder of captioned",
    ),
    ("device_check.sh", ["--captions", "x", "--quality", "x"], "--quality and --captions are two programs: give one"),
    ("device_check.sh", TRAIN, "takes no command"),
]


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_parse_and_pass_shellcheck(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    checked = subprocess.run(["shellcheck", "-x", "-s", "bash", script], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", sorted({script for script, *_ in REFUSALS}))
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_the_comment_at_the_top(tmp_path, script, word):
    done = launch(tmp_path, script, word)
    assert done.returncode == 0 and f"Usage: bash launch/{script}" in done.stdout and "#" not in done.stdout
    assert done.stderr == "" and len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize(("script", "given", "message"), REFUSALS, ids=lambda value: str(value)[:40])
def test_what_is_missing_is_named(tmp_path, script, given, message):
    done = launch(tmp_path, script, *given)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
