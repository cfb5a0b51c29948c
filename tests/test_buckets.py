"""A run whose workdir is a bucket, through the libraries that reach one, against a bucket in memory."""

import logging
import signal
import socket
import sys
import time

import aiohttp
import google.api_core.exceptions as google
import numpy as np
import pytest
import requests
from etils import epath
from fake_gcs import FakeGCS, Refusal
from fsspec.exceptions import FSTimeoutError
from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.resumable_media import InvalidResponse
from launching import HARD
from processes import TINY, assert_same_run, final_state, finished, marble, metrics

from marble import checkpoint
from marble.cli.main import main
from marble.errors import EXIT_RESTART, InputError, RunError
from marble.pipelines.pictures import replacing
from marble.storage import check_bucket, may_pass
from marble.training import best

NUM_STEPS, KEPT = 60, 2
OPTIONS = [
    f"--config.training.num_steps={NUM_STEPS}",
    "--config.training.log_every=4",
    "--config.training.eval_every=20",
    "--config.training.sample_every=20",
    "--config.training.checkpoint_every=10",
    f"--config.training.keep_checkpoints={KEPT}",
    "--config.model.dropout=0.1",
]

pytestmark = pytest.mark.end_to_end


def start(workdir, *more, **environment):
    return marble("train", *TINY, *OPTIONS, *more, "--workdir", workdir, environment=environment)


@pytest.fixture(scope="module")
def cloud():
    """The bucket "bucket", for this process and those that it starts."""
    with FakeGCS("bucket").serving() as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        yield cloud


