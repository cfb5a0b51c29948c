"""BERT in transformers' files: names and configs."""

from collections.abc import Mapping
from typing import Any

from marble.convert.names import DENSE, Entry, attention, embedding, layer, norm, renamed, within
from marble.convert.published import check_supported
from marble.convert.tensors import Tensor, Tensors
from marble.convert.transformers_config import BLOCKS, Fields, read, written
from marble.errors import InputError
from marble.models.bert import Bert

NOT_READ = ("pooler.", "cls.", "embeddings.position_ids", "embeddings.token_type_ids")
"""How names begin of what files have and states need not: the last layer over the first token, those of the training's
tasks, and 0, 1, 2, ..."""

SUPPORTED = {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)}
FIELDS: Fields = {
    **BLOCKS,
    "vocab_size": ("vocab_size", 30522),
    "max_length": ("max_position_embeddings", 512),
    "width": ("hidden_size", 768),
    "num_heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 3072),
    "activation": ("hidden_act", "gelu"),
    "num_types": ("type_vocab_size", 2),
    "epsilon": ("layer_norm_eps", 1e-12),
}


def table(model: Bert) -> list[Entry]:
    """The table of BertModel without its pooler."""
    return [
        *embedding("tokens", "embeddings.word_embeddings"),
        *embedding("positions", "embeddings.position_embeddings"),
        *embedding("types", "embeddings.token_type_embeddings"),
        *norm("norm_in", "embeddings.LayerNorm"),
        *(e for i in range(model.num_layers) for e in within(f"block_{i}", f"encoder.layer.{i}.", _block())),
    ]


def _block() -> list[Entry]:
    return [
        *attention("attention", "attention", ("self.query", "self.key", "self.value", "output.dense")),
        *norm("norm_0", "attention.output.LayerNorm"),
        *layer("perceptron/dense_0", "intermediate.dense", DENSE),
        *layer("perceptron/dense_1", "output.dense", DENSE),
        *norm("norm_1", "output.LayerNorm"),
    ]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of any file of a BERT by the names of the table, without those that are ``NOT_READ``.

    Files of whole models have ``bert.`` before them, and the oldest call a norm's scale and bias gamma and beta.
    """

    def name_of(name: str) -> str | None:
        name = name.removeprefix("bert.")
        if name.startswith(NOT_READ):
            return None
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    return renamed(tensors, name_of)


def model_of(config: Mapping[str, Any], **options: Any) -> Bert:
    """The network of a config.json of transformers, which may be of a BERT with more on top.

    options, as dtype, are the network's. An InputError for what isn't supported.
    """
    if config.get("model_type") != "bert":
        raise InputError(f"config key model_type={config.get('model_type')!r} is not supported: it must be 'bert'")
    check_supported(config, "BertModel", SUPPORTED)
    return Bert(**read(config, FIELDS), **options)


def config_of(model: Bert) -> dict[str, Any]:
    """A config.json of transformers for it."""
    return {"architectures": ["BertModel"], "model_type": "bert", **written(model, FIELDS)}
