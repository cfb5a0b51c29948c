"""Checkpoints of PyTorch, written without torch: good ones are read, bad ones run nothing and cost little."""

import pickle
import resource
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_files import Call, Pickled, Raw, Strided, name_of, whole, write_legacy, write_zip

from marble.convert import files, nested
from marble.errors import InputError

WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
X = np.arange(6, dtype=np.float32)
TEXT = b"X\x04\0\0\0"


def refused(path, words=None):
    """The one line of the InputError."""
    with pytest.raises(InputError, match=words) as caught:
        files.read(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.startswith(str(path)) and len(line) < 600
    return line


def with_opcodes(write, path, opcodes, value=None):
    """A checkpoint whose pickle is these opcodes, with the storages of the value."""
    return write(path, value or {}, pickle=b"\x80\x02" + opcodes + b".")


@WRITERS
def test_what_is_written_is_read(write, tmp_path):
    arrays = {
        **{"f8": X.astype(np.float64), "f2": X.astype(np.float16), "bf": X.astype(ml_dtypes.bfloat16)},
        **{name: X.astype(name) for name in ("int64", "int32", "int16", "int8", "uint8")},
        **{"bool": X > 2, "two": X.reshape(2, 3), "scalar": np.array(3, np.float32), "empty": X[:0].reshape(0, 3)},
    }
    found = files.read(write(tmp_path / "a.pt", arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        read = found[name].read()
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes()), name


@WRITERS
def test_views_of_a_storage(write, tmp_path):
    views = {
        "t": Strided(X, 0, (3, 2), (1, 3)),
        "end": Strided(X, 4, (2,), (1,)),
        "one": Strided(X, 5, (1, 1), (2**40, 7)),
    }
    found = files.read(write(tmp_path / "a.pt", views))
    np.testing.assert_array_equal(found["t"].read(), X.reshape(2, 3).T)
    np.testing.assert_array_equal(found["end"].read(), X[4:])
    np.testing.assert_array_equal(found["one"].read(), [[5]])


@WRITERS
def test_bools_are_zero_and_one(write, tmp_path):
    # The storage of a tensor of bools may have any bytes
    path = write(tmp_path / "a.pt", {"x": np.frombuffer(b"\0\2\xff\1", np.uint8).view(bool)})
    assert files.read(path)["x"].read().view(np.uint8).tolist() == [0, 1, 1, 1]


@WRITERS
def test_a_checkpoint_of_lightning_opens(write, tmp_path):
    made = "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"
    state = Call("numpy.core.multiarray", "scalar", (Call("numpy", "dtype", ("f8", 0, 1)), "12345678"))
    held = {"epoch": 3, "callbacks": Raw(b"}" + name_of(*made) + Pickled({"best": state}).bytes[2:-1] + b"s")}
    held |= {"new": Raw(name_of(*made) + b")\x81" + b"}b"), "state_dict": {"model.w": X, "ema.w": X}}
    assert list(files.read(write(tmp_path / "a.ckpt", held), "state_dict")) == ["model.w", "ema.w"]


GLOBALS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("__builtin__", "exec"),
]
GLOBALS += [("builtins", "getattr"), ("torch", "load"), ("torch.storage", "_load_from_bytes"), ("os", "system\x85")]
GLOBALS += [("torch._utils", "_rebuild_tensor.__globals__"), ("collections", "OrderedDict.fromkeys"), ("a\u2028b", "c")]


@WRITERS
@pytest.mark.parametrize("module, name", GLOBALS)
def test_any_other_name_is_refused_by_name(write, tmp_path, module, name):
    path = with_opcodes(write, tmp_path / "a.pt", name_of(module, name))
    assert f"{module}.{name}" in refused(path, "nothing was run") or not f"{module}{name}".isprintable()
    texts = b"".join(b"\x8c" + bytes([len(text.encode())]) + text.encode() for text in (module, name))
    refused(with_opcodes(write, tmp_path / "a.pt", texts + b"\x93"), "nothing was run")


def attacks(path):
    """Opcodes that make a file where Python's own Unpickler reads them."""
    touch = f"touch {path}"
    text = lambda value: Pickled(value).bytes[2:-1]  # noqa: E731
    opened = f"open({str(path)!r}, 'w').close()"
    return {
        "os": name_of("os", "system") + text((touch,)) + b"R",
        "posix": name_of("posix", "system") + text((touch,)) + b"R",
        "eval": name_of("builtins", "eval") + text((opened,)) + b"R",
        "exec of Python 2": name_of("__builtin__", "exec") + text((opened,)) + b"R",
        "subprocess": name_of("subprocess", "check_call") + text((["touch", str(path)],)) + b"R",
        "new": name_of("subprocess", "Popen") + text((["touch", str(path)],)) + b"R",
        "instance": b"(" + text(touch) + b"ios\nsystem\n",
        "object": b"(" + name_of("os", "system") + text(touch) + b"o",
        "getattr": name_of("builtins", "getattr")
        + b"("
        + name_of("os", "path")
        + text("os")
        + b"tR0"
        + name_of("os", "system")
        + text((touch,))
        + b"R",
        "within": text({"x": [Raw(name_of("os", "system") + text((touch,)) + b"R")]}),
        "protocol 4": b"\x8c\x02os\x8c\x06system\x93" + text((touch,)) + b"R",
    }


@WRITERS
@pytest.mark.parametrize("attack", list(attacks("x")))
def test_no_code_is_run(write, tmp_path, attack):
    made = tmp_path / "made"
    opcodes = attacks(made)[attack]
    refused(with_opcodes(write, tmp_path / "a.pt", opcodes))
    assert not made.exists()
    if attack != "getattr":  # Which has no such attribute: it is refused before it could be asked
        result = pickle.loads(b"\x80\x02" + opcodes + b".")  # The attack is one: Python's own makes the file
        if attack == "new":
            result.wait(10)
        assert made.exists()


REDUCED = {
    "a type": name_of("torch", "float32") + b")R",
    "a storage": name_of("torch", "FloatStorage") + b")R",
    "text": TEXT + b"evil)R",
    "a list": b"])R",
    "state of a name": name_of("torch._utils", "_rebuild_tensor_v2") + b"}b",
    "new of a name": name_of("collections", "OrderedDict") + b")\x81",
    "state of a type": name_of("torch", "float32") + b"}b",
    "items of a name": name_of("torch._utils", "_rebuild_tensor_v2") + b"NNs",
    "extension": b"\x82\x01",
    "persistent text": b"Pos.system\n",
    "persistent number": b"K\x01Q",
    "many arguments": name_of("torch", "Size") + b"(" + b"N" * 100 + b"tR",
    "too few": b"R",
    "no mark": b"t",
    "no memo": b"h\x09",
    "nothing": b"",
    "not UTF-8": b"X\x01\0\0\0\xff",
    "self": b"}q\0" + TEXT + b"selfh\0s",
}


@WRITERS
@pytest.mark.parametrize("case", list(REDUCED))
def test_nothing_but_our_own_is_called(write, tmp_path, case):
    words = "repeat or nest" if case == "self" else "its pickle fails|should follow byte"
    refused(with_opcodes(write, tmp_path / "a.pt", REDUCED[case]), words)


@WRITERS
def test_long_numbers_are_refused(write, tmp_path):
    refused(with_opcodes(write, tmp_path / "a.pt", b"\x8b\xe8\3\0\0" + b"\x7f" * 1000), "a number of 1000 bytes")


@WRITERS
def test_values_that_nest_or_repeat_are_refused(write, tmp_path, monkeypatch):
    deep = {"x": X}
    for _ in range(100):
        deep = [deep]
    refused(write(tmp_path / "a.pt", deep), "repeat or nest")
    monkeypatch.setattr(nested, "MOST_VALUES", 1000)
    refused(with_opcodes(write, tmp_path / "b.pt", doubled(40)), "repeat or nest")


def doubled(times):
    """A list of a list twice, of a list twice, ...: 2^times values in a few bytes."""
    pairs = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(times))
    return b"]q\0" + pairs


