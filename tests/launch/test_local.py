"""local.sh: several processes that start, end and start again together."""

import os
import pty
import signal
import subprocess
import time

import pytest
from launching import ROOT, calls, command, environment, launch, recorder, words

SLEEPS = "trap 'echo asked >> asked; kill $!; exit 75' TERM INT; sleep 60 & touch ready-$JAX_PROCESS_ID; wait"


def local(folder, *options, workdir=None, **environment):
    command_line = ["marble", "train", "--workdir", workdir or folder / "it's my run"]
    return launch(folder, "local.sh", "--pause", "0", "--processes", 2, *options, "--", *command_line, **environment)


def marble(folder, *, first: str, then: str = "exit 0"):
    """A marble whose first start in every process does ``first``, and the others ``then``."""
    recorder(folder, "marble", f"[ -f i-$JAX_PROCESS_ID ] || {{ touch i-$JAX_PROCESS_ID; {first}; }}; {then}")


def wait_for(*paths):
    while not all(path.exists() for path in paths):
        time.sleep(0.02)


def test_each_process_is_told_of_the_others_and_has_a_log(tmp_path):
    recorder(tmp_path, "marble", 'echo "this is $JAX_PROCESS_ID"')
    workdir = tmp_path / "it's my run"
    done = local(tmp_path, "--port", 1234, "--devices_per_process", 3)
    assert (done.returncode, done.stderr) == (0, "")
    seen = sorted(calls(tmp_path, "marble"), key=lambda call: call["env"]["JAX_PROCESS_ID"])
    assert [call["words"] for call in seen] == [["train", "--workdir", str(workdir)]] * 2
    shared = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234", "JAX_NUM_PROCESSES": "2"}
    shared |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "3"}
    assert [call["env"] for call in seen] == [{**shared, "JAX_PROCESS_ID": str(i)} for i in range(2)]
    assert [(workdir / "logs" / f"process-{i}.log").read_text() for i in range(2)] == [
        "this is 0\n",
        "this is 1\n",
    ]


def test_each_process_has_its_share_of_the_gpus(tmp_path):
    recorder(tmp_path, "marble")
    assert local(tmp_path, "--gpus_per_process", 2).returncode == 0
    seen = {call["env"]["JAX_PROCESS_ID"]: call["env"]["CUDA_VISIBLE_DEVICES"] for call in calls(tmp_path, "marble")}
    assert seen == {"0": "0,1", "1": "2,3"}
    (tmp_path / "calls").unlink()
    assert local(tmp_path, "--gpus_per_process", 1, CUDA_VISIBLE_DEVICES="4,GPU-5").returncode == 0
    assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in calls(tmp_path, "marble")} == {"4", "GPU-5"}
    few = local(tmp_path, "--gpus_per_process", 2, CUDA_VISIBLE_DEVICES="4,5")
    assert few.returncode == 2 and "CUDA_VISIBLE_DEVICES=4,5 has fewer GPUs than 4" in few.stderr
    both = local(tmp_path, "--gpus_per_process", 2, "--devices_per_process", 1)
    assert both.returncode == 2 and "--gpus_per_process for GPUs: give one" in both.stderr


@pytest.mark.parametrize(("option", "folder"), [([], "logs/run"), (["--logs", "my logs"], "my logs")])
def test_logs_of_a_run_in_a_bucket_are_here(tmp_path, option, folder):
    recorder(tmp_path, "marble")
    assert local(tmp_path, *option, workdir="gs://bucket/run").returncode == 0
    assert (tmp_path / folder / "process-1.log").exists()


def test_a_killed_process_is_named_and_all_are_started_again(tmp_path):
    marble(tmp_path, first="if [ $JAX_PROCESS_ID = 1 ]; then kill -9 $$; else sleep 0.5; exit 75; fi")
    done = local(tmp_path)
    assert done.returncode == 0 and len(words(tmp_path, "marble")) == 4
    killed, saved, again = done.stderr.splitlines()
    assert "process 1 was killed by SIGKILL (137); its log: " in killed
    assert "process 0 ended with exit status 75" in saved
    assert "starting all 2 again (1 of at most 100 times)" in again


def test_one_that_waits_for_a_lost_peer_for_ever_is_killed(tmp_path):
    marble(tmp_path, first="if [ $JAX_PROCESS_ID = 1 ]; then exit 75; else exec sleep 60; fi")
    done = local(tmp_path, "--grace", 1)
    assert done.returncode == 0 and len(words(tmp_path, "marble")) == 4
    assert "1 of 2 still run after 1 seconds: killing them" in done.stderr
    assert "process 0 was killed by SIGKILL (137)" in done.stderr


@pytest.mark.parametrize("status", [1, 2])
def test_a_fault_stops_the_others_and_is_the_exit_status(tmp_path, status):
    recorder(tmp_path, "marble", f"if [ $JAX_PROCESS_ID = 1 ]; then exit {status}; fi; {SLEEPS}")
    done = local(tmp_path)
    assert done.returncode == status and len(words(tmp_path, "marble")) == 2
    assert f"process 1 ended with exit status {status}; its log: " in done.stderr
    assert done.stderr.endswith(f"not started again: exit status {status} is no interruption\n")
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_restarts_are_bounded(tmp_path):
    recorder(tmp_path, "marble", "exit 75")
    done = local(tmp_path, "--max_restarts", 1)
    assert done.returncode == 75 and len(words(tmp_path, "marble")) == 4
    assert "started again 1 times, which is --max_restarts: giving up" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_all_once_and_nothing_is_started_again(tmp_path, number):
    recorder(tmp_path, "marble", SLEEPS)
    process = subprocess.Popen(
        ["bash", ROOT / "launch/local.sh", "--processes", "2", "--", "marble", "train"],
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    process.send_signal(number)
    assert process.wait(timeout=10) == 75
    assert (tmp_path / "asked").read_text() == "asked\n" * 2 and len(words(tmp_path, "marble")) == 2


def test_ctrl_c_in_a_terminal_reaches_all_once(tmp_path):
    command(tmp_path, "marble", SLEEPS)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        script = str(ROOT / "launch/local.sh")
        os.execvpe("bash", ["bash", script, "--processes", "2", "--", "marble", "train"], environment(tmp_path))
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    os.close(terminal)
    assert (tmp_path / "asked").read_text() == "asked\n" * 2
