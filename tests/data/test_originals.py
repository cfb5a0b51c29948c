import gzip

import numpy as np
import pytest
from originals import idx_bytes

from marble.data.originals import read_cifar10, read_idx, read_mnist
from marble.errors import InputError


def assert_same_splits(found, expected, *, grey):
    assert list(found) == ["train", "test"]
    for split, (images, labels) in expected.items():
        np.testing.assert_array_equal(found[split].image, images[..., None] if grey else images)
        np.testing.assert_array_equal(found[split].label, labels)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_files_under_every_published_name(tmp_path, write_mnist, tiny_mnist, zipped, dot):
    assert_same_splits(read_mnist(write_mnist(tmp_path, zipped, dot)), tiny_mnist, grey=True)


def test_a_missing_idx_file_is_named(tmp_path, write_mnist):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="has no t10k-labels-idx1-ubyte"):
        read_mnist(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 10, 16, -1])
def test_an_idx_file_cut_short_is_named(tmp_path, write_mnist, keep):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte .*fetch it again"):
        read_mnist(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:40] + b"\xff" * 20 + b[60:], lambda b: b"no gzip"])
def test_a_damaged_gzip_file_is_named(tmp_path, write_mnist, damage):
    path = write_mnist(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is cut short or damaged"):
        read_mnist(tmp_path)


def test_an_idx_file_of_another_kind_is_named(tmp_path, write_mnist):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte starts with 0x00000803 where .* 0x00000801"):
        read_idx(path, ndim=1)


def test_an_idx_label_above_nine_is_named(tmp_path, write_mnist):
    path = write_mnist(tmp_path) / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([17]))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte: the label of image 12 is 17, not in 0\.\.9"):
        read_mnist(tmp_path)


def test_all_images_must_have_one_size(tmp_path, write_mnist, tiny_mnist):
    images, _ = tiny_mnist["test"]
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images[:, :-1]))
    with pytest.raises(InputError, match=r"to train are \(6, 5\) and to test \(5, 5\)"):
        read_mnist(tmp_path)


def test_images_and_labels_must_be_as_many(tmp_path, write_mnist):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes((tmp_path / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(InputError, match=r"has 13 images and .* has 4 labels"):
        read_mnist(tmp_path)


def test_cifar10_in_every_layout(tmp_path, write_cifar10, write_cifar10_archive, tiny_cifar10):
    flat = write_cifar10(tmp_path / "flat")
    write_cifar10(tmp_path / "above" / "cifar-10-batches-bin")
    archive = write_cifar10_archive(tmp_path / "packed")
    for source in (flat, tmp_path / "above", archive, archive.parent):
        assert_same_splits(read_cifar10(source), tiny_cifar10, grey=False)


def test_a_missing_cifar10_file_is_named(tmp_path, write_cifar10):
    (write_cifar10(tmp_path) / "data_batch_4.bin").unlink()
    with pytest.raises(InputError, match=r"has no data_batch_4\.bin"):
        read_cifar10(tmp_path)


def test_a_folder_without_cifar10_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has neither data_batch_1\.bin nor cifar-10-binary\.tar\.gz"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize("cut", [1, 3072, 3073, 2 * 3073, 3 * 3073])
def test_a_cifar10_file_cut_short_is_named(tmp_path, write_cifar10, cut):
    path = write_cifar10(tmp_path) / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"data_batch_2\.bin .*cut short.*fetch it again"):
        read_cifar10(tmp_path)


def test_a_cifar10_label_above_nine_is_named(tmp_path, write_cifar10):
    path = write_cifar10(tmp_path) / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[2 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"test_batch\.bin: the label of image 2 is 10"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 2000, -30])
def test_a_cifar10_archive_cut_short_is_named(tmp_path, write_cifar10_archive, keep):
    archive = write_cifar10_archive(tmp_path)
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz is cut short or damaged"):
        read_cifar10(archive)


def test_a_gzip_member_is_whole(tmp_path):
    """A file that ends in .gz and holds a whole idx file followed by a byte too many is not taken."""
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x02\x01\x02\x03"))
    with pytest.raises(InputError, match="has 11 bytes where its header asks for 10"):
        read_idx(path, ndim=1)
