"""Which file is which, indices with their shards, and files that are none."""

import json
import os

import msgpack
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import write_legacy, write_zip

from marble.convert import files
from marble.errors import InputError

X = np.arange(6, dtype=np.float32)


def safetensors(path, arrays=None):
    save_file(arrays or {"x": X}, path)
    return path


def flax(path):
    array = msgpack.ExtType(1, msgpack.packb(((6,), "float32", X.tobytes())))
    path.write_bytes(msgpack.packb({"x": array}))
    return path


def torch_zip(path):
    return write_zip(path, {"x": X})


def torch_legacy(path):
    return write_legacy(path, {"x": X})


def refused(path, words, part=None):
    """The one line of the InputError, which begins with the path."""
    with pytest.raises(InputError, match=words) as caught:
        files.read(path, part)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.startswith(str(path)) and len(line) < 600
    return line


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ""])
@pytest.mark.parametrize("make", [safetensors, torch_zip, torch_legacy, flax])
def test_a_file_is_what_is_in_it(tmp_path, make, suffix):
    if suffix == ".safetensors" and make is not safetensors:
        refused(make(tmp_path / f"a{suffix}"), "damaged: its header should have")
        return
    found = files.read(make(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(found["x"].read(), X)


@pytest.mark.parametrize("names", range(1, 60))
def test_a_header_of_any_length_is_told_from_the_other_formats(tmp_path, names):
    # Its first bytes are its length: those of a pickle, a map of msgpack, a { and a zip come up too
    for first, second in ((0x80, 2), (0x80, 4), (0x7B, 0), (0x50, 0x4B), (0x88, 0), (0x3C, 0x68)):
        length = first + 256 * second
        text = json.dumps({"x": {"dtype": "U8", "shape": [names], "data_offsets": [0, names]}}).encode()
        if len(text) <= length:
            path = tmp_path / "weights"
            path.write_bytes(length.to_bytes(8, "little") + text.ljust(length) + bytes(names))
            assert files.read(path)["x"].shape == (names,)


def test_a_brace_alone_makes_no_safetensors(tmp_path):
    array = msgpack.ExtType(1, msgpack.packb(((6,), "float32", X.tobytes())))
    (tmp_path / "a").write_bytes(msgpack.packb({"abcdef{": array}))
    assert (tmp_path / "a").read_bytes()[8:9] == b"{"
    assert list(files.read(tmp_path / "a")) == ["abcdef{"]


NOT_WEIGHTS = {
    "empty": (b"", "is empty: download"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "a pointer of Git LFS.*git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html><html>", "a web page, not weights"),
    "xml": (b"<?xml version='1.0'?><Error>", "a web page, not weights"),
    "text": (b"Entry not found\n", "is text, not weights"),
    "json": (b'{"error": "x"}', "no weight_map"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "does not read"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 99, "does not read"),
    "zeros": (b"\0" * 99, "does not read"),
    "short": (b"\x80", "does not read"),
    "numpy": (b"\x93NUMPY\x01\x00", "does not read"),
}


@pytest.mark.parametrize("case", list(NOT_WEIGHTS))
def test_what_is_no_weights_says_so(tmp_path, case):
    content, words = NOT_WEIGHTS[case]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    refused(path, words)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".msgpack", ".index.json"])
def test_a_pointer_says_so_under_any_name(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(NOT_WEIGHTS["pointer"][0])
    refused(path, "git lfs pull")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "none.pt", "is not there")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no plain file")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    refused(tmp_path / "link", "is not there")
    refused(tmp_path / ("a" * 300), "is not there|can't be read")
    refused(torch_zip(tmp_path / "a.pt") / "b", "is not there|can't be read")


def test_a_file_that_has_gone(tmp_path):
    tensor = files.read(safetensors(tmp_path / "a.safetensors"))["x"]
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(InputError, match="can't be read"):
        tensor.read()


def test_parts(tmp_path):
    path = write_zip(
        tmp_path / "a.pt", {"epoch": 3, "ema": {"w": X}, "model": {"w": X + 1, "deep": [{"v": X}]}, "top": X}
    )
    found = files.read(path)
    assert list(found) == ["ema/w", "model/w", "model/deep/0/v", "top"] and files.parts(found) == ["ema", "model"]
    assert list(files.read(path, "model")) == ["w", "deep/0/v"]
    np.testing.assert_array_equal(files.read(path, "model")["w"].read(), X + 1)
    assert list(files.read(path, "model/deep/0")) == ["v"]
    refused(path, "no part 'state_dict'; its parts are ema, model", "state_dict")
    refused(torch_zip(tmp_path / "b.pt"), "none: all its arrays are at the top", "ema")


