"""marble sample --text: prompts, how many images they make, images from images, and errors in one line."""

import numpy as np
import pytest
import small_pipelines
from PIL import Image

from marble import loading
from marble.cli import prompts as prompts_of
from marble.cli.main import main

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(small_pipelines.stable_diffusion(tmp_path_factory.mktemp("small") / "sd"))


@pytest.fixture(scope="module")
def pipe(folder):
    return small_pipelines.opened(folder)


@pytest.fixture
def made(folder, pipe, tmp_path, monkeypatch):
    """A function of further words: the images that the command writes. Loaded and compiled once, where it can be."""
    load = loading.load
    shared = lambda path, **o: load(path, **o) if o["sampler"] or o["dtype"] else pipe  # noqa: E731
    monkeypatch.setattr(loading, "load", shared)

    def run(*words):
        out = tmp_path / "out"
        assert main(["sample", "--workdir", folder, "--steps", str(STEPS), "--out", str(out), *words]) == 0
        return np.load(out / "samples.npz")["arr_0"]

    return run


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "a cat\n\n  crème brûlée  \r\ntwo dogs\n".encode())  # as an editor may write it
    return f"@{file}"


LINES = ["a cat", "crème brûlée", "two dogs"]


@pytest.mark.slow
def test_one_image_a_prompt_and_on_from_there(made, prompts, pipe, tmp_path):
    expected = pipe.sample(8, text=[LINES[i % 3] for i in range(8)], steps=STEPS)
    images = made("--text", prompts)
    assert images.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(images, expected[:3])
    np.testing.assert_array_equal(made("--text", prompts, "--first", "3"), expected[3:6])
    np.testing.assert_array_equal(made("--text", prompts, "--first", "4", "--num", "4"), expected[4:])
    np.testing.assert_array_equal(made("--text", LINES[1], "--first", "4"), expected[4:5])
    np.testing.assert_array_equal(made("--text", LINES[0], "--text", LINES[1]), expected[:2])
    assert made().shape == (1, 16, 16, 3)  # of no text
    made("--text", LINES[0], "--text", LINES[1], "--num", "8")
    width, height = Image.open(tmp_path / "out" / "samples.png").size
    assert height > 1.8 * width  # a column a prompt


@pytest.mark.parametrize(("num_texts", "num", "columns"), [(2, 8, 2), (3, 3, None), (1, 8, None), (17, 34, None)])
def test_a_prompt_is_a_column_where_there_is_room(num_texts, num, columns):
    assert prompts_of.columns(["a"] * num_texts, num) == columns


def test_all_that_can_be_said_of_it(made, pipe, tmp_path):
    asked = dict(text="a cat", negative_text="snow", guidance_scale=3.0, sampler="dpm_solver_2m", seed=4)
    words = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
    size = ["--height", "12", "--width", "24"]
    images = made(*words, *size, "--num", "2", "--batch_size", "8", "--gif")
    expected = pipe.sample(2, height=12, width=24, steps=STEPS, **asked)
    assert np.abs(images.astype(int) - expected).max() <= 1  # another program: of frames too
    assert Image.open(tmp_path / "out" / "trajectory.gif").n_frames > 1
    assert Image.open(tmp_path / "out" / "samples.png").size[0] >= 256


@pytest.mark.slow
def test_images_from_images(made, prompts, tmp_path):
    folder, pixels = tmp_path / "images", np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    np.testing.assert_array_equal(made("--init_image", str(folder), "--strength", "0", "--text", "a cat"), pixels)
    # Three prompts of two images, each in turn, from any image on.
    varied = made("--init_image", str(folder), "--text", prompts, "--strength", "0.7")
    assert varied.shape == (3, 16, 16, 3)
    from_1 = made("--init_image", str(folder), "--text", prompts, "--strength", "0.7", "--first", "1", "--num", "2")
    assert np.abs(from_1.astype(int) - varied[1:]).max() <= 1
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    one = ["--init_image", str(folder / "0.png"), "--text", "a cat"]
    wide = made(*one, "--resize", "--width", "24", "--strength", "0")
    assert wide.shape == (1, 16, 24, 3)
    filled = made(*one, "--mask", str(tmp_path / "mask.png"), "--resamples", "1")
    np.testing.assert_array_equal(filled[0][mask == 0], pixels[0][mask == 0])
    assert np.abs(filled[0].astype(int) - pixels[0])[mask > 0].mean() > 5
    ends = [str(folder / f"{i}.png") for i in range(2)]
    way = made("--interpolate", *ends, "--text", "a cat", "--strength", "0")
    assert way.shape == (9, 16, 16, 3)
    np.testing.assert_array_equal(way[[0, -1]], pixels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", ""], "--text is empty"),
        (["--text", "@/nowhere.txt"], "--text @/nowhere.txt: /nowhere.txt can't be read"),
        (["--text", "@EMPTY"], "has no prompt in it: write one a line"),
        (["--text", "a", "--negative_text", "@EMPTY"], "--negative_text @"),
        (["--text", "a", "--num", "0"], "0 images asked for"),
        (["--text", "a", "--text", "b", "--num", "100000000000000"], "100000000000000 images asked for"),
        (["--text", "a", "--first", "-1"], "first=-1 must be between"),
        (["--text", "a", "--label", "1"], "labels='1' given, but this model was trained without labels"),
        (["--text", "a", "--dtype", "float16"], "dtype='float16' must be float32 or bfloat16"),
        (["--text", "a", "--height", "15"], "images of 15 x 16: the autoencoder takes multiples of 2"),
        (["--text", "a", "--sampler", "dimm"], "sampler='dimm' is unknown; did you mean 'ddim'"),
        (["--text", "a", "--step", "3"], "is no run with several: leave it out"),
        (["--guidance_scale", "7.5"], "guidance_scale=7.5 needs a text to go towards"),
        (["--text", "a", "--init_image", "PICTURE"], "is 9x9, the model's images are 16x16: give --resize"),
        (["--text", "a", "--init_image", "PICTURE", "--resize", "--width", "18"], "that are multiples of 4"),
        (["--text", "a", "--init_image", "PICTURE", "--resize", "--num", "0"], "0 images asked for"),
        (["--text", "a", "--text", "b", "--interpolate", "PICTURE", "PICTURE", "--resize"], "--text has 2 texts, and"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(folder, words, message, tmp_path, capsys):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "empty.txt").write_text("\n \n")
    places = {"PICTURE": str(tmp_path / "a.png"), "EMPTY": str(tmp_path / "empty.txt")}
    for name, path in places.items():
        words = [word.replace(name, path) for word in words]
    assert main(["sample", "--workdir", folder, "--out", str(tmp_path / "out"), *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1 and message in said[0]
    assert not (tmp_path / "out").exists()


def test_what_latents_can_not(folder, tmp_path, capsys):
    assert main(["evaluate", "--workdir", folder]) == 2
    print(capsys.readouterr().err)
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((1, 16, 16, 3), np.uint8))
    words = ["--input", str(tmp_path / "images.npz"), "--out", str(tmp_path / "images.marble")]
    assert main(["compress", "--workdir", folder, *words]) == 2
    assert "lossless files are of models of pixels" in capsys.readouterr().err
