import numpy as np
import pytest

from marble.data import catalogue
from marble.data.folder import digest, list_folder
from marble.errors import InputError


def put(root, name, key, origin="/somewhere"):
    """A prepared copy, as far as the catalogue looks at one."""
    directory = catalogue.copy_directory(root, name, key)
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text("{}")
    (directory / "metadata.json").write_text(f'{{"origin": "{origin}"}}')
    return directory


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "cifar10", "image_folder", "tfds:a/b:1.0.0"])
def test_known_names_pass(name):
    catalogue.check_name(name)


@pytest.mark.parametrize(
    "name, nearest", [("minst", "mnist"), ("cifar-10", "cifar10"), ("fashionmnist", "fashion_mnist")]
)
def test_an_unknown_name_is_told_the_nearest_and_all(name, nearest):
    with pytest.raises(InputError, match=f"'{name}': did you mean '{nearest}'.*digits, mnist, .*tfds:NAME"):
        catalogue.check_name(name)


@pytest.mark.parametrize("name", ["", "zzzz", "tfds:", "tfds:a:1"])
def test_a_name_like_none_is_told_all(name):
    with pytest.raises(InputError, match="there are digits, mnist, fashion_mnist, cifar10, image_folder"):
        catalogue.check_name(name)


def test_the_root_is_that_of_tensorflow_datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert catalogue.data_root(None) == tmp_path / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    assert catalogue.data_root(None) == tmp_path / "env"
    assert catalogue.data_root("~/given") == tmp_path / "given"


def test_an_unprepared_data_set_names_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"run `marble data prepare mnist`$"):
        catalogue.find_prepared("mnist")
    with pytest.raises(InputError, match=f"run `marble data prepare cifar10 --data_dir {tmp_path}`$"):
        catalogue.find_prepared("cifar10", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"run `marble data prepare image_folder --source DIR`$"):
        catalogue.find_prepared("image_folder")


def test_the_only_copy_is_found_and_the_published_one_wins(tmp_path):
    given = put(tmp_path, "mnist", "0123")
    assert catalogue.find_prepared("mnist", data_dir=tmp_path) == given
    published = put(tmp_path, "mnist", "published")
    assert catalogue.find_prepared("mnist", data_dir=tmp_path) == published


def test_copies_of_several_originals_are_listed(tmp_path):
    put(tmp_path, "mnist", "0123", "/first")
    put(tmp_path, "mnist", "4567", "/second")
    with pytest.raises(InputError, match=r"several originals \(/first, /second\): give one of them"):
        catalogue.find_prepared("mnist", data_dir=tmp_path)


def test_a_copy_of_a_changed_folder_is_not_found(tmp_path, write_folder):
    images = np.zeros((2, 4, 4), np.uint8)
    folder = write_folder(tmp_path / "folder", images[:1])
    old = put(tmp_path, "image_folder", digest(list_folder(folder)), folder)
    assert catalogue.find_prepared("image_folder", data_dir=tmp_path) == old
    write_folder(folder, images)
    with pytest.raises(InputError, match="folder has changed since it was prepared; run `marble data prepare"):
        catalogue.find_prepared("image_folder", data_dir=tmp_path)
    new = put(tmp_path, "image_folder", digest(list_folder(folder)), folder)
    assert catalogue.find_prepared("image_folder", data_dir=tmp_path) == new


def put_tfds(root, path):
    (root / path).mkdir(parents=True)
    (root / path / "dataset_info.json").write_text("{}")


def test_a_tensorflow_data_set_is_found_by_name_config_and_version(tmp_path):
    for path in ("plain/1.0.0", "plain/10.0.0", "plain/9.0.0", "many/a/1.0.0", "many/b/1.0.0"):
        put_tfds(tmp_path, path)
    found = {
        "tfds:plain": "plain/10.0.0",
        "tfds:plain:9.0.0": "plain/9.0.0",
        "tfds:many/b": "many/b/1.0.0",
        "tfds:many/a:1.0.0": "many/a/1.0.0",
    }
    for name, path in found.items():
        assert catalogue.find_tfds(name, data_dir=tmp_path) == tmp_path / path


@pytest.mark.parametrize("name", ["tfds:many", "tfds:many/c", "tfds:many/a:2.0.0", "tfds:absent"])
def test_an_absent_tensorflow_data_set_lists_what_is_there(tmp_path, name):
    put_tfds(tmp_path, "many/a/1.0.0")
    put_tfds(tmp_path, "many/b/1.0.0")
    there = {"tfds:many": r"many/a/1\.0\.0, many/b/1\.0\.0", "tfds:many/a:2.0.0": r"many/a/1\.0\.0"}
    expected = there.get(name, "nothing of that name")
    with pytest.raises(InputError, match=rf"{name} is not prepared in .* \(there: {expected}\)"):
        catalogue.find_tfds(name, data_dir=tmp_path)
