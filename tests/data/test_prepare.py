import gzip
import hashlib
import logging
import subprocess
import sys

import numpy as np
import pytest

from marble.data import catalogue
from marble.data.download import PUBLISHED, Published
from marble.data.prepare import prepare
from marble.data.sources import open_source
from marble.errors import InputError, RunError


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def assert_reads_back(name, data_dir, expected, **options):
    source = open_source(name, data_dir=data_dir, **options)
    assert source.splits == {split: len(images) for split, (images, _) in expected.items()}
    for split, (images, labels) in expected.items():
        examples = source.read(split)
        np.testing.assert_array_equal(examples.image, images.reshape(examples.image.shape))
        np.testing.assert_array_equal(examples.label, labels)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_originals_read_back_pixel_for_pixel(name, data_dir, tmp_path, write_mnist, tiny_mnist):
    prepared = prepare(name, source=write_mnist(tmp_path / "originals"), data_dir=data_dir)
    assert prepared.fresh and prepared.splits == {"train": 13, "test": 4}
    assert prepared.directory.is_relative_to(data_dir)
    assert_reads_back(name, data_dir, tiny_mnist)


def test_cifar10_reads_back_pixel_for_pixel(data_dir, tmp_path, write_cifar10, tiny_cifar10):
    assert prepare("cifar10", source=write_cifar10(tmp_path / "bin"), data_dir=data_dir).fresh
    assert_reads_back("cifar10", data_dir, tiny_cifar10)


def test_the_same_originals_in_another_packing_are_the_same_copy(data_dir, tmp_path, write_mnist):
    first = prepare("mnist", source=write_mnist(tmp_path / "raw"), data_dir=data_dir)
    second = prepare("mnist", source=write_mnist(tmp_path / "zipped", zipped=True), data_dir=data_dir)
    assert (second.fresh, second.directory, second.splits) == (False, first.directory, first.splits)


def test_other_originals_are_another_copy(data_dir, tmp_path, write_mnist, tiny_mnist):
    first, second = write_mnist(tmp_path / "first"), write_mnist(tmp_path / "second")
    changed = bytearray((second / "train-images-idx3-ubyte").read_bytes())
    changed[-1] ^= 1
    (second / "train-images-idx3-ubyte").write_bytes(changed)
    assert prepare("mnist", source=first, data_dir=data_dir).fresh
    assert prepare("mnist", source=second, data_dir=data_dir).fresh
    assert_reads_back("mnist", data_dir, tiny_mnist, source=first)
    with pytest.raises(InputError, match="several originals"):
        open_source("mnist", data_dir=data_dir)


def test_damaged_originals_leave_nothing_and_good_ones_work_then(data_dir, tmp_path, write_mnist, tiny_mnist):
    originals = write_mnist(tmp_path / "originals")
    whole = (originals / "t10k-images-idx3-ubyte").read_bytes()
    (originals / "t10k-images-idx3-ubyte").write_bytes(whole[:-7])
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte .*cut short"):
        prepare("mnist", source=originals, data_dir=data_dir)
    assert not data_dir.exists()
    (originals / "t10k-images-idx3-ubyte").write_bytes(whole)
    prepare("mnist", source=originals, data_dir=data_dir)
    assert_reads_back("mnist", data_dir, tiny_mnist)


def test_an_unreadable_image_leaves_nothing_and_a_repaired_one_works_then(data_dir, tmp_path, write_folder):
    images = np.random.default_rng(10).integers(0, 256, (4, 15, 15, 3), dtype=np.uint8)
    folder = write_folder(tmp_path / "folder", images)
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"folder/2\.png is not a readable image"):
        prepare("image_folder", source=folder, data_dir=data_dir)
    assert list(data_dir.iterdir()) == []
    write_folder(folder, images)
    prepare("image_folder", source=folder, data_dir=data_dir)
    examples = open_source("image_folder", data_dir=data_dir).read("train")
    np.testing.assert_array_equal(examples.image, images)


def test_a_changed_folder_is_prepared_again(data_dir, tmp_path, write_folder):
    images = np.random.default_rng(11).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    folder = write_folder(tmp_path / "folder", images[:2])
    assert len(open_source("image_folder", source=folder, data_dir=data_dir).read("train")) == 2
    write_folder(folder, images)
    assert len(open_source("image_folder", source=folder, data_dir=data_dir).read("train")) == 3
    assert not prepare("image_folder", source=folder, data_dir=data_dir).fresh


def serve_mnist(monkeypatch, folder, address, *, spoil=lambda md5: md5):
    files = tuple(
        Published(path.name, spoil(hashlib.md5(path.read_bytes()).hexdigest()), (address,))
        for path in sorted(folder.iterdir())
    )
    monkeypatch.setitem(PUBLISHED, "mnist", files)


