"""Images as HTML."""

import base64
import io
import re

import numpy as np
from PIL import Image

from marble.demo import pictures
from marble.pipelines.progress import Progress

RNG = np.random.default_rng(0)


def decoded(page):
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in found]


def images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_small_images_are_kept_exactly_and_large_ones_made_small():
    small, large = images(2, 8, 8, 1), images(1, 512, 600, 3)
    first, second = decoded(pictures.live("step 1", 0.5, small))
    np.testing.assert_array_equal([first, second], small[..., 0])
    assert decoded(pictures.live("step 1", 0.5, large))[0].shape == (218, 256, 3)


def test_steps_of_two_batches_are_those_of_one():
    x, x_0 = images(2, 3, 4, 4, 1), images(2, 3, 4, 4, 1)
    steps = [
        Progress(done + 10 * batch, 20, 2 * batch, x[i, 2 * batch : 2 * batch + 2], x_0[i, 2 * batch : 2 * batch + 2])
        for batch in (0, 1)
        for i, done in enumerate((5, 10))
    ]
    joined = pictures.joined(steps)
    assert [(step.done, step.total) for step in joined] == [(5, 10), (10, 10)]
    for i, step in enumerate(joined):
        np.testing.assert_array_equal(step.x, x[i])
        np.testing.assert_array_equal(step.x_0, x_0[i])
    assert pictures.joined([]) == []


def test_the_way_has_a_frame_a_step_and_shows_the_last():
    steps = [Progress(i + 1, 3, 0, images(2, 4, 4, 3), images(2, 4, 4, 3)) for i in range(3)]
    page = pictures.way(steps)
    assert len(decoded(page)) == 3 * 5
    assert re.findall(r'class="frame( shown)?" data-i="(\d)"', page) == [("", "0"), ("", "1"), (" shown", "2")]
