"""Safetensors: beside the library, and headers that lie."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from full_disk import fill
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from marble.convert import files, safetensors_file
from marble.errors import InputError

ARRAYS = {
    **{name: np.arange(6).reshape(2, 3).astype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8")},
    **{name: np.arange(5).astype(name) for name in ("u1", "u2", "u4", "u8", "c8")},
    **{"bf16": np.arange(3).astype(ml_dtypes.bfloat16), "bool": np.array([True, False, True])},
    **{"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32), "é/ü": np.ones(1, np.float32)},
}
F8 = {name: np.arange(3).astype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2")}


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def lying(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = json.dumps(entry([1], [0, 4])).encode()
LIES = {
    "beyond the file": lying({"a": entry([4], [0, 16])}, b"\0" * 8),
    "overlap": lying({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, b"\0" * 12),
    "same bytes": lying({"a": entry([2], [0, 8]), "b": entry([2], [0, 8])}, b"\0" * 8),
    "gap": lying({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, b"\0" * 12),
    "begins late": lying({"a": entry([1], [4, 8])}, b"\0" * 8),
    "tail": lying({"a": entry([1], [0, 4])}, b"\0" * 12),
    "2^63": lying({"a": entry([2**63], [0, 4])}, b"\0" * 4),
    "2^70 offset": lying({"a": entry([1], [0, 2**70])}, b"\0" * 4),
    "huge digits": lying(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9999 + b'],"data_offsets":[0,4]}}', b"\0" * 4),
    "negative": lying({"a": entry([-1], [0, 4])}, b"\0" * 4),
    "negative offset": lying({"a": entry([1], [-4, 0])}, b"\0" * 4),
    "backwards": lying({"a": entry([1], [4, 0])}, b"\0" * 4),
    "overflow": lying({"a": entry([2**40, 2**40], [0, 4])}, b"\0" * 4),
    "overflow of nothing": lying({"a": entry([2**61, 4, 0], [0, 0])}),
    "axes": lying({"a": entry([1] * 65, [0, 4])}, b"\0" * 4),
    "float": lying({"a": entry([1.0], [0, 4])}, b"\0" * 4),
    "truth": lying({"a": entry([True], [0, 4])}, b"\0" * 4),
    "text": lying({"a": entry("1", [0, 4])}, b"\0" * 4),
    "three offsets": lying({"a": entry([1], [0, 2, 4])}, b"\0" * 4),
    "wrong size": lying({"a": entry([2], [0, 4])}, b"\0" * 4),
    "header beyond": lying({}, length=2**60),
    "header beyond by one": lying({}, length=3),
    "header of 2^64": lying({}, length=2**64 - 1),
    "twice": lying(b'{"a":' + ONE + b',"a":' + ONE + b"}", b"\0" * 4),
    "unknown dtype": lying({"a": entry([1], [0, 4], "F77")}, b"\0" * 4),
    "dtype of no text": lying({"a": entry([1], [0, 4], ["F32"])}, b"\0" * 4),
    "no dtype": lying({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "entry of no object": lying({"a": 3}),
    "not UTF-8": lying(b'{"\xff":{}}'),
    "a list": lying(b"[]"),
    "deep": lying(b"[" * 100_000),
    "deep objects": lying(b'{"a":' * 100_000),
    "no JSON": lying(b"{'a'"),
    "NaN": lying(b'{"a":NaN}'),
    "7 bytes": b"\0" * 7,
    "8 zeros": b"\0" * 8,
    "lines": lying({"a\nb\u2028c": 3}),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_headers_that_lie(tmp_path, lie):
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(InputError) as caught:
        files.read(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.startswith(str(path)) and len(line) < 600


def test_a_header_of_more_than_is_sane(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # A sparse file
    with pytest.raises(InputError, match="a header of 1073741824 bytes"):
        files.read(path)


def test_what_the_library_wrote(tmp_path):
    save_file(ARRAYS | F8, tmp_path / "a.safetensors", {"format": "pt"})
    found = files.read(tmp_path / "a.safetensors")
    assert set(found) == set(ARRAYS | F8)
    for name, array in (ARRAYS | F8).items():
        read = found[name].read()
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes()), name
        assert found[name].shape == array.shape and found[name].dtype == array.dtype


def test_bools_are_zero_and_one(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(lying({"a": entry([3], [0, 3], "BOOL")}, b"\0\2\xff"))
    assert files.read(tmp_path / "a.safetensors")["a"].read().view(np.uint8).tolist() == [0, 1, 1]


def written(path, arrays, **options):
    shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    safetensors_file.write(path, ((name, a) for name, a in arrays.items()), shapes, **options)
    return path


def test_the_library_opens_what_is_written(tmp_path):
    path = written(tmp_path / "a.safetensors", ARRAYS, metadata={"format": "pt", "note": "é"})
    for name, array in load_file(path).items():
        assert (array.shape, array.dtype, array.tobytes()) == (
            ARRAYS[name].shape,
            ARRAYS[name].dtype,
            ARRAYS[name].tobytes(),
        )
    with safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt", "note": "é"} and set(opened.keys()) == set(ARRAYS)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_is_the_library_s_byte_by_byte(tmp_path, metadata):
    save_file(ARRAYS | F8, tmp_path / "theirs", metadata)
    ours = written(tmp_path / "ours", dict(reversed((ARRAYS | F8).items())), metadata=metadata)
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_all_numbers_are_aligned(tmp_path):
    data = written(
        tmp_path / "a", {"a": np.ones(3, np.int8), "b": np.ones(1, np.float32), "c": np.ones(1)}
    ).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    for facts in json.loads(data[8 : 8 + length]).values():
        assert (8 + length + facts["data_offsets"][0]) % {"I8": 1, "F32": 4, "F64": 8}[facts["dtype"]] == 0


def test_arrays_of_any_layout(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = load_file(written(tmp_path / "a", {"t": x.T, "step": x[::2, 1::2]}))
    np.testing.assert_array_equal(found["t"], x.T)
    np.testing.assert_array_equal(found["step"], x[::2, 1::2])


WRONG = {
    "less": {"a": ((2,), "f4"), "b": ((2,), "f4")},
    "more": {},
    "another shape": {"a": ((3,), "f4")},
    "another type": {"a": ((2,), "f2")},
    "no type of safetensors": {"a": ((2,), "c16")},
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_entries_that_are_not_those_said_leave_what_was_there(tmp_path, wrong):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ValueError):
        safetensors_file.write(path, [("a", np.ones(2, np.float32))], WRONG[wrong])
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    fill(monkeypatch, ".new")
    with pytest.raises(OSError):
        written(path, ARRAYS)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        written(tmp_path / "none" / "a.safetensors", ARRAYS)


def test_writing_holds_one_array_at_a_time(tmp_path):
    alive = []

    class Counted(np.ndarray):
        def __array_finalize__(self, _):
            alive.append(1)

        def __del__(self):
            alive.pop()

    def arrays():
        for i in range(8):
            assert len(alive) <= 2  # The one just written may still be held by the loop
            yield str(i), np.full(1000, i, np.float32).view(Counted)

    safetensors_file.write(tmp_path / "a", arrays(), {str(i): ((1000,), np.float32) for i in range(8)})
    assert [load_file(tmp_path / "a")[str(i)][0] for i in range(8)] == list(range(8))
