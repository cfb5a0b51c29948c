"""marble demo: what it refuses before it serves, and that it ends when it is told to."""

import importlib.util
import re
import signal
import socket

import pytest
import small_pipelines
from processes import marble

from marble.cli.main import main


def refusal(capsys, *words):
    assert main(["demo", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else found(name, *rest)
    )
    assert "the page needs Gradio: pip install 'marble-diffusion[demo]'" in refusal(capsys, "--workdir", "runs/none")


def test_what_cannot_be_served_is_refused_in_one_line(capsys, tmp_path, free_port):
    pytest.importorskip("gradio", reason="the page needs the extra [demo]")
    words = ("--workdir", str(tmp_path), "--port", str(free_port))
    assert "--workdir is missing" in refusal(capsys)
    assert "max_images=0 must be above 0" in refusal(capsys, *words, "--max_images", "0")
    assert "in the range [1, 65535]" in refusal(capsys, "--workdir", str(tmp_path), "--port", "70000")
    assert "host 203.0.113.1" in refusal(capsys, *words, "--host", "203.0.113.1")
    assert str(tmp_path) in refusal(capsys, *words)  # no run is there


@pytest.mark.end_to_end
def test_it_serves_until_it_is_told_to_end(tmp_path, free_port):
    httpx = pytest.importorskip("httpx", reason="the page needs the extra [demo]")
    pytest.importorskip("gradio", reason="the page needs the extra [demo]")
    folder = small_pipelines.pixels(tmp_path / "pixels")
    with marble("demo", "--workdir", folder, "--port", free_port) as process:
        try:
            line = next(line for line in process.stderr if "the page is at" in line)
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
            assert "pixels" in httpx.get(url).text
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
