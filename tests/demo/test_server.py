"""The page as a server: everybody is answered or refused, and nobody reads what is not the page's."""

import concurrent.futures
import io
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra [demo]")

from from_outside import Client, encoded, png_header

from marble.demo.server import check_port, serving
from marble.errors import InputError

SETTINGS = (None, 1, 3, 1.0, 0)
"""Class, images, steps, guidance, seed."""


@pytest.fixture(scope="module")
def url(model, free_port):
    with serving(model, host="127.0.0.1", port=free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url)


def images_of(client, gallery):
    paths = [item["image"]["path"] for item in gallery["value"]]
    return [np.asarray(Image.open(io.BytesIO(client.http.get(f"/gradio_api/file={path}").content))) for path in paths]


def test_what_is_drawn_is_the_pipeline_s(client, model):
    live, gallery, way, *_ = client.ask("drawn", 1, 2, 5, 2.0, 7, "the model's own")
    expected = model.pipe.sample(2, labels=1, steps=5, guidance_scale=2.0, seed=7)
    np.testing.assert_array_equal(images_of(client, gallery), expected[..., 0])
    assert "2 images in" in live and len(re.findall('class="frame', way)) == 5


def test_images_from_images(client):
    image = client.upload(encoded("PNG"))
    layer = np.zeros((40, 40, 4), np.uint8)
    layer[:20, :, 3] = 255
    editor = {"background": None, "layers": [client.upload(encoded("PNG", layer))], "composite": None}
    assert len(images_of(client, client.ask("varied", *SETTINGS, image, 0.5)[1])) == 1
    filled = images_of(client, client.ask("filled", *SETTINGS, image, editor, 1)[1])[0]
    same = images_of(client, client.ask("varied", *SETTINGS, image, 0)[1])[0]
    np.testing.assert_array_equal(filled[4:], same[4:])
    assert not np.array_equal(filled[:4], same[:4])
    given, x_t, _ = images_of(client, client.ask("noised", *SETTINGS, image, 0.9)[1])
    np.testing.assert_array_equal(given, same)
    assert not np.array_equal(x_t, given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded("PNG")[:-600], "it was cut or damaged: save it again"),
        (png_header(20_000, 20_000), "has 20000 x 20000 pixels, more than 16,777,216 (4096 x 4096): make it smaller"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "is an SVG drawing: give a PNG, JPEG or WebP"),
        (b"a letter, not an image", "is a text, not an image: give a PNG, JPEG or WebP image"),
    ],
    ids=["cut-png", "huge", "svg", "text"],
)
def test_malformed_uploads_are_told_and_the_page_lives_on(client, content, message):
    for call, rest in (("varied", [0.5]), ("noised", [0.5]), ("filled", [{"layers": []}, 1])):
        with pytest.raises(RuntimeError) as refusal:
            client.ask(call, *SETTINGS, client.upload(content, "it.svg"), *rest)
        assert message in str(refusal.value)
    assert "1 image in" in client.ask("drawn", *SETTINGS, None)[0]


def test_values_that_no_control_gives_are_refused(client):
    for values, message in (
        ((None, 1, 10**9, 1.0, 0), "the number of steps is 1000000000: give a whole number from 1 to 20"),
        ((None, 1000, 3, 1.0, 0), "the number of images is 1000: give a whole number from 1 to 4"),
        (("<b>x</b>", 1, 3, 1.0, 0), "the class &lt;b&gt;x&lt;/b&gt; is none of the model&#x27;s 2"),
    ):
        with pytest.raises(RuntimeError) as refusal:
            client.ask("drawn", *values, None)
        assert str(refusal.value) == message


def test_of_50_at_once_each_is_answered_or_refused(client, limits):
    def one(seed):
        try:
            return client.ask("drawn", None, 1, 2, 1.0, seed, None)[0]
        except RuntimeError as refusal:
            return str(refusal)

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50), timeout=200))
    drawn = [answer for answer in answers if "1 image in" in answer]
    refused = [answer for answer in answers if answer.startswith("Queue is full. Max size is 8")]
    assert len(drawn) + len(refused) == 50 and len(drawn) >= limits.max_queue
    assert "1 image in" in client.ask("drawn", *SETTINGS, None)[0]


def test_no_file_of_the_host_is_readable(client, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded("PNG"))
    mine = client.upload(encoded("PNG"))["path"]
    assert client.http.get(f"/gradio_api/file={mine}").status_code == 200
    folder = Path(mine).parents[1]
    (folder / "link.png").symlink_to(secret)
    names = ["/etc/passwd", str(secret), str(Path.cwd() / "setup.cfg"), str(Path(__file__)), str(folder / "link.png")]
    names += [f"{folder}/../../../../etc/passwd", f"{folder}/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "setup.cfg", "~/.bashrc"]
    names += ["http://127.0.0.1:1/", "http://example.com/", "file:///etc/passwd"]
    for name in names:
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy=", "/static/", "/assets/"):
            answer = client.http.get(route + name)
            assert answer.status_code in (403, 404), (route, name)
            assert b"root:" not in answer.content
        with pytest.raises(RuntimeError, match="upload it again"):
            client.ask("varied", *SETTINGS, {"path": name}, 0.5)
    for path in ("/docs", "/openapi.json", "/gradio_api/run/drawn", "/monitoring", "/gradio_api/component_server"):
        assert client.http.get(path).status_code in (404, 405)


def test_what_takes_time_is_called_by_the_queue_alone(client):
    """Which has an end. Beside it there is what Stop shows."""
    calls = [call for call in client.http.get("/config").json()["dependencies"] if call["backend_fn"]]
    beside = [call for call in calls if call["queue"] is False]
    assert len(calls) >= 6 and len(beside) == 1
    for call in calls:
        asked = {"fn_index": call["id"], "data": [None] * len(call["inputs"]), "session_hash": "x"}
        status = client.http.post("/gradio_api/run/predict", json=asked).status_code
        assert (status == 200) == (call in beside), call


def test_the_page_says_nothing_of_the_host(client):
    for path in ("/", "/config"):
        text = client.http.get(path).text
        assert str(Path.home()) + "/" not in text and str(Path.cwd()) not in text and "marble-demo-" not in text


def test_what_is_sent_has_a_size(client, limits):
    with pytest.raises(Exception, match="413"):
        client.upload(bytes(limits.max_bytes + 2**17))
    assert client.http.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 411
    assert "1 image in" in client.ask("drawn", *SETTINGS, None)[0]


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"host 127.0.0.1, port {port} can't be listened on"):
            check_port("127.0.0.1", port)
    with pytest.raises(InputError, match="host 203.0.113.1, port 7860 can't be listened on"):
        check_port("203.0.113.1", 7860)
