"""marble compress and marble decompress, on a run of two steps."""

from types import SimpleNamespace

import numpy as np
import pytest

from marble import builders, loading, run
from marble.cli.decompress import prefix_bytes
from marble.cli.main import main
from marble.compression import format
from marble.config import load_config
from marble.data.sources import open_source
from marble.errors import InputError
from marble.pipelines import ImageSpec


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


@pytest.mark.slow
def test_the_held_out_digits_come_back(place):
    assert decompress(place, "test.mrbl", "test.npz") == 0
    images = np.load(place / "test.npz")["arr_0"]
    truth = np.stack([open_source("digits").read("test")[i]["image"] for i in range(360)])
    np.testing.assert_array_equal(images, np.round(truth * (255 / 16)).astype(np.uint8))


def test_files_come_back_as_files(place, capsys):
    images = np.round(np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)) * (255 / 16)).astype(np.uint8)
    np.savez(place / "few.npz", arr_0=images)
    assert compress(place, f"{place}/few.npz", "few.mrbl", "--num_steps", "4", "--seed", "3") == 0
    assert decompress(place, "few.mrbl", "pictures") == 0
    assert len(list((place / "pictures").glob("*.png"))) == 5
    assert decompress(place, "few.mrbl", "pictures") == 2  # whose PNG would be taken for those of the file
    assert "has PNG already (00000.png): give another folder" in capsys.readouterr().err
    assert compress(place, f"{place}/pictures", "new/again.mrbl", "--num_steps", "4", "--seed", "3") == 0
    assert (place / "new" / "again.mrbl").read_bytes() == (place / "few.mrbl").read_bytes()


def test_a_cut_file_gives_blurred_images_when_asked(place, capsys):
    (place / "cut.mrbl").write_bytes((place / "test.mrbl").read_bytes()[:-100])
    assert decompress(place, "cut.mrbl", "cut.npz") == 2
    assert "it was cut; --prefix" in capsys.readouterr().err
    assert not (place / "cut.npz").exists()
    assert decompress(place, "cut.mrbl", "blurred", "--prefix", "1.0") == 0
    assert len(list((place / "blurred").glob("*.png"))) == 360


@pytest.mark.parametrize(
    ("text", "size"),
    [("20", 20), ("1.0", 100), ("0.4", 40), ("2e-1", 20), ("1e-1", 10), (".999", 100), ("100", 100)],
)
def test_a_prefix_is_bytes_or_a_share(text, size):
    assert prefix_bytes(text, size=100, header=10) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9", "--prefix 9 is less than the file's header of 10 bytes: give at least so many"),
        ("1e-3", "--prefix 1e-3 is less than the file's header of 10 bytes: give at least so many"),
        ("0.00001", "--prefix 0.00001 is less than the file's header"),
        ("1", "give 1.0 for the whole file, as 1 is one byte"),
        ("101", "at most the file's 100 bytes"),
        ("nan", "--prefix nan must be above 0"),
        ("-0.5", "--prefix -0.5 must be above 0"),
        ("ten", "--prefix ten is no number"),
    ],
)
def test_a_prefix_that_decodes_to_nothing_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        prefix_bytes(text, size=100, header=10)


def test_even_the_least_share_is_a_byte():
    assert prefix_bytes("1e-9", size=100, header=1) == 1


@pytest.mark.parametrize("more", [[], ["--prefix", "0.5"]])
def test_what_is_wrong_with_a_file_is_said_with_its_name(place, more, capsys):
    whole = (place / "test.mrbl").read_bytes()
    header = format.header_size(whole)
    for content, message in (
        (b"", "the compressed file is empty"),
        (whole[: header - 1], f"was cut: its {header - 1} bytes are less than its header of {header} bytes"),
        (whole[:10] + b"x" + whole[11:], "damaged in its header"),
        (whole[: header + 3] + b"x" + whole[header + 4 :], "damaged in section 0"),
    ):
        (place / "wrong.mrbl").write_bytes(content)
        assert decompress(place, "wrong.mrbl", "wrong.npz", *more) == 2
        assert f"marble: {place}/wrong.mrbl: the compressed file" in (said := capsys.readouterr().err)
        assert message in said and not (place / "wrong.npz").exists()


def test_a_model_that_can_not_compress_is_named(place, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load", lambda *_, **__: SimpleNamespace(image=ImageSpec((8, 8, 1), 17)))
    assert compress(place, "split:test", "other.mrbl") == 2
    assert decompress(place, "test.mrbl", "other.npz") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 2
    assert all(f"--workdir {place}/run: compression needs a diffusion model" in line for line in said)


@pytest.mark.parametrize(
    ("act", "out", "message"),
    [
        ("compress", "run", "run is a folder; give another --out"),
        ("compress", "test.mrbl/x", "test.mrbl: Not a directory"),
        ("decompress", "test.mrbl/", "test.mrbl: Not a directory"),
        ("decompress", "plain", "plain: Not a directory"),
        ("decompress", "x.png", "x.png is no npz: give NAME.npz, or for a folder of PNG a name that ends with /"),
        ("decompress", "x.NPZ", "x.NPZ is no npz"),
        ("decompress", "folder.npz", "folder.npz is a folder; give another --out"),
    ],
)
def test_an_out_that_can_not_be_is_refused_before_the_work(place, act, out, message, monkeypatch, capsys):
    (place / "plain").write_text("text")
    (place / "folder.npz").mkdir(exist_ok=True)
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    names = {"compress": "split:test", "decompress": "test.mrbl"}
    assert {"compress": compress, "decompress": decompress}[act](place, names[act], out) == 2
    assert message in capsys.readouterr().err


def test_a_name_with_a_point_is_a_folder_where_it_says_so(place):
    assert decompress(place, "test.mrbl", "blurred_0.4/", "--prefix", "0.4") == 0
    assert (place / "blurred_0.4" / "00000.png").exists()


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
        (["decompress", "--workdir", "RUN", "--input", "RUN", "--out", "OUT"], "run is a folder: give the file"),
        (["decompress", "--workdir", "RUN", "--input", "RUN/config.json", "--out", "OUT"], "not a file of marble"),
        (["decompress", "--workdir", "RUN", "--input", "FILE", "--out", "OUT", "--prefix", "9"], "the file's header"),
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
