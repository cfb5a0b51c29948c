"""slurm.sh: what it submits, and a job that runs its tasks, with a fake sbatch, srun and scontrol."""

import shlex
import subprocess

import pytest
from launching import SRUN, TRAIN, calls, environment, launch, recorder, words


@pytest.fixture
def cluster(tmp_path):
    """A folder with a cluster's commands."""
    recorder(tmp_path, "sbatch", "echo Submitted batch job 77")
    recorder(tmp_path, "srun", SRUN)
    recorder(tmp_path, "scontrol")
    recorder(tmp_path, "marble")
    return tmp_path


def submit(folder, *options, command_line=TRAIN):
    done = launch(folder, "slurm.sh", "--nodes", 2, "--gpus_per_node", 8, *options, "--", *command_line)
    assert done.returncode == 0, done.stderr
    (given,) = words(folder, "sbatch")
    return given


def job(folder, *options, tasks=2, command_line=TRAIN, **more):
    """Runs what was submitted as SLURM would: by sh, with its variables."""
    *_, wrapped = submit(folder, *options, command_line=command_line)
    script = "#!/bin/sh\n" + wrapped.removeprefix("--wrap=")
    env = environment(folder, SLURM_JOB_ID="77", SLURM_NTASKS=str(tasks), **more)
    return subprocess.run(["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_a_task_a_gpu_and_time_to_save(cluster):
    given = submit(cluster, "--name", "my run", "--pass=--partition=gpu", "--pass=--comment=a b")
    for option in (
        "--job-name=my run",
        "--nodes=2",
        "--ntasks=16",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--requeue",
    ):
        assert option in given
    for option in ("--signal=TERM@60", "--open-mode=append", "--partition=gpu", "--comment=a b"):
        assert option in given
    assert given[-1].startswith("--wrap=")


def test_names_that_are_not_ascii_come_through_the_sh_of_any_locale(cluster, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    done = job(cluster, "--logs", "logs", tasks=1, command_line=["marble", "train", "--workdir", "läufe/日本\n2"])
    assert done.returncode == 0, done.stderr
    assert words(cluster, "marble") == [["train", "--workdir", "läufe/日本\n2"]]


def test_every_task_gets_the_words_as_they_are(cluster):
    done = job(cluster, "--logs", "100% my logs")
    assert done.returncode == 0, done.stderr
    seen = calls(cluster, "marble")
    assert [call["words"] for call in seen] == [TRAIN[1:]] * 2
    assert {call["env"]["SLURM_PROCID"] for call in seen} == {"0", "1"}
    (step,) = words(cluster, "srun")
    assert f"--output={cluster}/100%% my logs/task-%t.log" in step and "--gpu-bind=none" in step
    assert words(cluster, "scontrol") == []


def test_logs_are_beside_the_run(cluster):
    given = submit(cluster, command_line=["marble", "train", "--workdir", f"{cluster}/my run"])
    assert f"--output={cluster}/my run/logs/slurm.log" in given and (cluster / "my run" / "logs").is_dir()
    assert "--logs" in shlex.split(given[-1])


@pytest.mark.parametrize("task", ["exit 75", "kill -9 $$", "kill -TERM $$"])
def test_an_interrupted_job_is_queued_again(cluster, task):
    recorder(cluster, "marble", f"[ $SLURM_PROCID = 0 ] || {task}; exit 75")
    done = job(cluster)
    assert done.returncode == 0 and words(cluster, "scontrol") == [["requeue", "77"]]
    assert "task 1" in done.stderr and "queueing the job again" in done.stderr


def test_a_killed_task_is_named(cluster):
    recorder(cluster, "marble", "[ $SLURM_PROCID = 0 ] || kill -9 $$; exit 75")
    assert "task 1 was killed by SIGKILL (137); its log: " in job(cluster).stderr


def test_a_task_that_left_nothing_is_named_and_the_job_queued_again(cluster):
    recorder(cluster, "marble", "if [ $SLURM_PROCID = 1 ]; then kill -9 $PPID $$; fi; exit 75")
    done = job(cluster)
    assert "task 1 has gone; its log: " in done.stderr and words(cluster, "scontrol") == [["requeue", "77"]]


@pytest.mark.parametrize("status", [1, 2])
def test_a_fault_is_not_queued_again_though_the_others_lost_a_peer(cluster, status):
    recorder(cluster, "marble", f"[ $SLURM_PROCID = 0 ] || exit {status}; exit 75")
    done = job(cluster)
    assert done.returncode == status and words(cluster, "scontrol") == []
    assert f"task 1 ended with exit status {status}" in done.stderr and "not queued again" in done.stderr


def test_restarts_are_bounded(cluster):
    recorder(cluster, "marble", "exit 75")
    done = job(cluster, "--max_restarts", 3, SLURM_RESTART_COUNT="3")
    assert done.returncode == 75 and words(cluster, "scontrol") == []
    assert "queued again 3 times, which is --max_restarts: giving up" in done.stderr


def test_a_task_waits_for_a_command_that_saves(cluster):
    # SLURM signals the process group of a task.
    recorder(cluster, "marble", "trap 'kill $!; sleep 0.3; exit 75' TERM; sleep 60 & touch ready-$SLURM_PROCID; wait")
    recorder(
        cluster,
        "srun",
        SRUN.replace('"$@" &', 'setsid "$@" &').replace(
            "highest=0\n",
            "highest=0\nuntil [ -f ready-0 ] && [ -f ready-1 ]; do sleep 0.05; done\n"
            'for pid in "${pids[@]}"; do kill -TERM -- "-$pid"; done\n',
        ),
    )
    done = job(cluster)
    assert done.returncode == 0 and words(cluster, "scontrol") == [["requeue", "77"]]
    assert "task 0 ended with exit status 75" in done.stderr and "has gone" not in done.stderr