def sharded(folder, weight_map=None, name="model.safetensors.index.json", make=safetensors):
    """Two shards with x, y and z, and their index."""
    suffix = {safetensors: "safetensors", write_zip: "bin"}[make]
    make(folder / f"1.{suffix}", {"x": X, "y": X + 1})
    make(folder / f"2.{suffix}", {"z": X + 2})
    default = {"x": f"1.{suffix}", "z": f"2.{suffix}", "y": f"1.{suffix}"}
    index = {"metadata": {"total_size": 72}, "weight_map": default if weight_map is None else weight_map}
    (folder / name).write_text(json.dumps(index))
    return folder / name


@pytest.mark.parametrize(
    "make, name", [(safetensors, "model.safetensors.index.json"), (write_zip, "pytorch_model.bin.index.json")]
)
def test_shards(tmp_path, make, name):
    found = files.read(sharded(tmp_path, name=name, make=make))
    assert list(found) == ["x", "z", "y"]
    for i, key in enumerate("xyz"):
        np.testing.assert_array_equal(found[key].read(), X + i)


def test_shards_by_links_as_in_a_cache(tmp_path):
    (tmp_path / "blobs").mkdir(), (tmp_path / "snapshot").mkdir()
    index = sharded(tmp_path / "snapshot")
    for name in ("1.safetensors", "2.safetensors"):
        (tmp_path / "snapshot" / name).rename(tmp_path / "blobs" / name)
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    assert len(files.read(index)) == 3


GOOD = {"x": "1.safetensors", "y": "1.safetensors", "z": "2.safetensors"}
BAD_MAPS = {
    "lacks": ({"x": "1.safetensors", "z": "2.safetensors"}, "lacks names that '1.safetensors' holds, y"),
    "lists": ({**GOOD, "more{0}{}": "2.safetensors"}, "lists names that '2.safetensors' lacks, more"),
    "another shard": ({**GOOD, "y": "2.safetensors"}, "names that"),
    "no shard": ({**GOOD, "y": "3.safetensors"}, "lists the file '3.safetensors', which is not there"),
    "above": ({**GOOD, "y": "../1.safetensors"}, "not in its folder"),
    "within": ({**GOOD, "y": "a/1.safetensors"}, "not in its folder"),
    "absolute": ({**GOOD, "y": "/etc/passwd"}, "not in its folder"),
    "windows": ({**GOOD, "y": "..\\1.safetensors"}, "not in its folder"),
    "dots": ({**GOOD, "y": ".."}, "not in its folder"),
    "dot": ({**GOOD, "y": "."}, "not in its folder"),
    "no name": ({**GOOD, "y": ""}, "not in its folder"),
    "zero": ({**GOOD, "y": "1\0.safetensors"}, "not in its folder"),
    "surrogate": ({**GOOD, "y": "\ud800"}, "not in its folder"),
    "long": ({**GOOD, "y": "é" * 3000}, "not in its folder"),
    "itself": ({**GOOD, "y": "model.safetensors.index.json"}, "an index itself"),
    "number": ({**GOOD, "y": 3}, "no weight_map"),
    "list": (["1.safetensors"], "no weight_map"),
    "empty": ({}, "no weight_map"),
}


@pytest.mark.parametrize("case", list(BAD_MAPS))
def test_indices_that_lie(tmp_path, case):
    weight_map, words = BAD_MAPS[case]
    refused(sharded(tmp_path, weight_map), words)


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"weight_map": ', '{"weight_map":' * 50_000, '{"a":1,"a":2}', "\ud800"]
)
def test_indices_that_are_none(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    refused(path, "is damaged|no weight_map")


def test_a_bad_shard_is_named(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / "2.safetensors").write_bytes(NOT_WEIGHTS["pointer"][0])
    with pytest.raises(InputError, match=r"2\.safetensors is a pointer of Git LFS"):
        files.read(index)


def test_many_names_are_counted(tmp_path):
    line = refused(
        sharded(tmp_path, GOOD | {f"n{i}": "1.safetensors" for i in range(9)}), "lacks, n0, n1, n2, n3, n4 and 4 more"
    )
    assert "n5" not in line
