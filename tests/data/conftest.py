"""Hand-made originals of every kind, small, written independently of the code that reads them."""

import functools
import http.server
import io
import json
import tarfile
import threading

import numpy as np
import originals
import pytest
import vocabularies
from PIL import Image

from marble.data.tokenizer import Tokenizer
from marble.errors import InputError


@pytest.fixture(scope="session")
def tiny_mnist():
    """{split: (images [n 6 5], labels [n])}."""
    rng = np.random.default_rng(1)
    return {
        split: (rng.integers(0, 256, (n, 6, 5), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for split, n in (("train", 13), ("test", 4))
    }


@pytest.fixture(scope="session")
def tiny_cifar10():
    """{split: (images [n 32 32 3], labels [n])}: 5 batches of 3 and one of 3."""
    rng = np.random.default_rng(2)
    return {
        split: (rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for split, n in (("train", 15), ("test", 3))
    }


@pytest.fixture
def write_mnist(tiny_mnist):
    """write(folder, zipped=False, dot='-'): the four idx files."""
    return functools.partial(originals.write_mnist, tiny_mnist)


@pytest.fixture
def write_cifar10(tiny_cifar10):
    """write(folder): the six .bin files, three images each."""
    return functools.partial(originals.write_cifar10, tiny_cifar10)


@pytest.fixture
def write_cifar10_archive(write_cifar10, tmp_path):
    """write(folder): the published archive's layout, one tar.gz."""

    def write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        batches = write_cifar10(tmp_path / "to-pack" / "cifar-10-batches-bin")
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
            tar.add(batches, "cifar-10-batches-bin")
        return folder / "cifar-10-binary.tar.gz"

    return write


@pytest.fixture
def write_folder():
    """write(folder, images, rows=None): PNG files 0.png, 1.png ..., and metadata.jsonl where rows are given."""

    def write(folder, images, rows=None):
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(folder / f"{i}.png")
        if rows is not None:
            (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


@pytest.fixture
def serve():
    """serve(folder): the folder over HTTP on this machine; returns its address and the list of paths asked for."""
    servers = []

    def start(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def write_tfds(tmp_path):
    """write(data_dir, name, images, labels, config=None, version='1.0.0'): a stock-like data set, prepared elsewhere.

    It has PNG images [h w c], classes `a`, `b`, ... and is shuffled by the keys, as those of tensorflow-datasets are.
    """
    import tensorflow_datasets as tfds

    def write(data_dir, name, images, labels, *, config=None, version="1.0.0", shape=None):
        class Elsewhere(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=shape or images[0].shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=sorted({chr(ord("a") + y) for y in labels})),
                    "id": tfds.features.Scalar(np.int32),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                    png = io.BytesIO()
                    Image.fromarray(image.squeeze()).save(png, "PNG")
                    yield i, {"image": png.getvalue(), "label": int(label), "id": i}

        Elsewhere.name = name
        Elsewhere(data_dir=data_dir).download_and_prepare(
            file_format="array_record", download_dir=tmp_path / "no-downloads"
        )
        return data_dir

    return write


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tokenizer as Stable Diffusion 1 has it; to be read alone."""
    return vocabularies.write_clip(tmp_path_factory.mktemp("clip"), **vocabularies.of_stable_diffusion(1))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A tokenizer as BERT has it; to be read alone."""
    return vocabularies.write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def refusal():
    """refusal(folder): why its tokenizer can't be opened, a line that names the folder."""

    def message_of(folder):
        with pytest.raises(InputError) as error:
            Tokenizer.open(folder)
        message = str(error.value)
        assert str(folder) in message and "\n" not in message and len(message) < 700
        return message

    return message_of
