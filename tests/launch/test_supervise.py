"""supervise.sh: what is restarted, what is not, and what SIGTERM does."""

import signal
import subprocess
import time

import pytest
from launching import HARD, ROOT, TRAIN, calls, environment, launch, recorder, words


def supervise(folder, *options):
    return launch(folder, "supervise.sh", "--pause", "0", "--state", folder / "my state", *options, "--", *TRAIN)


def marble_ends_with(folder, *statuses):
    """A marble that ends with these statuses, one after the other; a negative one is a signal."""
    (folder / "statuses").write_text("\n".join(map(str, statuses)) + "\n")
    recorder(
        folder,
        "marble",
        f"""
        status=$(head -n 1 "{folder}/statuses")
        sed -i 1d "{folder}/statuses"
        if ((status < 0)); then kill "$status" $$; sleep 10; fi
        exit "$status"
        """,
    )


@pytest.mark.parametrize(
    ("statuses", "status", "said"),
    [
        ([0], 0, "exit status 0"),
        ([75, 75, 0], 0, "starting it again (2 of at most 100 times)"),
        ([-9, 0], 0, "was killed by SIGKILL (137)"),
        ([-15, -6, 0], 0, "was killed by SIGABRT (134)"),
        ([75, 1], 1, "ended with exit status 1"),
        ([2], 2, "ended with exit status 2"),
        ([3], 3, "ended with exit status 3"),
        ([255], 255, "ended with exit status 255"),
    ],
)
def test_only_an_interrupted_command_is_started_again(tmp_path, statuses, status, said):
    marble_ends_with(tmp_path, *statuses)
    done = supervise(tmp_path)
    assert done.returncode == status and said in done.stderr
    assert len(done.stderr.splitlines()) == 2 * len(statuses) - 1, "nothing of bash's own"
    assert words(tmp_path, "marble") == [TRAIN[1:]] * len(statuses)
    assert (tmp_path / "my state" / "ended").read_text() == f"{status}\n"


@pytest.mark.parametrize("bound", ["2", "02"])
def test_restarts_are_bounded(tmp_path, bound):
    marble_ends_with(tmp_path, 75, 75, 75, 75)
    done = supervise(tmp_path, f"--max_restarts={bound}")
    assert done.returncode == 75 and "started again 2 times, which is --max_restarts: giving up" in done.stderr
    assert len(words(tmp_path, "marble")) == 3


def test_a_run_in_a_bucket_keeps_its_compiled_programs_there(tmp_path):
    recorder(tmp_path, "marble")
    supervise(tmp_path)
    launch(tmp_path, "supervise.sh", "--", "marble", "train", f"--workdir={tmp_path}/a b")
    kept, plain = (call["env"].get("JAX_COMPILATION_CACHE_DIR") for call in calls(tmp_path, "marble"))
    assert (kept, plain) == (f"{HARD}/xla_cache", None)


@pytest.mark.parametrize(("status", "left"), [(75, "interrupted"), (0, "0"), (1, "1")])
def test_sigterm_reaches_the_command_and_nothing_is_started_again(tmp_path, status, left):
    recorder(tmp_path, "marble", f"trap 'kill $!; sleep 0.3; exit {status}' TERM; sleep 60 & touch ready; wait")
    process = subprocess.Popen(
        ["bash", ROOT / "launch/supervise.sh", "--state", tmp_path, "--", *TRAIN],
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    assert (tmp_path / "pid").read_text() == f"{process.pid}\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == status
    assert len(words(tmp_path, "marble")) == 1 and (tmp_path / "ended").read_text() == f"{left}\n"


def test_sigterm_in_the_pause_ends_it(tmp_path):
    recorder(tmp_path, "marble", "exit 75")
    process = subprocess.Popen(
        ["bash", ROOT / "launch/supervise.sh", "--pause", "60", "--", *TRAIN],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "exit status 75" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 75 and len(words(tmp_path, "marble")) == 1


def test_a_command_that_does_not_hear_sigterm_is_killed(tmp_path):
    recorder(tmp_path, "marble", "trap '' TERM; touch ready; exec sleep 60")
    process = subprocess.Popen(
        ["bash", ROOT / "launch/supervise.sh", "--grace", "1", "--", *TRAIN], cwd=tmp_path, env=environment(tmp_path)
    )
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 137 and len(words(tmp_path, "marble")) == 1
