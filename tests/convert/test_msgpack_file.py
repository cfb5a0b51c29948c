"""Flax's msgpack: what flax wrote, written here by hand too, and files that lie."""

import struct

import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization

from marble.convert import files, msgpack_file
from marble.errors import InputError


def packed(array, *, name=None, shape=None, data=None):
    """An array as flax packs one; the rest in the place of what is so."""
    facts = (
        array.shape if shape is None else shape,
        name or array.dtype.name,
        array.tobytes() if data is None else data,
    )
    return msgpack.ExtType(1, msgpack.packb(facts, use_bin_type=True))


def written(path, value):
    path.write_bytes(value if isinstance(value, bytes) else msgpack.packb(value, use_bin_type=True))
    return path


X = np.arange(6, dtype=np.float32).reshape(2, 3)
DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
ARRAYS = {name: X.astype(name) for name in [*DTYPES, "bool", "complex64", "complex128"]}
ARRAYS |= {name: X.astype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
ARRAYS |= {"scalar": np.array(3, np.int32), "empty": np.zeros((0, 3), np.float32), "long": np.zeros(70_000, np.float32)}


def same(found, expected):
    assert (found.shape, found.dtype, found.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())


def test_what_flax_wrote(tmp_path):
    tree = {
        "params": {"conv": ARRAYS},
        "step": np.float32(2),
        "left out": {"c": 1j, "n": 3, "t": "x" * 999, "none": None},
    }
    found = files.read(written(tmp_path / "flax_model.msgpack", serialization.msgpack_serialize(tree)))
    assert set(found) == {"step", *(f"params/conv/{name}" for name in ARRAYS)}
    same(found["step"].read(), np.array(2, np.float32))
    for name, array in ARRAYS.items():
        same(found[f"params/conv/{name}"].read(), array)
    assert set(files.read(tmp_path / "flax_model.msgpack", "params/conv")) == set(ARRAYS)


@pytest.mark.parametrize("most", [4, 8, 20, 24])
def test_arrays_in_pieces(tmp_path, monkeypatch, most):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", most)
    path = written(tmp_path / "a.msgpack", serialization.msgpack_serialize({"a": {"x": X}, "y": X[:1, :1]}))
    assert (b"__msgpack_chunked_array__" in path.read_bytes()) == (most < 24)
    found = files.read(path)
    assert list(found) == ["a/x", "y"] and found["a/x"].shape == (2, 3)
    same(found["a/x"].read(), X)


def test_lists_and_every_kind_of_value(tmp_path):
    values = [
        None,
        True,
        False,
        0,
        127,
        128,
        2**16,
        2**32,
        2**63,
        -1,
        -33,
        -(2**15),
        -(2**31),
        -(2**63),
        1.5,
        "x" * 300,
    ]
    values += [
        b"x",
        b"x" * 300,
        b"x" * 70_000,
        "x" * 70_000,
        list(range(20)),
        [0] * 70_000,
        {str(i): i for i in range(20)},
    ]
    values += [msgpack.ExtType(9, b"x" * n) for n in (1, 2, 4, 8, 16, 17, 300, 70_000)] + [{"a": packed(X)}]
    found = files.read(written(tmp_path / "a.msgpack", {"v": values, "last": packed(X)}))
    assert list(found) == [f"v/{len(values) - 1}/a", "last"]
    same(found["last"].read(), X)


def pieces(shape, chunks):
    return {"a": {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}}


def ext(code, data):
    return msgpack.ExtType(code, data)


FLAT = X.reshape(-1)
LIES = {
    "bytes are less": {"a": packed(X, data=b"\0" * 20)},
    "bytes are more": {"a": packed(X, data=b"\0" * 28)},
    "objects": {"a": packed(X, name="O")},
    "object": {"a": packed(X, name="object")},
    "text dtype": {"a": packed(X, name="<U6")},
    "a structure": {"a": packed(X, name="f4,f4")},
    "2^60": {"a": packed(X, shape=(2**60,))},
    "overflow": {"a": packed(X, shape=(2**40, 2**40))},
    "overflow of nothing": {"a": packed(X, shape=(2**61, 4, 0), data=b"")},
    "negative": {"a": packed(X, shape=(-2, -3))},
    "axes": {"a": packed(X, shape=(1,) * 65)},
    "shape of texts": {"a": packed(X, shape=("2", "3"))},
    "shape of truths": {"a": packed(X[:1, :1], shape=(True, True))},
    "two facts": {"a": ext(1, msgpack.packb([[2], "float32"]))},
    "no list": {"a": ext(1, msgpack.packb(3))},
    "nothing in it": {"a": ext(1, b"")},
    "more in it": {"a": ext(1, packed(X).data + b"\0")},
    "less in it": {"a": ext(1, packed(X).data[:-1])},
    "the name is bytes": {"a": ext(1, msgpack.packb([[2, 3], b"float32", X.tobytes()]))},
    "arrays in arrays": b"\x81\xa1a" + b"\xc9\x7f\xff\xff\xff\x01" * 1000,
    "deep": b"\x81\xa1a" + b"\x91" * 100_000,
    "deep maps": b"\x81\xa1a" * 100_000,
    "2^32 values": b"\xdf\xff\xff\xff\xff\xa1a\xc0",
    "2^32 in a list": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "2^32 bytes": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "2^32 of text": b"\x81\xdb\xff\xff\xff\xff",
    "2^32 of an extension": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "no msgpack": b"\x81\xa1a\xc1",
    "not UTF-8": b"\x81\xa1\xff\xc0",
    "twice": b"\x82\xa1a" + msgpack.packb(packed(X)) + b"\xa1a" + msgpack.packb(packed(X)),
    "twice as number": b"\x82\xa11" + msgpack.packb(packed(X)) + b"\x01" + msgpack.packb(packed(X)),
    "key is a list": b"\x81\x90\xc0",
    "key is an array": b"\x81" + msgpack.packb(packed(X)) + b"\xc0",
    "a long key": {"k" * 1000: packed(X)},
    "more after it": msgpack.packb({"a": packed(X)}) + b"\0",
    "one name": {"a/b": packed(X), "a": {"b": packed(X)}},
    "no arrays": {"a": 1},
    "nothing": b"\x80",
    "pieces are less": pieces([2, 3], [packed(FLAT[:4])]),
    "pieces are more": pieces([2, 3], [packed(FLAT), packed(FLAT)]),
    "pieces of two types": pieces([2, 3], [packed(FLAT[:3]), packed(FLAT[3:].astype(np.int32))]),
    "pieces of nothing": pieces([2, 3], []),
    "no pieces": pieces([2, 3], 3),
    "pieces are no arrays": pieces([2, 3], [1, 2]),
    "pieces without a shape": pieces(None, [packed(FLAT)]),
    "pieces that overflow": pieces([2**61, 4, 0], [packed(FLAT[:0])]),
    "pieces with a gap": pieces({"0": 2, "2": 3}, {"0": packed(FLAT)}),
    "pieces of texts": pieces(["2", "3"], [packed(FLAT)]),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_files_that_lie(tmp_path, lie):
    path = written(tmp_path / "a.msgpack", LIES[lie])
    with pytest.raises(InputError) as caught:
        files.read(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.startswith(str(path)) and len(line) < 600


@pytest.mark.parametrize("more", [b"\0", b"\xc0" * 9])
def test_an_array_fills_its_extension(tmp_path, more):
    path = written(tmp_path / "a.msgpack", {"a": ext(1, packed(X).data + more)})
    with pytest.raises(InputError, match="not a shape, a dtype and bytes"):
        files.read(path)


def test_more_values_than_weights_have(tmp_path, monkeypatch):
    path = written(tmp_path / "a.msgpack", {"a": [packed(X)] * 20})
    assert len(files.read(path)) == 20
    monkeypatch.setattr(msgpack_file, "MOST_VALUES", 50)
    with pytest.raises(InputError, match="too many"):
        files.read(path)


def test_every_cut_is_found(tmp_path):
    whole = msgpack.packb({"a": {"x": packed(X)}, "b": packed(X)}, use_bin_type=True)
    for length in range(1, len(whole)):
        with pytest.raises(InputError, match="damaged"):
            files.read(written(tmp_path / "a.msgpack", whole[:length]))


def test_numbers_stay_on_the_disk(tmp_path):
    path = tmp_path / "a.msgpack"
    size = 2**30  # A sparse file: reading it would take a gigabyte
    inner = b"\x93\x91" + msgpack.packb(size) + msgpack.packb("uint8") + b"\xc6" + struct.pack(">I", size)
    head = b"\x82\xa1a\xc9" + struct.pack(">I", len(inner) + size) + b"\x01" + inner
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + size)
        file.write(b"\xa1b" + msgpack.packb(packed(X)))
    found = files.read(path)
    assert found["a"].shape == (size,) and found["a"].part(slice(3)).shape == (3,)
    same(found["b"].read(), X)