BOMBS = {
    "memo": b"Nr\xff\xff\xff\x0f",
    "nested keys": b"}" + b")" + b"\x85" * 300_000 + b"Ns",
    "nested lists": b"]" * 300_000 + b"a" * 299_999,
    "marks": b"(" * 300_000,
    "doubled": doubled(100),
    "long number": b"\x8b\xff\xff\xff\x7f",
    "negative number": b"\x8b\xff\xff\xff\xff",
    "text": b"X\xff\xff\xff\xff",
    "text 8": b"\x8d" + b"\xff" * 8,
    "bytes 8": b"\x8e" + struct.pack("<Q", 2**40),
    "byte array": b"\x96" + struct.pack("<Q", 2**62),
    "frame": b"\x95" + struct.pack("<Q", 2**50) + b"N",
    "long key": b"}X" + struct.pack("<I", 10**6) + b"k" * 10**6 + b"Ns",
    "pairs again": b"]q\0("
    + b"K\1K\1\x86" * 20_000
    + b"e"
    + (name_of("collections", "OrderedDict") + b"h\0\x85R0") * 20_000,
}


@WRITERS
@pytest.mark.parametrize("bomb", list(BOMBS))
def test_bombs_cost_little(write, tmp_path, bomb):
    path = with_opcodes(write, tmp_path / "a.pt", BOMBS[bomb])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    assert time.perf_counter() - start < 20


