"""tpu_vm.sh against a fake gcloud, whose workers are folders and processes of this machine."""

import json
import shutil
import sys
import time

import pytest
from launching import HARD, ROOT, TRAIN, calls, command, launch, python_without_pip, recorder, words

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the workers' side is for Linux")
SLICE = ["--name", "n", "--zone", "z-a", "--project", "p"]
TYPE = ["--accelerator_type", "v5e-32"]
RUNS = "trap 'kill $!; exit 75' TERM; sleep 60 & touch ready; wait"


@pytest.fixture
def cloud(tmp_path):
    """A folder with a gcloud, and a Python that installs nothing."""
    command(tmp_path, "gcloud", f"exec '{sys.executable}' -S -E '{ROOT}/tests/fake_gcloud.py' \"$@\"")
    (tmp_path / "workers").write_text("2")
    python_without_pip(tmp_path)
    recorder(tmp_path, "marble")
    yield tmp_path
    tpu_vm(tmp_path, "stop")


def tpu_vm(folder, action, *options, command_line=(), **more):
    end = ["--", *command_line] if command_line else []
    cloud = {"FAKE_CLOUD": str(folder), "VIRTUAL_ENV": str(folder), "CALLS": str(folder / "recorded")}
    return launch(folder, "tpu_vm.sh", action, *SLICE, *options, *end, **cloud, **more)


def asked(folder) -> list[list[str]]:
    """The words that gcloud got, one call after the other."""
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def home(folder, worker):
    return folder / "slices" / "n" / f"worker-{worker}"


def recorded(folder, name):
    (folder / "calls").rename(folder / "gcloud-calls")
    (folder / "recorded").rename(folder / "calls")
    return calls(folder, name)


def status_is(folder, said) -> bool:
    return tpu_vm(folder, "status").stdout.count(f": {said}\n") == 2


