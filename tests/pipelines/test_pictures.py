"""Pictures: every pixel in its place."""

import full_disk
import numpy as np
import pytest
from PIL import Image

from marble.errors import RunError
from marble.pipelines.pictures import grid, replacing, save_gif, save_npz, save_png


def images(count, channels=1):
    return np.random.default_rng(0).integers(0, 255, (count, 4, 3, channels)).astype(np.uint8)


def test_a_grid_has_the_images_in_reading_order_with_white_between():
    cells = images(7, 3)
    whole = grid(cells)
    assert whole.shape == (3 * 5 - 1, 3 * 4 - 1, 3)
    for i, image in enumerate(cells):
        top, left = 5 * (i // 3), 4 * (i % 3)
        np.testing.assert_array_equal(whole[top : top + 4, left : left + 3], image)
    assert (whole[4] == 255).all() and (whole[:, 3] == 255).all() and (whole[10:, 4:] == 255).all()


def test_png_keeps_pixels_enlarged(tmp_path):
    save_png(tmp_path / "a.png", images(4))
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    scale = picture.shape[0] // 9
    assert min(picture.shape) >= 256
    np.testing.assert_array_equal(picture[::scale, ::scale], grid(images(4))[..., 0])


def test_gif_has_every_frame(tmp_path):
    frames = np.stack([images(4), 255 - images(4), images(4) // 2])
    save_gif(tmp_path / "a.gif", frames)
    assert Image.open(tmp_path / "a.gif").n_frames == 3


def test_npz_is_what_the_adm_evaluator_reads(tmp_path):
    save_npz(tmp_path / "a.npz", images(4))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], images(4))


@pytest.mark.parametrize("name", ["a.npz", "a.png", "a.gif"])
def test_what_cannot_be_written_is_named_and_leaves_the_old_file_alone(tmp_path, monkeypatch, name):
    path, many = tmp_path / name, images(400)
    path.write_bytes(b"old")
    full_disk.fill(monkeypatch, ".new")
    with pytest.raises(RunError, match=rf"cannot write .*{name} \({full_disk.REASON}\): make room"):
        {"npz": save_npz, "png": save_png, "gif": lambda *a: save_gif(a[0], a[1][None])}[path.suffix[1:]](path, many)
    assert [file.name for file in tmp_path.iterdir()] == [name] and path.read_bytes() == b"old"


def test_room_is_the_remedy_for_a_full_disk_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "a.npz"):
        with pytest.raises(RunError, match=r"cannot write .*: give another name, or a folder that is there"):
            save_npz(path, images(1))


def test_an_interruption_while_writing_leaves_nothing_and_stays_what_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.png") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
