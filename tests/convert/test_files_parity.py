"""Files that PyTorch, safetensors' torch side, transformers and flax wrote themselves, read bit for bit."""

import numpy as np
import pytest

from marble.convert import files, safetensors_file
from marble.errors import InputError

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("safetensors.torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

FORMATS = pytest.mark.parametrize("zipped", [True, False])
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"]
NEW = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def of_dtype(name, *shape):
    torch.manual_seed(0)
    return (torch.randn(shape) * 50).abs().to(getattr(torch, name))


def check(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        read = found[name].read()
        assert read.shape == found[name].shape == tuple(tensor.shape), name
        assert read.dtype == found[name].dtype and read.dtype.name == str(tensor.dtype).removeprefix("torch."), name
        assert read.tobytes() == bits(tensor), name
        assert read.flags.writeable and read.flags.c_contiguous


def save(path, value, zipped):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_every_type_and_shape(tmp_path, zipped):
    names = DTYPES + (NEW if zipped else [])
    tensors = {name: of_dtype(name, 3, 4) for name in names}
    tensors |= {"scalar": of_dtype("float32"), "empty": torch.zeros(0, 3), "scalar_bool": torch.tensor(True)}
    tensors |= {"one": of_dtype("bfloat16", 1), "big": of_dtype("float32", 2, 3, 4, 5, 1)}
    check(files.read(save(tmp_path / "a.pt", tensors, zipped)), tensors)


@FORMATS
def test_views_of_one_storage(tmp_path, zipped):
    x = of_dtype("float32", 6, 4)
    tensors = {"x": x, "t": x.T, "row": x[2], "column": x[:, 1], "step": x[1::2, ::3], "part": x.view(-1)[5:9]}
    tensors |= {
        "permuted": x.view(2, 3, 4).permute(2, 0, 1),
        "none": x[3:3],
        "one": x[:1].T,
        "kept": x[5:].expand(1, 4),
    }
    check(files.read(save(tmp_path / "a.pt", tensors, zipped)), tensors)


@FORMATS
def test_parameters_state_dicts_and_what_training_leaves(tmp_path, zipped):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    held = {"ema": model.state_dict(), "model": dict(model.named_parameters()), "opt": optimizer.state_dict()}
    held |= {"epoch": 3, "loss": 0.5, "name": "x", "device": torch.device("cpu"), "shape": torch.Size([2, 3])}
    held |= {"dtype": torch.float16, "step": np.float64(3.0), "array": np.ones(3), "set": {1, 2}, "bytes": b"123"}
    path = save(tmp_path / "a.ckpt", held, zipped)
    for part in ("ema", "model"):
        check(files.read(path, part), model.state_dict())
    state = optimizer.state_dict()["state"]
    check(files.read(path, "opt/state/1"), state[1])
    listed = save(tmp_path / "list.ckpt", [model.state_dict(), optimizer.state_dict()], zipped)
    check(files.read(listed, "0"), model.state_dict())
    assert files.parts(files.read(path)) == ["ema", "model", "opt"]


@FORMATS
def test_repeated_numbers_are_refused(tmp_path, zipped):
    path = save(tmp_path / "a.pt", {"x": torch.zeros(1).expand(10**9)}, zipped)
    with pytest.raises(InputError, match="repeats its numbers"):
        files.read(path)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_newer_pickles(tmp_path, zipped, protocol):
    tensors = {"a": of_dtype("float32", 2, 2), "p": torch.nn.Parameter(of_dtype("float16", 3))}
    path = tmp_path / "a.pt"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    check(files.read(path), tensors)


@FORMATS
def test_a_whole_module_is_refused(tmp_path, zipped):
    with pytest.raises(InputError, match="asks for torch.nn.modules.linear.Linear|a storage is"):
        files.read(save(tmp_path / "a.pt", torch.nn.Linear(2, 2), zipped))


def test_a_traced_module_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(InputError, match="a program of TorchScript's.*give a file of its weights alone"):
        files.read(tmp_path / "a.pt")


def test_safetensors_both_ways(tmp_path):
    names = [name for name in DTYPES + NEW]
    tensors = {name: of_dtype(name, 3, 2) for name in names} | {"scalar": torch.tensor(2.0), "empty": torch.zeros(2, 0)}
    theirs.save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    found = files.read(tmp_path / "theirs.safetensors")
    check({name: found[name] for name in tensors}, tensors)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()}
    arrays = ((name, tensor.read()) for name, tensor in reversed(found.items()))
    safetensors_file.write(tmp_path / "ours.safetensors", arrays, shapes, metadata={"format": "pt"})
    loaded = theirs.load_file(tmp_path / "ours.safetensors")
    assert {name: bits(tensor) for name, tensor in loaded.items()} == {name: bits(t) for name, t in tensors.items()}
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_shards_of_transformers(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)
    model = CLIPTextModel(CLIPTextConfig(**sizes, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    found = files.read(index)
    expected = {name: tensor for name, tensor in model.state_dict().items() if name in found}
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 and len(found) == len(dict(model.named_parameters()))
    check({name: found[name] for name in expected}, expected)


def test_msgpack_of_flax(tmp_path, monkeypatch):
    import jax.numpy as jnp
    from flax import serialization

    arrays = {"a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "half": jnp.ones((2, 2), jnp.bfloat16)}}
    arrays["b"] = {"0": np.array([True, False]), "s": np.float32(2.5), "empty": np.zeros((0, 3), np.int32)}
    arrays["c"] = {"long": np.arange(10, dtype=np.float64).reshape(5, 2)}
    left_out = {"d": {"complex": 1j, "number": 3, "text": "x", "none": None, "real": 1.5}}
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 24)
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(arrays | left_out))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    found = files.read(path)
    expected = {f"{k}/{n}": np.asarray(a) for k, group in arrays.items() for n, a in group.items()}
    assert set(found) == set(expected)
    for name, array in expected.items():
        read = found[name].read()
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes()), name
