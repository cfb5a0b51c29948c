"""Pictures: every pixel in its place."""

import numpy as np
from PIL import Image

from marble.pipelines.pictures import grid, save_gif, save_npz, save_png


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
