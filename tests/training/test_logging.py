"""metrics.jsonl across restarts."""

import json

import pytest

from marble.training.logging import MetricsWriter


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_lines_past_the_restored_step_are_dropped(tmp_path):
    writer = MetricsWriter(str(tmp_path), step=0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": float(step)})
    writer.close()
    writer = MetricsWriter(str(tmp_path), step=20)
    writer.write(30, {"loss": 3.0})
    writer.close()
    assert lines(tmp_path) == [{"step": s, "loss": x} for s, x in ((10, 10.0), (20, 20.0), (30, 3.0))]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    MetricsWriter(str(tmp_path), step=20).close()
    assert lines(tmp_path) == [{"step": 10, "loss": 1.0}]


def test_what_is_no_number_is_null(tmp_path):
    """A line of a version that wrote NaN is written anew too."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    writer = MetricsWriter(str(tmp_path), step=1)
    writer.write(2, {"loss": float("nan"), "grad_norm": float("inf"), "images_per_second": 3.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert lines(tmp_path) == [
        {"step": 1, "loss": None},
        {"step": 2, "loss": None, "grad_norm": None, "images_per_second": 3.0},
    ]
    assert MetricsWriter(str(tmp_path), step=2).has(2, "loss")


@pytest.mark.parametrize("line", [b"\xff", b'{"step": "2"}', b'{"step": null}', b"[]", b"{}"])
def test_a_damaged_line_is_dropped(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10, "loss": 1.0}\n' + line + b'\n{"step": 20, "loss": 2.0}\n')
    MetricsWriter(str(tmp_path), step=20).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_scalars_reach_tensorboard(tmp_path):
    writer = MetricsWriter(str(tmp_path), step=0)
    writer.write(1, {"loss": 0.5})
    writer.close()
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in event_file.read_bytes()