def wait_for_status(folder, said):
    for _ in range(100):
        if status_is(folder, said):
            return
        time.sleep(0.05)
    raise AssertionError(f"{tpu_vm(folder, 'status').stdout} is not {said}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--accelerator_type", "v5e-8"],
            "tpu-vm create n --version=v2-alpha-tpuv5-lite --accelerator-type=v5litepod-8",
        ),
        (
            ["--accelerator_type", "v4-8", "--spot", "--pass=--network=a b"],
            "tpu-vm create n --version=tpu-ubuntu2204-base --accelerator-type=v4-8 --spot --network=a b",
        ),
        (
            ["--accelerator_type=v6e-16", "--queued", "--spot"],
            "queued-resources create n --node-id=n --runtime-version=v2-alpha-tpuv6e --accelerator-type=v6e-16 --spot",
        ),
        (
            ["--accelerator_type=v5p-16", "--version=mine"],
            "tpu-vm create n --version=mine --accelerator-type=v5p-16",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_create_on_demand_spot_and_queued(cloud, options, expected):
    done = tpu_vm(cloud, "create", *options)
    assert done.returncode == 0, done.stderr
    kept = [w for w in asked(cloud)[0][2:] if w not in ("--quiet", "--zone=z-a", "--project=p")]
    assert " ".join(kept) == expected
    assert {"--quiet", "--zone=z-a", "--project=p"} <= set(asked(cloud)[0])


def test_up_makes_installs_and_runs_on_every_worker(cloud):
    done = tpu_vm(cloud, "up", *TYPE, command_line=TRAIN)
    assert done.returncode == 0, done.stderr
    wait_for_status(cloud, "done")
    assert (home(cloud, 1) / "marble" / "launch" / "worker.sh").exists()
    installed = [call["words"][-1] for call in recorded(cloud, "python") if "install" in call["words"]]
    assert len(installed) == 2 and all(extra.endswith("tpu,gcs]") for extra in installed)
    assert words(cloud, "marble") == [TRAIN[1:]] * 2
    kept = {call["env"]["JAX_COMPILATION_CACHE_DIR"] for call in calls(cloud, "marble")}
    assert kept == {f"{HARD}/xla_cache"}


def test_a_failed_installation_runs_nothing(cloud):
    recorder(cloud, "python", '[[ "$*" != "-m pip"* ]] || exit 9')
    assert tpu_vm(cloud, "up", *TYPE, command_line=TRAIN).returncode != 0
    assert not any("worker.sh run" in " ".join(call) for call in asked(cloud))


def test_the_run_is_detached_logged_and_stopped(cloud):
    recorder(cloud, "marble", f"echo it trains; {RUNS}")
    assert tpu_vm(cloud, "up", *TYPE, command_line=TRAIN).returncode == 0
    wait_for_status(cloud, "running")
    again = tpu_vm(cloud, "run", command_line=TRAIN)
    assert again.returncode == 0 and again.stderr.count("already running") == 2
    while "it trains" not in tpu_vm(cloud, "logs", "--worker", "1").stdout:
        time.sleep(0.05)
    stopped = tpu_vm(cloud, "stop")
    assert stopped.returncode == 0 and stopped.stdout.count(": stopped\n") == 2
    assert status_is(cloud, "stopped")
    assert tpu_vm(cloud, "run", command_line=TRAIN).returncode == 0
    wait_for_status(cloud, "running")


def test_a_fault_is_a_status(cloud):
    recorder(cloud, "marble", "exit 2")
    tpu_vm(cloud, "up", *TYPE, command_line=TRAIN)
    wait_for_status(cloud, "failed (2)")


def test_a_worker_that_was_reset_is_interrupted_and_run_goes_on(cloud):
    recorder(cloud, "marble", RUNS)
    tpu_vm(cloud, "up", *TYPE, command_line=TRAIN)
    wait_for_status(cloud, "running")
    tpu_vm(cloud, "stop")
    for worker in range(2):
        (home(cloud, worker) / "marble-run" / "ended").unlink()
    assert status_is(cloud, "interrupted")


def test_run_before_setup_is_refused(cloud):
    tpu_vm(cloud, "create", *TYPE)
    done = tpu_vm(cloud, "run", command_line=TRAIN)
    assert done.returncode != 0 and done.stdout.count(": not set up\n") == 2


@pytest.mark.parametrize(("option", "kind"), [([], "tpu-vm"), (["--queued"], "queued-resources")])
def test_delete(cloud, option, kind):
    tpu_vm(cloud, "create", *TYPE, *option)
    assert tpu_vm(cloud, "delete", *option).returncode == 0
    assert asked(cloud)[-1][2:5] == [kind, "delete", "n"] and ("--force" in asked(cloud)[-1]) == bool(option)


def test_watch_makes_preempted_machines_again_and_ends_with_the_run(cloud):
    # The first time Google takes the machines; the second time the run is done.
    recorder(cloud, "marble", f'[ -f "{cloud}/taken" ] || {{ echo PREEMPTED > "{cloud}/slices/n/state"; {RUNS}; }}')
    state = cloud / "slices" / "n" / "state"
    command(cloud, "sleep", f'! grep -qs PREEMPTED "{state}" || touch "{cloud}/taken"; exec /bin/sleep "$1"')
    done = tpu_vm(cloud, "watch", *TYPE, "--spot", "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and done.stdout.count(": done\n") == 2, done.stderr
    assert done.stderr.count("no machines: making them") == 2
    creations = [call for call in asked(cloud) if "create" in call]
    assert len(creations) == 2 and all("--spot" in call for call in creations)


def test_watch_leaves_a_request_in_its_queue(cloud):
    (cloud / "queue").write_text("WAITING_FOR_RESOURCES")
    given = "gcloud compute tpus tpu-vm create n"
    command(cloud, "sleep", f'[ ! -f "{cloud}/queue" ] || {{ rm "{cloud}/queue"; {given}; }}; exec /bin/sleep "$1"')
    done = tpu_vm(cloud, "watch", *TYPE, "--queued", "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and done.stdout.count(": done\n") == 2, done.stderr
    assert not any("delete" in call or call[2:4] == ["queued-resources", "create"] for call in asked(cloud))


def test_watch_tries_again_where_there_is_no_capacity(cloud):
    (cloud / "refuse").write_text("tpu-vm create")
    command(cloud, "sleep", f'rm -f "{cloud}/refuse"; exec /bin/sleep "$1"')
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and "that did not work; trying again in 1 s" in done.stderr


def test_watch_leaves_a_failed_run_alone(cloud):
    recorder(cloud, "marble", f'mkdir "{cloud}/first" 2>/dev/null || exit 1; {RUNS}')
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 1 and ": failed (1)" in done.stdout and "stopping the others" in done.stderr
    assert sum("create" in call for call in asked(cloud)) == 1
    assert sorted(tpu_vm(cloud, "status").stdout.split(": ")[1:])[0].startswith("failed (1)")


def test_watch_sets_up_machines_that_have_nothing_yet(cloud):
    tpu_vm(cloud, "create", *TYPE)
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and done.stdout.count(": done\n") == 2, done.stderr
    assert sum("scp" in call for call in asked(cloud)) == 1


def test_watch_sets_up_one_bare_machine_beside_one_that_runs(cloud):
    recorder(cloud, "marble", f'[ -f "{cloud}/set up" ] || {{ {RUNS}; }}')
    tpu_vm(cloud, "up", *TYPE, command_line=TRAIN)
    wait_for_status(cloud, "running")
    tpu_vm(cloud, "stop")
    shutil.rmtree(home(cloud, 1) / "marble")
    shutil.rmtree(home(cloud, 1) / "marble-run")
    (cloud / "set up").touch()
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 75 and ": stopped" in done.stdout  # by its user, whom it obeys
    (home(cloud, 0) / "marble-run" / "ended").unlink()
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and done.stdout.count(": done\n") == 2, done.stderr


def test_a_failed_installation_is_tried_again(cloud):
    python_without_pip(cloud, f'! mkdir "{cloud}/second" 2>/dev/null || exit 9')
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and done.stdout.count(": done\n") == 2, done.stderr
    assert sum("scp" in call for call in asked(cloud)) >= 2


def test_what_was_stopped_before_it_began_is_not_begun(cloud):
    tpu_vm(cloud, "create", *TYPE)
    tpu_vm(cloud, "setup")
    wait_for_status(cloud, "not started")
    assert tpu_vm(cloud, "stop").stdout.count(": stopped\n") == 2
    assert tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN).returncode == 75
    assert recorded(cloud, "marble") == []


@pytest.mark.parametrize(
    ("refused", "said"), [("tpu-vm describe", "no more capacity"), ("tpu-vm ssh", "asking again in 1 s")]
)
def test_what_can_not_be_asked_is_neither_made_nor_set_up_again(cloud, refused, said):
    tpu_vm(cloud, "up", *TYPE, command_line=TRAIN)
    wait_for_status(cloud, "done")
    (cloud / "refuse").write_text(refused)
    command(cloud, "sleep", f'rm -f "{cloud}/refuse"; exec /bin/sleep "$1"')
    done = tpu_vm(cloud, "watch", *TYPE, "--poll", "1", command_line=TRAIN)
    assert done.returncode == 0 and said in done.stderr
    assert sum("create" in call or "delete" in call for call in asked(cloud)) == 1
    assert sum("scp" in call for call in asked(cloud)) == 1
