"""BERT beside transformers': the same states of the same weights, there and back, and each other's files and configs.

With MARBLE_MINILM, a folder that has model.safetensors, config.json and tokenizer.json of all-MiniLM-L6-v2, its own
weights too.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import bert as table_of_bert
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models.bert import Bert, sentence_embedding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.parity

SMALL = dict(
    **dict(hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2, vocab_size=30),
    **dict(max_position_embeddings=9, type_vocab_size=3),
)
BLOCK = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096, num_hidden_layers=1)
TOKENS = np.asarray([[28, 5, 29, 0, 0, 0, 0], [28, 1, 2, 3, 4, 5, 29]], np.int32)
MASK = np.asarray([[1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]], np.int32)
TYPES = np.asarray([[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 2, 2, 1, 0]], np.int32)


def drawn(config, std=0.15, **options):
    """A network of theirs in which every number counts, its norms' scales about 1."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**config), **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(("LayerNorm.weight" in name) + std * torch.randn(parameter.shape))
    return model


def arrays_of(model):
    return {name: parameter.detach().numpy() for name, parameter in model.state_dict().items()}


def read(model, arrays):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]
    return params_of(table_of_bert.table(model), table_of_bert.as_now(held(arrays)), shapes)


def ours(theirs, **options):
    """Our network, made of their config, and its parameters, of their arrays."""
    model = table_of_bert.model_of(theirs.config.to_dict(), **options)
    return model, {"params": read(model, arrays_of(theirs))}


def as_theirs(array):
    return None if array is None else torch.from_numpy(array).long()


@pytest.mark.parametrize("dtype, within", [(jnp.float32, 1e-4), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config, std, mask, types",
    [
        (SMALL, 0.15, None, None),
        ({**SMALL, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}, 0.15, MASK, TYPES),
        ({**SMALL, "hidden_act": "relu"}, 0.15, MASK, None),
        ({**SMALL, **BLOCK}, 0.05, MASK, TYPES),
    ],
    ids=["gelu", "gelu_new, masked, of two texts", "relu, masked", "a full-size block"],
)
def test_states(config, std, mask, types, dtype, within):
    theirs = drawn(config, std)
    model, params = ours(theirs, dtype=dtype)
    with torch.no_grad():
        whole = theirs(as_theirs(TOKENS), attention_mask=as_theirs(mask), token_type_ids=as_theirs(types))
    expected = whole.last_hidden_state.numpy()
    found = jax.jit(model.apply)(params, TOKENS, mask, types)
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())


def test_there_and_back_nothing_changes():
    theirs = drawn(SMALL, add_pooling_layer=False)
    model, params = ours(theirs)
    back = dict(tensors_of(table_of_bert.table(model), params["params"]))
    assert set(back) == set(arrays_of(theirs))
    for name, array in arrays_of(theirs).items():
        np.testing.assert_array_equal(back[name], array)


def test_what_is_written_transformers_loads(tmp_path):
    theirs = drawn(SMALL, add_pooling_layer=False)
    model, params = ours(theirs)
    (tmp_path / "config.json").write_text(json.dumps(table_of_bert.config_of(model)))
    arrays = dict(tensors_of(table_of_bert.table(model), params["params"]))
    safetensors_numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, told = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    for (key, one), other in zip(loaded.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_files_with_more_in_them_and_the_oldest_names_are_read():
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**SMALL))
    arrays = arrays_of(theirs) | {"bert.embeddings.position_ids": np.arange(9)[None]}
    oldest = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in arrays.items()
    }
    model, params = ours(theirs.bert)
    for found in (arrays, oldest):
        jax.tree.map(np.testing.assert_array_equal, read(model, found), params["params"])


def test_a_network_s_config_is_its_own():
    for model in (Bert(), Bert(vocab_size=7, hidden=5, activation="silu", num_types=1, epsilon=1e-5, max_length=3)):
        config = table_of_bert.config_of(model)
        assert table_of_bert.model_of(config) == model
        assert table_of_bert.model_of(transformers.BertConfig(**config).to_dict()) == model
    defaults = transformers.BertConfig().to_dict()
    assert table_of_bert.model_of({"model_type": "bert"}) == table_of_bert.model_of(defaults)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "roberta"}, "model_type='roberta' is not supported: it must be 'bert'"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' .* what is, is 'absolute'",
        ),
        ({"is_decoder": True}, "is_decoder=True is not supported: what is, is False"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not supported: it can be quick_gelu, gelu"),
        ({"hidden_size": 2.5}, "hidden_size=2.5 is not supported: it must be a whole number"),
    ],
)
def test_what_is_not_supported_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        table_of_bert.model_of({"model_type": "bert", **config})


SENTENCES = [
    *("dog", "puppy", "car", "A man is playing a guitar on the stage.", "Somebody makes music for an audience."),
    "The stock market fell by three per cent on Tuesday, the most in a year.",
]


@pytest.mark.skipif("MARBLE_MINILM" not in os.environ, reason="MARBLE_MINILM names no folder of all-MiniLM-L6-v2")
def test_minilm_s_sentences():
    tokenizers = pytest.importorskip("tokenizers")
    folder = Path(os.environ["MARBLE_MINILM"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(SENTENCES)
    tokens, mask = (np.asarray([getattr(row, key) for row in rows], np.int32) for key in ("ids", "attention_mask"))
    model = table_of_bert.model_of(json.loads((folder / "config.json").read_text()))
    assert model == Bert()
    params = {"params": read(model, safetensors_numpy.load_file(folder / "model.safetensors"))}
    found = np.asarray(sentence_embedding(jax.jit(model.apply)(params, tokens, mask), jnp.asarray(mask)))
    np.testing.assert_allclose(found, embeddings_of_theirs(folder, tokens, mask), rtol=0, atol=1e-4)
    dog, puppy, car, guitar, *_ = found
    assert dog @ puppy > dog @ car + 0.1
    assert np.argmax(found[4:] @ guitar) == 0  # of music and the last, which differ by more than rounding


def embeddings_of_theirs(folder, tokens, mask):
    """The mean over the tokens that are there, of length 1, in PyTorch."""
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = theirs(as_theirs(tokens), attention_mask=as_theirs(mask)).last_hidden_state
    weights = torch.from_numpy(mask)[..., None].float()
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1)).numpy()
