"""marble compress and marble decompress, on a run of two steps."""

import numpy as np
import pytest

from marble import builders, run
from marble.cli.main import main
from marble.config import load_config
from marble.data.sources import open_source


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a workdir of digits:smoke, images, and their compressed file."""
    place = tmp_path_factory.mktemp("compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marble.cli.compress.NUM_TRAIN", 64)
        yield trained(place)


def trained(place):
    """The folder, filled."""
    run.run(builders.complete(load_config("digits:smoke")), str(place / "run"))
    assert compress(place, "split:test", "test.mrbl") == 0
    return place


def compress(place, images, out, *more):
    return main(["compress", "--workdir", f"{place}/run", "--input", images, "--out", f"{place}/{out}", *more])


def decompress(place, file, out, *more):
    return main(
        ["decompress", "--workdir", f"{place}/run", "--input", f"{place}/{file}", "--out", f"{place}/{out}", *more]
    )


def test_the_held_out_digits_come_back(place):
    assert decompress(place, "test.mrbl", "test.npz") == 0
    images = np.load(place / "test.npz")["arr_0"]
    truth = np.stack([open_source("digits").read("test")[i]["image"] for i in range(360)])
    np.testing.assert_array_equal(images, np.round(truth * (255 / 16)).astype(np.uint8))


def test_files_come_back_as_files(place):
    images = np.round(np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)) * (255 / 16)).astype(np.uint8)
    np.savez(place / "few.npz", arr_0=images)
    assert compress(place, f"{place}/few.npz", "few.mrbl", "--num_steps", "4", "--seed", "3") == 0
    assert decompress(place, "few.mrbl", "pictures") == 0
    assert len(list((place / "pictures").glob("*.png"))) == 5
    assert compress(place, f"{place}/pictures", "again.mrbl", "--num_steps", "4", "--seed", "3") == 0
    assert (place / "again.mrbl").read_bytes() == (place / "few.mrbl").read_bytes()


def test_a_cut_file_gives_blurred_images_when_asked(place, capsys):
    (place / "cut.mrbl").write_bytes((place / "test.mrbl").read_bytes()[:-100])
    assert decompress(place, "cut.mrbl", "cut.npz") == 2
    assert "it was cut; --prefix" in capsys.readouterr().err
    assert not (place / "cut.npz").exists()
    assert decompress(place, "cut.mrbl", "blurred", "--prefix", "1.0") == 0
    assert len(list((place / "blurred").glob("*.png"))) == 360


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress", "--workdir", "RUN", "--input", "split:test"], "--out is missing"),
        (["compress", "--input", "split:test", "--out", "OUT"], "--workdir is missing"),
        (["compress", "--workdir", "RUN", "--input", "split:tost", "--out", "OUT"], "no split 'tost'"),
        (["compress", "--workdir", "RUN", "--input", "/nowhere", "--out", "OUT"], "no file or folder /nowhere"),
        (["compress", "--workdir", "RUN", "--input", "split:test", "--out", "OUT", "--num_steps", "3"], "num_steps=3"),
        (["compress", "--workdir", "RUN", "--input", "split:test", "--out", "OUT", "--seed", "-1"], "seed=-1"),
        (["decompress", "--workdir", "RUN", "--out", "OUT"], "--input is missing"),
        (["decompress", "--workdir", "RUN", "--input", "/nowhere", "--out", "OUT"], "no file /nowhere"),
        (["decompress", "--workdir", "RUN", "--input", "RUN/config.json", "--out", "OUT"], "not a file of marble"),
        (["decompress", "--workdir", "RUN", "--input", "FILE", "--out", "OUT", "--prefix", "9"], "than its header"),
        (["decompress", "--workdir", "RUN", "--input", "FILE", "--out", "OUT", "--prefix", "x"], "--prefix x"),
        (["decompress", "--workdir", "RUN", "--input", "FILE", "--out", "OUT", "--prefix", "1.5"], "--prefix 1.5"),
        (["decompress", "--workdir", "RUN", "--input", "FILE", "--out", "OUT", "--prefix", "0"], "--prefix 0"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(place, words, message, capsys):
    for name, path in (("RUN", place / "run"), ("FILE", place / "test.mrbl"), ("OUT", place / "out")):
        words = [word.replace(name, str(path)) for word in words]
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1 and message in said[0]
    assert not (place / "out").exists()