def test_without_a_source_the_originals_are_downloaded_once(
    data_dir, tmp_path, write_mnist, tiny_mnist, serve, monkeypatch
):
    address, asked = serve(write_mnist(tmp_path / "host", zipped=True))
    serve_mnist(monkeypatch, tmp_path / "host", address)
    assert prepare("mnist", data_dir=data_dir).fresh
    assert_reads_back("mnist", data_dir, tiny_mnist)
    assert not prepare("mnist", data_dir=data_dir).fresh
    assert len(asked) == 4


def test_a_download_with_a_wrong_sum_is_not_prepared(data_dir, tmp_path, write_mnist, tiny_mnist, serve, monkeypatch):
    address, _ = serve(write_mnist(tmp_path / "host", zipped=True))
    serve_mnist(monkeypatch, tmp_path / "host", address, spoil=lambda md5: md5[::-1])
    with pytest.raises(InputError, match=r"cannot download t10k-images-idx3-ubyte\.gz .*MD5 sum"):
        prepare("mnist", data_dir=data_dir)
    assert not list(data_dir.glob("marble_*")) and not list(data_dir.glob(".*"))
    serve_mnist(monkeypatch, tmp_path / "host", address)
    prepare("mnist", data_dir=data_dir)
    assert_reads_back("mnist", data_dir, tiny_mnist)


def test_no_network_is_a_run_error(data_dir, monkeypatch):
    files = (Published("train-images-idx3-ubyte.gz", "0" * 32, ("http://127.0.0.1:1/",)),)
    monkeypatch.setitem(PUBLISHED, "mnist", files)
    with pytest.raises(RunError, match=r"cannot download train-images-idx3-ubyte\.gz .*--source"):
        prepare("mnist", data_dir=data_dir)


def test_the_loser_of_two_at_once_takes_the_winners_copy(data_dir, tmp_path, write_mnist, tiny_mnist, monkeypatch):
    originals = write_mnist(tmp_path / "originals")
    prepare("mnist", source=originals, data_dir=data_dir)
    answers = [False, False]  # as where there are no locks
    is_prepared = catalogue.is_prepared
    monkeypatch.setattr(catalogue, "is_prepared", lambda path: answers.pop() if answers else is_prepared(path))
    prepare("mnist", source=originals, data_dir=data_dir)
    assert not answers and [path.name for path in data_dir.iterdir()] == ["marble_mnist"]
    assert_reads_back("mnist", data_dir, tiny_mnist)


PROGRAM = """
import sys
from marble.data.prepare import prepare
from marble.data.sources import open_source
print(prepare("mnist", source=sys.argv[1], data_dir=sys.argv[2]).fresh)
assert open_source("mnist", data_dir=sys.argv[2]).read("train").image.shape == (13, 6, 5, 1)
assert "tensorflow" not in sys.modules
"""


def test_of_processes_at_once_one_prepares_without_tensorflow(data_dir, tmp_path, write_mnist, tiny_mnist):
    arguments = [sys.executable, "-c", PROGRAM, str(write_mnist(tmp_path / "originals")), str(data_dir)]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    said = []
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        said.append(out.split())
    assert sorted(said) == [[b"False"], [b"False"], [b"True"]]
    assert [path.name for path in data_dir.iterdir()] == ["marble_mnist"]
    assert_reads_back("mnist", data_dir, tiny_mnist)


FULL_DISK = """
import os, resource, sys
import marble.data.builders, marble.data.prepare
from marble.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    marble.data.prepare.prepare("mnist", source=sys.argv[1], data_dir=sys.argv[2])
except RunError as error:
    assert str(error).startswith("cannot write " + sys.argv[2]), error
    assert os.listdir(sys.argv[2]) == []
else:
    raise AssertionError("it was written")
"""


def test_a_full_disk_is_a_run_error_and_leaves_nothing(data_dir, tmp_path, write_mnist, tiny_mnist):
    originals = write_mnist(tmp_path / "originals")
    subprocess.run([sys.executable, "-c", FULL_DISK, str(originals), str(data_dir)], check=True, timeout=60)
    prepare("mnist", source=originals, data_dir=data_dir)
    assert_reads_back("mnist", data_dir, tiny_mnist)


def test_the_digits_need_nothing(data_dir):
    assert prepare("digits", data_dir=data_dir)[:4] == ("digits", None, {"train": 1437, "test": 360}, False)
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("minst", {}, "unknown data set 'minst': did you mean 'mnist'"),
        ("mnist", {"source": "/no/such/folder"}, "there is no /no/such/folder: give the folder of the originals"),
        ("image_folder", {}, "nothing to download: run `marble data prepare image_folder --source DIR`"),
        ("mnist", {"source": ""}, "the source is empty: give the folder of the originals of mnist"),
        ("digits", {"source": ""}, "the source is empty"),
        ("mnist", {"source": "x" * 5000}, r"cannot read x{100} \(File name too long\): give the folder"),
        ("digits", {"source": "."}, r"has no originals: leave the source \. out"),
        ("tfds:mnist", {}, "tfds:mnist is not marble's to prepare"),
    ],
)
def test_wrong_input_is_named(data_dir, name, options, message):
    with pytest.raises(InputError, match=message):
        prepare(name, data_dir=data_dir, **options)
    assert not data_dir.exists()


