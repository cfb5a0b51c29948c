"""tpu_mig.sh against a fake gcloud; its start-up script is run as the VMs would run it."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from launching import HARD, ROOT, TRAIN, calls, command, environment, launch, python_without_pip, recorder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the workers' side is for Linux")
SLICE = ["--name", "n", "--zone", "us-east5-a", "--project", "p"]
TYPE = ["--machine_type", "ct6e-standard-4t", "--topology", "4x4"]


@pytest.fixture
def cloud(tmp_path):
    """A folder with a gcloud, a sudo, and a Python that installs nothing."""
    command(tmp_path, "gcloud", f"exec '{sys.executable}' -S -E '{ROOT}/tests/fake_gcloud.py' \"$@\"")
    command(tmp_path, "sudo", 'exec bash -c "${4//\\/opt\\/marble/$HOME/opt/marble}"')
    (tmp_path / "workers").write_text("4")
    python_without_pip(tmp_path)
    recorder(tmp_path, "marble")
    yield tmp_path
    mig(tmp_path, "stop")


def mig(folder, action, *options, command_line=()):
    end = ["--", *command_line] if command_line else []
    cloud = {"FAKE_CLOUD": str(folder), "VIRTUAL_ENV": str(folder), "CALLS": str(folder / "recorded")}
    return launch(folder, "tpu_mig.sh", action, *SLICE, *options, *end, **cloud)


def asked(folder) -> list[list[str]]:
    """The words that gcloud got, one call after the other, without those that are always the same."""
    given = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return [[word for word in call if word not in ("--quiet", "--project=p", "--zone=us-east5-a")] for call in given]


def boot(folder, home):
    """Runs the start-up script with the VM's folders below ``home``; a part of the machine's own run is left out."""
    script = (
        (folder / "startup.sh").read_text().replace("/opt/marble", f"{home}/opt/marble").replace("/root", str(home))
    )
    env = environment(folder, FAKE_CLOUD=str(folder), VIRTUAL_ENV=str(folder), CALLS=str(folder / "recorded"))
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def wait_for_status(folder, said):
    for _ in range(100):
        shown = mig(folder, "status").stdout
        if shown.count(f": {said}\n") == 4:
            return
    raise AssertionError(f"{shown} is not {said}")


def test_create_makes_policy_template_and_group(cloud):
    done = mig(cloud, "create", *TYPE, "--spot", "--pass=--network=a b", command_line=TRAIN)
    assert done.returncode == 0, done.stderr
    copied, policy, template, group = asked(cloud)
    assert copied[:2] == ["storage", "cp"] and copied[3] == f"{HARD}/launch/n.tar.gz"
    assert policy == [
        *["compute", "resource-policies", "create", "workload-policy", "n"],
        *["--region=us-east5", "--type=HIGH_THROUGHPUT", "--accelerator-topology=4x4"],
    ]
    assert template[:4] == ["compute", "instance-templates", "create", "n"]
    assert {"--machine-type=ct6e-standard-4t", "--maintenance-policy=TERMINATE", "--network=a b"} <= set(template)
    assert {"--provisioning-model=SPOT", "--instance-termination-action=STOP"} <= set(template)
    assert group == [
        *["compute", "instance-groups", "managed", "create", "n", "--template=n", "--size=4"],
        *["--target-size-policy-mode=bulk", "--default-action-on-vm-failure=do-nothing"],
        "--workload-policy=projects/p/regions/us-east5/resourcePolicies/n",
    ]


def test_one_host_needs_no_policy(cloud):
    assert mig(cloud, "create", *TYPE, "--topology", "2x2", command_line=TRAIN).returncode == 0
    assert not any("workload-policy" in word for call in asked(cloud) for word in call)
    assert "--size=1" in asked(cloud)[-1] and "--provisioning-model=SPOT" not in asked(cloud)[-2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "3x3"], "--topology 3x3 is not made of machines of 4 chips (ct6e-standard-4t)"),
        (["--topology", "big"], "--topology 'big' is not of the form 4x4"),
        (["--machine_type", "n2"], "--machine_type 'n2' does not end with its chips, as -4t"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(cloud, options, message):
    done = mig(cloud, "create", *TYPE, *options, command_line=TRAIN)
    assert done.returncode == 2 and message in done.stderr and not (cloud / "calls").exists()


def test_every_vm_installs_and_runs_at_boot_and_again_after_a_restart(cloud):
    recorder(cloud, "marble", "exit 75")
    mig(cloud, "create", *TYPE, "--max_restarts", 0, command_line=TRAIN)
    homes = sorted((cloud / "slices" / "n").iterdir())[1:]
    assert [home.name for home in homes] == [f"worker-{i}" for i in range(4)]
    for home in homes:
        boot(cloud, home)
    wait_for_status(cloud, "gave up")
    boot(cloud, homes[0])
    wait_for_status(cloud, "gave up")
    (cloud / "calls").unlink()
    (cloud / "recorded").rename(cloud / "calls")
    assert [call["words"] for call in calls(cloud, "marble")] == [TRAIN[1:]] * 5
    installed = [call["words"][-1] for call in calls(cloud, "python") if "install" in call["words"]]
    assert installed and all(extras.endswith("tpu,gcs]") for extras in installed)


@contextmanager
def booting(cloud):
    """A block in which the machines of a new slice boot, and take a while to install."""
    python_without_pip(cloud, f'touch "{cloud}/installs"; sleep 2')
    mig(cloud, "create", *TYPE, command_line=TRAIN)
    with ThreadPoolExecutor() as pool:
        booted = pool.map(lambda home: boot(cloud, home), sorted((cloud / "slices" / "n").glob("worker-*")))
        yield
        list(booted)


def test_watch_waits_for_what_is_being_installed(cloud):
    with booting(cloud):
        watched = mig(cloud, "watch", *TYPE, "--poll", 1, command_line=TRAIN)
    assert watched.returncode == 0 and watched.stdout.count(": done\n") == 4, watched.stderr
    assert "not set up" not in watched.stderr


def test_what_is_stopped_while_it_is_installed_does_not_start(cloud):
    with booting(cloud):
        while not (cloud / "installs").exists():
            time.sleep(0.05)
        stopped = mig(cloud, "stop")
    assert ": stopped\n" in stopped.stdout
    stopped_hosts = mig(cloud, "status").stdout.count(": stopped\n")
    assert stopped_hosts == stopped.stdout.count(": stopped\n")


def test_stop_and_logs_reach_every_vm(cloud):
    recorder(cloud, "marble", "echo it trains; trap 'kill $!; exit 75' TERM; sleep 60 & wait")
    mig(cloud, "create", *TYPE, command_line=TRAIN)
    for home in sorted((cloud / "slices" / "n").glob("worker-*")):
        boot(cloud, home)
    wait_for_status(cloud, "running")
    assert "it trains" in mig(cloud, "logs", "--worker", 3).stdout
    assert mig(cloud, "stop").stdout.count(": stopped\n") == 4
    boot(cloud, cloud / "slices" / "n" / "worker-0")
    wait_for_status(cloud, "stopped")
    assert mig(cloud, "run", command_line=TRAIN).returncode == 0
    wait_for_status(cloud, "running")


def test_delete_takes_group_template_and_policy(cloud):
    mig(cloud, "create", *TYPE, command_line=TRAIN)
    (cloud / "calls").unlink()
    assert mig(cloud, "delete").returncode == 0
    assert [call[:5] for call in asked(cloud)] == [
        ["compute", "instance-groups", "managed", "delete", "n"],
        ["compute", "instance-templates", "delete", "n"],
        ["compute", "resource-policies", "delete", "n", "--region=us-east5"],
    ]
