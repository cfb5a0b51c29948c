"""Several real processes as one program, on one machine: what they do together is what one does alone.

One run is passed on: begun by two processes, of which one is told to stop; taken up by four, of which one is killed;
ended by two with the state sharded. It ends as the run of one process that nothing happened to.
"""

import json
import re
import signal
import time

import jax
import numpy as np
import pytest
from processes import TINY, all_finished, final_state, finished, marble, metrics, together

from marble import checkpoint
from marble.errors import EXIT_RESTART
from marble.training import best

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

NUM_STEPS, HEARTBEAT = 60, 20
OPTIONS = [
    f"--config.training.num_steps={NUM_STEPS}",
    "--config.training.log_every=5",
    "--config.training.eval_every=30",
    "--config.training.sample_every=60",
    "--config.training.checkpoint_every=10",
    "--config.evaluation.every=30",
    "--config.evaluation.metrics=('psnr',)",  # which needs no network, and no weights
    "--config.evaluation.best=psnr",
    "--config.evaluation.num=6",
    "--config.evaluation.reference_num=6",
    "--config.data.flip=True",
    "--config.optimizer.warmup_steps=10",
    f"--config.parallel.heartbeat_timeout_seconds={HEARTBEAT}",
]
RUN = ["train", *TINY, *OPTIONS]


def newest(workdir):
    return max(checkpoint.saved_steps(str(workdir)), default=0)


def wait_for_step(processes, workdir, step):
    while newest(workdir) < step:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finished(marble(*RUN, "--workdir", workdir))
    return workdir


@pytest.fixture(scope="module")
def passed_on(tmp_path_factory):
    """The workdir of the run that was passed on, and what its processes said."""
    workdir = tmp_path_factory.mktemp("passed on") / "a run"
    said = {}

    processes = together(2, *RUN, "--workdir", workdir)
    wait_for_step(processes, workdir, 10)
    processes[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    said["stopped"] = all_finished(processes, EXIT_RESTART)
    said["seconds to stop"] = time.monotonic() - began
    said["stopped at"] = newest(workdir)

    processes = together(4, *RUN, "--workdir", workdir, "--config.parallel.mapping=pmap")
    wait_for_step(processes, workdir, min(said["stopped at"] // 10 * 10 + 10, NUM_STEPS - 10))
    processes[3].send_signal(signal.SIGKILL)
    began = time.monotonic()
    said["survived"] = all_finished(processes[:3], EXIT_RESTART)
    said["seconds to miss"] = time.monotonic() - began
    finished(processes[3], -signal.SIGKILL)
    said["killed at"] = newest(workdir)

    fsdp = ["--config.parallel.sharding=fsdp", "--config.parallel.fsdp_min_size=64"]
    said["ended"] = all_finished(together(2, *RUN, "--workdir", workdir, *fsdp))
    return workdir, said


def test_sigterm_to_one_saves_the_same_step_in_all(passed_on):
    _, said = passed_on
    first, second = said["stopped"]
    line = f"saved step {said['stopped at']}; run the same command to go on"
    assert line in first and line in second
    assert "SIGTERM: saving" in second and "SIGTERM: saving" not in first
    assert 10 <= said["stopped at"] < NUM_STEPS
    assert said["seconds to stop"] < 25


def test_a_killed_process_is_missed_by_all(passed_on):
    _, said = passed_on
    assert said["stopped at"] < said["killed at"] < NUM_STEPS
    assert said["seconds to miss"] < HEARTBEAT + 10  # and what it takes two cores to end four processes
    for text in said["survived"]:
        assert re.search(r"lost (another process|process \d)|another process is lost", text)


def test_the_first_process_lists_all_and_goes_on_from_their_step(passed_on):
    _, said = passed_on
    for texts, count in ((said["stopped"], 2), (said["survived"], 4), (said["ended"], 2)):
        assert f"{count} processes, {count} devices:" in texts[0]
        assert len(re.findall(r"pid \d+ +1 x cpu, marble", texts[0])) == count
        for i, text in enumerate(texts):
            assert f"[{i}/{count}]" in text
    assert f"going on from the checkpoint of step {said['stopped at']}" in said["survived"][0]
    assert f"going on from the checkpoint of step {said['killed at']}" in said["ended"][0]
    assert "parallel.mapping: 'mesh' -> 'pmap'" in said["survived"][0]
    assert all("loss" not in text for text in said["ended"][1:])


def test_the_run_ends_as_that_of_one_process(passed_on, alone):
    workdir, _ = passed_on
    (step, state), (other_step, other) = final_state(workdir), final_state(alone)
    assert step == other_step == NUM_STEPS
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s.params)]) for s in (state, other)]
    assert np.linalg.norm(flat[0] - flat[1]) < 1e-4 * np.linalg.norm(flat[1])
    ours, theirs = metrics(workdir), metrics(alone)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        assert line.keys() == expected.keys()
        np.testing.assert_allclose(list(line.values()), list(expected.values()), rtol=1e-4)
    kept, expected = (best.recall(str(w)).values for w in (workdir, alone))
    assert kept == pytest.approx(expected, rel=1e-4) and len(kept) == 1
    one, other = (w / "samples" / f"{NUM_STEPS:07d}.png" for w in (workdir, alone))
    assert one.exists() and other.exists()


@pytest.mark.slow
def test_processes_sample_what_one_samples(alone, tmp_path):
    words = ["sample", "--workdir", alone, "--num", "10", "--seed", "3", "--batch_size", "8", "--gif"]
    finished(marble(*words, "--out", tmp_path / "one"))
    said = all_finished(together(2, *words, "--out", tmp_path / "two"))
    assert "wrote" in said[0] and "wrote" not in said[1]
    one, two = (np.load(tmp_path / name / "samples.npz")["arr_0"].astype(int) for name in ("one", "two"))
    assert one.shape == (10, 8, 8, 1) and np.abs(one - two).max() <= 1
    assert (tmp_path / "two" / "trajectory.gif").exists()


@pytest.mark.slow
def test_processes_measure_what_one_measures(alone):
    words = ["evaluate", "--workdir", alone, "--num", "22", "--batch_size", "8", "--ode_steps", "2"]
    words += ["--metrics", "bpd,psnr", "--reference_num", "22"]
    found, of_images = [], []
    for start in (lambda: [marble(*words)], lambda: together(4, *words)):
        all_finished(start())
        kept = json.loads((alone / "metrics.json").read_text())
        found.append(kept["bpd"]["test[22]"])
        of_images += kept["psnr"].values()
        (alone / "metrics.json").unlink()
    one, four = found
    assert four["num"] == 22
    assert of_images[0]["value"] == pytest.approx(of_images[1]["value"], rel=1e-4)
    for name in ("L_T", "L_0", "bound", "probability_flow"):
        np.testing.assert_allclose(four[name]["mean"], one[name]["mean"], rtol=1e-5)
        np.testing.assert_allclose(four[name]["standard_error"], one[name]["standard_error"], rtol=1e-3)


def test_processes_that_differ_are_refused(tmp_path):
    for text in all_finished(together(2, *RUN, "--workdir", tmp_path / "run", last=["--config.seed=7"]), 2):
        assert re.search(r"process 1 on \S+ has config \w+, but process 0 on \S+ \w+: start all of them", text)
    assert not (tmp_path / "run").exists()