@pytest.fixture
def refuse(cloud, monkeypatch):
    """Has the bucket refuse what a function of method and path says, with this status."""

    def refuse(status, is_refused):
        answer = Refusal(status, "not for you")
        monkeypatch.setattr(cloud, "refuse", lambda method, path: answer if is_refused(method, path) else None)

    return refuse


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The run in a folder."""
    workdir = tmp_path_factory.mktemp("local") / "run"
    finished(start(workdir))
    return workdir


@pytest.fixture(scope="module")
def stopped(cloud):
    """What a run left in the bucket that was asked to stop while it saved its third checkpoint: content by name."""
    folder = HARD.removeprefix("gs://bucket/") + "/"
    process = start(HARD, "--profile", "2:1")

    def stop(method, path):
        if "checkpoints/30/" in path and method == "POST":
            process.send_signal(signal.SIGTERM)

    cloud.refuse = stop
    assert "run the same command to go on" in finished(process, EXIT_RESTART)
    cloud.refuse = lambda method, path: None
    return {name.removeprefix(folder): cloud.objects[name].content for name in cloud.names(folder)}


@pytest.fixture
def workdir(cloud, stopped):
    """A copy of the stopped run."""
    folder = f"run {time.monotonic_ns()}"
    for name, content in stopped.items():
        cloud.put(f"{folder}/{name}", content)
    return f"gs://bucket/{folder}"


@pytest.mark.slow
def test_a_stopped_run_in_a_bucket_ends_as_one_in_a_folder(cloud, local, stopped, workdir):
    assert any(name.startswith("profile/") and name.endswith(".xplane.pb") for name in stopped)
    step = checkpoint.saved_steps(workdir)[0]
    assert 30 <= step < NUM_STEPS
    said = finished(start(workdir))
    assert f"going on from the checkpoint of step {step}" in said and "gcsfs" not in said
    assert_same_run(epath.Path(workdir), local)
    assert len(metrics(local)) == NUM_STEPS // 4 + NUM_STEPS // 20
    left = [name.removeprefix(workdir.removeprefix("gs://bucket/") + "/") for name in cloud.names()]
    assert not [name for name in left if name.endswith(".new")]
    assert {name.split("/")[1] for name in left if name.startswith("checkpoints/")} == {"50", "60"}  # KEPT
    assert "config.json" in left
    events = [name for name in left if name.startswith("tensorboard/events")]
    assert len(events) == 2 and all((epath.Path(workdir) / name).stat().length for name in events)
    for name in ("samples/0000020.png", "samples/0000040.png", "samples/0000060.png"):
        assert (epath.Path(workdir) / name).read_bytes() == (local / name).read_bytes()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_taken(cloud, local, workdir, tmp_path):
    step, before = checkpoint.saved_steps(workdir)
    folder = workdir.removeprefix("gs://bucket/")
    names = cloud.names(f"{folder}/checkpoints/{step}/")
    for name in names:
        if "ocdbt.process_0/d/" in name:
            cloud.put(name, cloud.objects[name].content[:100])
    sampled = finished(marble("sample", "--workdir", workdir, "--num", 2, "--out", tmp_path))
    assert f"checkpoints/{step} is damaged" in sampled and (tmp_path / "samples.png").exists()
    resumed = finished(start(workdir))
    assert f"checkpoints/{step} is damaged" in resumed and f"from the checkpoint of step {before}" in resumed
    assert cloud.names(f"{folder}/checkpoints-damaged/") == [
        name.replace(f"checkpoints/{step}/", f"checkpoints-damaged/{step}.0/") for name in names
    ]
    assert_same_run(epath.Path(workdir), local)


def test_a_step_that_is_deleted_while_it_is_read_is_not_called_damaged(cloud, workdir, monkeypatch, caplog):
    step = checkpoint.saved_steps(workdir)[0]
    folder = workdir.removeprefix("gs://bucket/")
    names = cloud.names(f"{folder}/checkpoints/{step}/")

    def replace(method, path):
        """The next step is saved, and this one deleted but for one file."""
        if f"checkpoints/{step}/state" in path and "ocdbt" in path and names[0] in cloud.objects:
            for name in names:
                cloud.put(name.replace(f"checkpoints/{step}/", f"checkpoints/{step + 1}/"), cloud.objects[name].content)
            for name in names:
                if "checksums/metadata" not in name:
                    cloud.delete(name, {})

    monkeypatch.setattr(cloud, "refuse", replace)
    found, _ = final_state(epath.Path(workdir))  # which asserts that none is damaged
    assert found == step + 1 and "damaged" not in caplog.text
    assert names[0] not in cloud.objects


@pytest.mark.slow
def test_a_save_that_was_cut_off_is_no_checkpoint(cloud, local, workdir):
    step, before = checkpoint.saved_steps(workdir)
    folder = workdir.removeprefix("gs://bucket/")
    for name in ("commit_success.txt", "checksums/metadata", "checksums/commit_success.txt"):
        cloud.delete(f"{folder}/checkpoints/{step}/{name}", {})
    assert checkpoint.saved_steps(workdir) == [before]
    said = finished(start(workdir))
    assert f"from the checkpoint of step {before}" in said and "damaged" not in said and "can't be verified" not in said
    assert_same_run(epath.Path(workdir), local)


def test_a_checkpoint_set_aside_by_halves_is_not_taken_unverified(cloud, workdir, refuse):
    step, _ = checkpoint.saved_steps(workdir)
    refuse(403, lambda method, path: f"checkpoints/{step}/checksums/" in path and method == "POST")
    with pytest.raises(OSError, match="not for you"):
        checkpoint.set_aside(workdir, [step])
    assert cloud.names(f"{workdir.removeprefix('gs://bucket/')}/checkpoints/{step}/checksums/")
    assert checkpoint.saved_steps(workdir)[0] != step


def test_checkpoints_of_one_step_are_set_aside_beside_each_other(cloud, stopped, workdir):
    step, _ = checkpoint.saved_steps(workdir)
    folder, part = workdir.removeprefix("gs://bucket/"), f"checkpoints/{step}/"
    for _ in range(2):
        for name, content in stopped.items():
            if name.startswith(part):
                cloud.put(f"{folder}/{name}", content)
        checkpoint.set_aside(workdir, [step])
        assert step not in checkpoint.saved_steps(workdir)
    aside = {name.split("/")[2] for name in cloud.names(f"{folder}/checkpoints-damaged/")}
    assert aside == {f"{step}.0", f"{step}.1"}


def test_the_best_checkpoints_in_a_bucket_are_copies_that_are_whole(cloud, workdir, refuse):
    newest, before = checkpoint.saved_steps(workdir)
    judge, target = best.Judge("FD", False, {}), {"step": np.int32(0)}
    assert best.keep(workdir, before, 5.0, judge, num=1)
    refuse(403, lambda method, path: f"best/{newest}/commit" in path and method == "POST")
    with pytest.raises(RunError, match=f"step {newest} could not be kept"):
        best.keep(workdir, newest, 4.0, judge, num=1)
    assert checkpoint.saved_steps(workdir, best.FOLDER) == [before]  # and not the half of the other
    assert best.restore_best(workdir, target)[0] == before
    refuse(403, lambda method, path: False)
    assert best.keep(workdir, newest, 4.0, judge, num=1)
    step, state = best.restore_best(workdir, target)
    assert step == state["step"] == newest
    folder = workdir.removeprefix("gs://bucket/")
    copied, original = (cloud.names(f"{folder}/{part}/{newest}/") for part in (best.FOLDER, checkpoint.FOLDER))
    assert copied == [name.replace(f"{folder}/checkpoints/", f"{folder}/best/") for name in original]
    assert cloud.names(f"{folder}/best/") == [
        f"{folder}/best/{name}"
        for name in sorted([name.removeprefix(f"{folder}/best/") for name in copied] + ["best.json"])
    ]
    assert best.keep(workdir, before, 9.0, judge._replace(name="KID"), num=1)
    assert checkpoint.saved_steps(workdir, "best-0") == [newest] and best.restore_best(workdir, target)[0] == before


@pytest.mark.parametrize("status", [401, 403])
def test_a_checkpoint_that_may_not_be_read_is_not_damaged(workdir, refuse, status):
    refuse(status, lambda method, path: "ocdbt" in path)
    with pytest.raises(RunError, match="can't be read now"):
        final_state(epath.Path(workdir))


@pytest.mark.slow
def test_programs_are_compiled_once_for_a_bucket(cloud, workdir, tmp_path):
    cache = dict(JAX_COMPILATION_CACHE_DIR="gs://bucket/xla cache", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    words = ("sample", "--workdir", workdir, "--num", 2, "--out", tmp_path)
    finished(marble(*words, environment=cache))
    kept = {name: cloud.objects[name].generation for name in cloud.names("xla cache/")}
    assert len(kept) > 2
    finished(marble(*words, environment=cache))
    assert kept == {name: cloud.objects[name].generation for name in cloud.names("xla cache/")}


def one_line(capsys):
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("marble: ")]) == 1 and "Traceback" not in "".join(said)
    return said[-1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_refuses_is_told_in_one_line(workdir, refuse, capsys, status):
    refuse(status, lambda method, path: True)
    assert main(["sample", "--workdir", workdir]) == 1
    assert "not for you" in one_line(capsys)


@pytest.mark.parametrize(
    ("code", "status"), [(401, 1), (403, 1), (404, 1), (408, EXIT_RESTART), (429, EXIT_RESTART), (503, EXIT_RESTART)]
)
def test_a_run_whose_bucket_does_not_answer_is_to_be_started_again(monkeypatch, capsys, code, status):
    def fails(argv):
        raise HttpError({"code": code, "message": "not now"})

    monkeypatch.setattr("marble.cli.train.main", fails)
    assert main(["train"]) == status
    assert "not now" in one_line(capsys)


def of_response(kind, code):
    """An error that has its status in a response."""
    response = requests.Response()
    response.status_code = code
    return kind("it says why", response=response) if kind is requests.HTTPError else kind(response, "it says why")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (google.ServiceUnavailable("not now"), True),
        (google.TooManyRequests("not now"), True),
        (google.Forbidden("never"), False),
        (google.NotFound("never"), False),
        (DefaultCredentialsError("never"), False),
        (RefreshError("revoked"), False),
        (RefreshError("not now", retryable=True), True),
        (TransportError("not now"), True),
        (NonRetryableError("never"), False),
        (FSTimeoutError(), True),
        (ConnectionResetError("not now"), True),
        (socket.gaierror("not now"), True),
        (of_response(requests.HTTPError, 403), False),
        (of_response(requests.HTTPError, 502), True),
        (of_response(InvalidResponse, 403), False),
        (of_response(InvalidResponse, 503), True),
        (requests.ConnectionError("not now"), True),
        (aiohttp.ServerDisconnectedError("not now"), True),
        (ValueError("UNAVAILABLE: tensorstore"), True),
        (ValueError("PERMISSION_DENIED: tensorstore"), False),
        (RuntimeError("UNAVAILABLE: a TPU that another program has"), False),
        (OSError("a full disk"), False),
    ],
)
def test_which_errors_of_a_bucket_may_pass(error, passes):
    assert may_pass(error) == passes


def test_a_bucket_that_does_not_answer_is_not_taken_for_a_wrong_name(cloud, monkeypatch):
    def fails(*_, **__):
        raise google.ServiceUnavailable("not now")

    monkeypatch.setattr("google.cloud.storage.Client.get_bucket", fails)
    with pytest.raises(google.ServiceUnavailable):
        check_bucket("gs://bucket/run")


def test_a_bucket_must_be_there_and_tell_what_it_is(cloud, refuse):
    check_bucket("gs://bucket/run")
    with pytest.raises(InputError, match="gs://none/run can't be used.*404"):
        check_bucket("gs://none/run")
    refuse(403, lambda method, path: path.partition("?")[0].endswith("/b/bucket"))
    with pytest.raises(InputError, match="legacyBucketReader"):
        check_bucket("gs://bucket/run")


@pytest.mark.parametrize("words", ["train --config digits --workdir", "sample --workdir", "sample --workdir x --guide"])
def test_without_gcsfs_the_extra_is_named(monkeypatch, capsys, words):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main([*words.split(), "gs://bucket/run"]) == 2
    assert "pip install 'marble-diffusion[gcs]'" in one_line(capsys)


def test_without_gcsfs_no_programs_are_kept_in_a_bucket(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla_cache")
    assert main(["sample", "--workdir", "x"]) == 2
    assert "JAX_COMPILATION_CACHE_DIR gs://bucket/xla_cache" in one_line(capsys)


@pytest.mark.parametrize(
    "words", [["--workdir", "s3://bucket/run"], ["--workdir", "gs://"], ["--workdir", "gs://bucket/run[1]"]]
)
def test_a_name_that_would_not_work_is_refused(capsys, words):
    assert main(["sample", *words]) == 2
    assert words[1] in one_line(capsys)


def test_images_are_not_written_to_a_folder_that_is_called_as_a_bucket(capsys):
    assert main(["sample", "--workdir", "x", "--out", "gs://bucket/out"]) == 2
    assert "--out gs://bucket/out" in one_line(capsys)


def test_what_fails_in_the_middle_leaves_nothing_in_the_bucket(cloud):
    path = epath.Path("gs://bucket/half/picture.png")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not path.exists()
    with replacing(path) as file:
        np.savez(file, arr_0=np.arange(3))
    assert cloud.names("half/") == ["half/picture.png"]
