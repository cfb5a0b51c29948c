"""What is in folders that were converted, compared; and workdirs that have no checkpoint."""

import numpy as np

from marble import builders, workdir
from marble.convert import files
from marble.convert.names import flat
from marble.typing import ImageSpec


def weights(folder):
    """All arrays of a folder's files, by path and name."""
    return {
        (str(path.relative_to(folder)), name): array
        for path in sorted(folder.rglob("*.safetensors"))
        for name, array in arrays_of(path).items()
    }


def arrays_of(path):
    """All arrays of a file, by name."""
    return {name: tensor.read() for name, tensor in files.read(path).items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=str(key))


def assert_same_params(found, expected):
    assert_same(flat(found), flat(expected))


def assert_nothing_at(out):
    assert not out.exists() and not [path for path in out.parent.iterdir() if out.name in path.name]


def remembered(folder, config, shape=(8, 8, 1)):
    """A workdir with no checkpoint: what is refused before one is looked for."""
    workdir.remember(str(folder), builders.complete(config).to_dict(), workdir.DataFacts(ImageSpec(shape, 256), {}, ""))
    return folder
