"""The original files from hosts that serve them, each checked against its published MD5 sum."""

import hashlib
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from marble.errors import InputError, RunError

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


class Published(NamedTuple):
    """A published file: its name, its MD5 sum, and the folders of the hosts that serve it, tried in this order."""

    name: str
    md5: str
    hosts: Sequence[str]


_MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_MNIST_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_CIFAR10_HOSTS = ("https://www.cs.toronto.edu/~kriz/",)

PUBLISHED: Mapping[str, Sequence[Published]] = {
    "mnist": (
        Published("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", _MNIST_HOSTS),
        Published("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", _MNIST_HOSTS),
        Published("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", _MNIST_HOSTS),
        Published("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", _MNIST_HOSTS),
    ),
    "fashion_mnist": (
        Published("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", _FASHION_MNIST_HOSTS),
        Published("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", _FASHION_MNIST_HOSTS),
        Published("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", _FASHION_MNIST_HOSTS),
        Published("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", _FASHION_MNIST_HOSTS),
    ),
    "cifar10": (Published("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", _CIFAR10_HOSTS),),
}


def download(files: Sequence[Published], folder: Path) -> Path:
    """Every file in `folder`, which is returned; one that is there with the right sum is not fetched again.

    Raises InputError when what a host serves has another sum, and RunError when no host answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / file.name
        if not (target.is_file() and md5(target) == file.md5):
            _fetch(file, target)
    return folder


def _fetch(file: Published, target: Path) -> None:
    """The file from the first host that serves it whole, moved to `target` only when its sum is right."""
    failures, error_type = [], RunError
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{file.name}.") as stage:
        part = Path(stage) / f"{file.name}.part"
        for host in file.hosts:
            try:
                _copy(host + file.name, part)
            except (OSError, HTTPException) as error:
                failures.append(f"{host}: {error}")
                continue
            found = md5(part)
            if found == file.md5:
                part.replace(target)
                return
            failures.append(f"{host}: the MD5 sum is {found}, not {file.md5}")
            error_type = InputError
    raise error_type(
        f"cannot download {file.name} ({'; '.join(failures)}): try again, or fetch it by other means and give its "
        "folder with --source"
    )


def _copy(url: str, part: Path) -> None:
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "marble"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as out:
        total = int(response.headers.get("Content-Length", 0)) or None
        with tqdm.wrapattr(out, "write", total=total, desc=part.stem, disable=None) as sink:
            shutil.copyfileobj(response, sink, CHUNK_BYTES)


def md5(path: Path) -> str:
    """The MD5 sum of a file, as it is published: 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