LIES = {
    "beyond": Strided(X, 0, (7,), (1,)),
    "offset": Strided(X, 3, (4,), (1,)),
    "stride": Strided(X, 0, (2, 2), (5, 1)),
    "negative size": Strided(X, 0, (-1,), (1,)),
    "negative stride": Strided(X, 5, (6,), (-1,)),
    "negative offset": Strided(X, -1, (1,), (1,)),
    "2^60": Strided(X, 0, (2**60,), (1,)),
    "2^60 repeats": Strided(X, 0, (2**60,), (0,)),
    "repeats": Strided(X, 0, (7,), (0,)),
    "overflow": Strided(X, 0, (2**40, 2**40), (0, 0)),
    "overflow of nothing": Strided(X, 0, (2**61, 4, 0), (0, 0, 0)),
    "axes": Strided(X, 0, (1,) * 65, (1,) * 65),
    "strides": Strided(X, 0, (2,), (1, 1)),
    "no tuple": Strided(X, 0, (2,), [1]),
    "a number": Strided(X, 0, 2, 1),
    "truth": Strided(X, 0, (True,), (1,)),
    "float": Strided(X, 0, (2.0,), (1,)),
    "huge number": Strided(X, 2**100, (1,), (1,)),
}


@WRITERS
@pytest.mark.parametrize("lie", list(LIES))
def test_sizes_are_checked_against_the_storage(write, tmp_path, lie):
    assert "'x'" in refused(write(tmp_path / "a.pt", {"x": LIES[lie]}))


@WRITERS
@pytest.mark.parametrize("count", [-1, 7, 2**31, 2**60, 2**63, 2**80])
def test_storages_are_checked_against_the_file(write, tmp_path, count):
    made = Pickled({}, legacy=write is write_legacy)
    storage = made.storage(X, count)
    rest = Pickled((0, (6,), (1,), False, None)).bytes[3:-2]
    opcodes = b"}" + TEXT + b"name" + name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tRs"
    refused(with_opcodes(write, tmp_path / "a.pt", opcodes, {"x": X}))


@WRITERS
def test_another_byte_order_is_refused(write, tmp_path):
    other = {"byteorder": "big"} if write is write_zip else {"little_endian": False}
    refused(write(tmp_path / "a.pt", {"x": X}, **other), "byte order .*little-endian machine")


@WRITERS
def test_names_that_are_one_are_refused(write, tmp_path):
    refused(write(tmp_path / "a.pt", {"a": {"b": X}, "a/b": X}), "'a/b'")
    refused(write(tmp_path / "b.pt", {1: X, "1": X}), "'1'")
    refused(write(tmp_path / "c.pt", X), "name")
    refused(write(tmp_path / "d.pt", {"epoch": 1}), "holds no arrays")


def test_compressed_zips_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", {"x": np.zeros(10**6, np.float32)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    refused(path, "compressed, which PyTorch never does")


def directory(data):
    """(position in the central directory, name) of each entry of a zip."""
    at, found = data.index(b"PK\1\2"), {}
    while data[at : at + 4] == b"PK\1\2":
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        found[data[at + 46 : at + 46 + name].decode()] = at
        at += 46 + name + extra + comment
    return found


@pytest.mark.parametrize("field, value", [(42, 0), (42, 2**31), (20, 2**31), (24, 2**31), (8, 1)])
def test_entries_of_a_zip_lie_apart_and_within(tmp_path, field, value):
    path = write_zip(tmp_path / "a.pt", {"x": X, "y": X + 1})
    data = bytearray(path.read_bytes())
    at = directory(data)["archive/data/1"]
    struct.pack_into("<H" if field == 8 else "<I", data, at + field, value)
    path.write_bytes(data)
    refused(path)


def test_a_compressed_entry_of_the_same_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", {"x": X})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, directory(data)["archive/data/0"] + 10, zipfile.ZIP_DEFLATED)
    path.write_bytes(data)
    refused(path, "compressed, which PyTorch never does")


def test_a_zip_cannot_use_its_bytes_twice(tmp_path):
    path = write_zip(tmp_path / "a.pt", {"x": X, "y": X + 1})
    data = bytearray(path.read_bytes())
    places = directory(data)
    first = data[places["archive/data/0"] + 42 : places["archive/data/0"] + 46]
    data[places["archive/data/1"] + 42 : places["archive/data/1"] + 46] = first
    path.write_bytes(data)
    refused(path, "overlaps another")


def test_other_zips_and_pickles_say_what_they_are(tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    refused(tmp_path / "a.npz", "a zip, but no checkpoint")
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/code/__torch__/net.py", "class Net(Module): pass")
    refused(tmp_path / "a.pt", "a program of TorchScript's")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": 1}, protocol=2))
    refused(tmp_path / "a.pkl", "a pickle, but no checkpoint")


@WRITERS
def test_one_tensor_is_read_at_a_time(write, tmp_path):
    big = np.arange(2_000_000, dtype=np.float32)
    path = write(tmp_path / "a.pt", {"big": big, "small": X})
    found = files.read(path)
    with path.open("r+b") as file:  # What is not asked for may be gone
        start = path.read_bytes().index(big[1000:1010].tobytes())
        file.seek(start)
        file.write(b"\xff" * 40)
    np.testing.assert_array_equal(found["small"].read(), X)
    assert np.isnan(found["big"].read()[1000:1010]).all()
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="shorter since it was opened"):
        found["big"].read()


def test_whole_writes_what_python_reads():
    for value in (0, 5, -1, 2**31, -(2**31) - 1, 2**80):
        assert pickle.loads(b"\x80\x02" + whole(value) + b".") == value