def test_an_empty_data_folder_is_named():
    with pytest.raises(InputError, match="the data_dir is empty"):
        prepare("mnist", data_dir="")


def test_images_beside_train_are_warned_of(data_dir, tmp_path, write_folder, caplog):
    images = np.random.default_rng(12).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    write_folder(tmp_path / "folder" / "train", images)
    with caplog.at_level(logging.WARNING, logger="marble"):
        prepare("image_folder", source=tmp_path / "folder", data_dir=data_dir)
        assert caplog.messages == []
        write_folder(tmp_path / "folder", images)
        assert prepare("image_folder", source=tmp_path / "folder", data_dir=data_dir).splits == {"train": 2}
    (said,) = caplog.messages
    assert said.endswith("files that are not used: 2 beside train/ (as 0.png)")


def test_every_unreadable_image_is_listed(data_dir, tmp_path, write_folder):
    images = np.random.default_rng(12).integers(0, 256, (30, 5, 5, 3), dtype=np.uint8)
    write_folder(tmp_path / "folder" / "train", images)
    write_folder(tmp_path / "folder" / "test", images[:3])

    def damage(name, keep):
        path = tmp_path / "folder" / name
        path.write_bytes(path.read_bytes()[:keep])

    for name in ("train/3.png", "train/7.png", "test/1.png"):
        damage(name, -30)  # their headers are whole
    with pytest.raises(InputError, match="3 images can't be read: .*3.png.*; .*7.png.*; .*test/1.png"):
        prepare("image_folder", source=tmp_path / "folder", data_dir=data_dir)
    for i in range(25):
        damage(f"train/{i}.png", 4)
    with pytest.raises(InputError, match="26 images can't be read: .*0.png.*; and 6 more"):
        prepare("image_folder", source=tmp_path / "folder", data_dir=data_dir)
    assert not list(data_dir.glob("marble_image_folder/*"))


def test_classes_are_counted(data_dir, tmp_path, write_folder):
    images = np.random.default_rng(12).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    for name, count in (("10", 1), ("9", 3)):
        write_folder(tmp_path / "folder" / name, images[:count])
    for _ in range(2):  # prepared, and found
        prepared = prepare("image_folder", source=tmp_path / "folder", data_dir=data_dir)
        assert prepared.class_names == ("9", "10") and list(prepared.images_by_class) == [3, 1]


def test_packed_originals_that_are_not_the_published_ones_are_warned_of(
    data_dir, tmp_path, write_mnist, monkeypatch, caplog
):
    originals = write_mnist(tmp_path / "originals", zipped=True)
    serve_mnist(monkeypatch, originals, "http://127.0.0.1:1/")
    monkeypatch.setitem(PUBLISHED, "fashion_mnist", [file._replace(md5="0" * 32) for file in PUBLISHED["mnist"]])
    with caplog.at_level(logging.WARNING, logger="marble"):
        prepare("mnist", source=originals, data_dir=data_dir)
        assert caplog.messages == []
        prepare("fashion_mnist", source=originals, data_dir=data_dir)
    assert len(caplog.messages) == 4
    assert all("of fashion_mnist: it is a file of mnist" in said for said in caplog.messages)
    caplog.clear()
    labels = originals / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes()), 1))
    prepare("mnist", source=originals, data_dir=data_dir)
    (said,) = caplog.messages
    assert f"{labels} is not the published {labels.name} of mnist: its MD5 sum is" in said


def test_nothing_is_said_of_unpacked_originals(data_dir, tmp_path, write_mnist, write_cifar10, caplog):
    write_mnist(tmp_path / "originals", zipped=True)
    prepare("mnist", source=write_mnist(tmp_path / "originals"), data_dir=data_dir)
    prepare("cifar10", source=write_cifar10(tmp_path / "bin"), data_dir=data_dir)
    assert caplog.messages == []


def test_a_cifar10_archive_that_is_not_the_published_one_is_warned_of(
    data_dir, tmp_path, write_cifar10_archive, caplog
):
    archive = write_cifar10_archive(tmp_path / "packed")
    for source in (archive, archive.parent):
        prepare("cifar10", source=source, data_dir=data_dir)
    assert [said.partition(" of cifar10")[0] for said in caplog.messages] == [
        f"{archive} is not the published {archive.name}"
    ] * 2


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path, write_mnist):
    (tmp_path / "file").write_text("not a folder")
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot write the data folder .*--data_dir"):
            prepare("mnist", source=write_mnist(tmp_path / "originals"), data_dir=data_dir)
