"""marble convert: its words and flags, what it says, and its exit status."""

import numpy as np
import published
import pytest

import marble
from marble.cli.convert import placed
from marble.cli.main import main
from marble.errors import InputError


def test_two_words_and_flags(tmp_path, capsys):
    source = published.pixels(tmp_path / "in")
    run, theirs, half = (tmp_path / name for name in ("run", "theirs", "half"))
    assert main(["convert", str(source), str(run)]) == 0
    said = capsys.readouterr().err
    assert f"wrote {run}: a workdir of marble, with 45,259 parameters in its checkpoint" in said
    assert "checkpoint" in said and "B/s" in said
    assert main(["convert", f"--in={run}", "--out", str(theirs), "--to", "diffusers"]) == 0
    assert main(["convert", str(theirs), str(half), "--to=diffusers", "--dtype=bfloat16"]) == 0
    assert "unet" in capsys.readouterr().err
    sizes = [(path / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size for path in (theirs, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert main(["sample", "--workdir", str(run), "--num", "2", "--steps", "3", "--out", str(tmp_path / "drawn")]) == 0
    drawn = np.load(tmp_path / "drawn" / "samples.npz")["arr_0"]
    np.testing.assert_array_equal(drawn, marble.load(str(source)).sample(2, steps=3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--in is missing"),
        (["one"], "--out is missing"),
        (["one", "two", "three"], "takes IN and OUT, but was given 'one two three'"),
        (["one", "two", "--to", "jpeg"], "jpeg"),
        (["one", "two", "--dtype", "int8"], "int8"),
        (["one", "two", "--steps", "1"], "steps"),
        (["nowhere", "two"], "--in nowhere is not there"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("marble: ") and message in said
    assert not list(tmp_path.iterdir())


def test_words_come_first():
    assert placed(["a", "b", "--to", "marble"]) == ["--in=a", "--out=b", "--to", "marble"]
    assert placed(["--in", "a"]) == ["--in", "a"]
    with pytest.raises(InputError):
        placed(["a", "b", "c"])
