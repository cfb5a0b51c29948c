"""300 damaged files of weights: each is read to arrays of sane size, or refused in one line; and nothing is run."""

import json
import random
import struct

import msgpack
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import Call, write_legacy, write_zip

from marble.convert import files
from marble.errors import InputError

EACH = 50
ARRAYS = {
    "model.weight": np.arange(24, dtype=np.float32).reshape(4, 6),
    "model.bias": np.arange(4, dtype=np.float16),
    "steps": np.array([1, 2, 3]),
    "mask": np.array([True, False]),
}


def nested(values):
    return {"state_dict": values, "epoch": 3, "hooks": [1.5, None, "text", True]}


def make_safetensors(folder):
    save_file(ARRAYS, folder / "a.safetensors", {"format": "pt"})
    return folder / "a.safetensors"


def make_zip(folder):
    return write_zip(folder / "a.pt", nested(ARRAYS))


def make_legacy(folder):
    return write_legacy(folder / "a.ckpt", nested(ARRAYS))


def make_msgpack(folder):
    pack = lambda a: msgpack.ExtType(1, msgpack.packb((a.shape, a.dtype.name, a.tobytes())))  # noqa: E731
    (folder / "a.msgpack").write_bytes(msgpack.packb(nested({name: pack(a) for name, a in ARRAYS.items()})))
    return folder / "a.msgpack"


def make_index(folder):
    make_safetensors(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, "a.safetensors")}))
    return path


def make_evil(folder):
    """A checkpoint with calls in it that would make a file, were they done."""
    made = str(folder / "made")
    calls = [Call("os", "system", (f"touch {made}",)), Call("posix", "system", (f"touch {made}",))]
    calls += [Call("builtins", "eval", (f"open({made!r}, 'w')",)), Call("subprocess", "Popen", (["touch", made],))]
    return write_legacy(folder / "evil.pt", nested({**ARRAYS, "calls": calls}))


KINDS = [make_safetensors, make_zip, make_legacy, make_msgpack, make_index, make_evil]


def mutated(data, rng):
    """The bytes, damaged in one of six ways."""
    data = bytearray(data)
    # The beginning, where the structure is, more often than the numbers
    at = rng.randrange(min(len(data), rng.choice([16, 200, len(data)])))
    match rng.randrange(6):
        case 0:
            del data[at:]
        case 1:
            for _ in range(rng.choice([1, 1, 4, 30])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        case 3:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 100]))
        case 4:
            width, order = rng.choice([1, 2, 4, 8]), rng.choice(["<", ">"])
            value = rng.choice([0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), rng.randrange(2 ** (8 * width))])
            data[at : at + width] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], value)
        case 5:
            other, length = rng.randrange(len(data)), rng.choice([1, 4, 8, 32])
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_read_or_refused(tmp_path, kind):
    rng = random.Random(KINDS.index(kind))
    path = kind(tmp_path)
    whole, refused = path.read_bytes(), 0
    for _ in range(EACH):
        path.write_bytes(damaged := mutated(whole, rng))
        try:
            found = files.read(path)
            arrays = {name: tensor.read() for name, tensor in found.items()}
        except InputError as error:
            line = str(error)
            assert len(line.splitlines()) == 1 and line.startswith(str(tmp_path)) and len(line) < 900, line
            refused += 1
        else:
            for name, array in arrays.items():
                assert array.nbytes <= max(len(damaged), 1000)
                assert (array.shape, array.dtype) == (found[name].shape, found[name].dtype)
        assert not (tmp_path / "made").exists()
    assert refused > EACH // 4  # Or the damage is none


def test_what_is_not_damaged_is_read(tmp_path):
    for kind in KINDS[:-1]:
        found = files.read(kind(tmp_path))
        beginning = "state_dict/" if kind in (make_zip, make_legacy, make_msgpack) else ""
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[beginning + name].read(), array)
    with pytest.raises(InputError, match="nothing was run"):
        files.read(make_evil(tmp_path))
