"""NumPy's npz as a file of weights: arrays by name."""

import os
import zipfile
from pathlib import Path

import numpy as np

from marble.convert import files
from marble.convert.tensors import Tensor, Tensors, held
from marble.errors import InputError


def read_arrays(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of an npz, or of a file of any kind that ``files.read`` knows.

    InputError, one line that begins with the path, for what can't be read; objects, which would be run, are refused.
    """
    return _read(Path(path)) if Path(path).suffix == ".npz" else files.read(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return held({name: arrays[name] for name in arrays.files})
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: give an npz, or a file of weights ({files.KINDS})") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} can't be read as an npz ({error}): write it again, of plain arrays") from error
