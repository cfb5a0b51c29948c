"""The arrays of DiT by the names of diffusers and by those of the paper's own files: the same layers in both."""

from typing import NamedTuple

from marble.convert.blocks import TO_QKV
from marble.convert.names import CONV, DENSE, Entry, Layout, attention, embedding, layer
from marble.models.dit import DiT


class Names(NamedTuple):
    """What a file calls the layers of this network."""

    patches: str
    time: tuple[str, str]
    label: str
    modulation_out: str
    dense_out: str
    block: str
    """Of block i; what follows is within one."""
    modulation: str
    attention: str
    attention_layers: tuple[str, str, str, str]
    """Query, key, value and what comes after."""
    perceptron: tuple[str, str]


EMBEDDINGS = "transformer_blocks.0.norm1.emb"
DIFFUSERS = Names(
    patches="pos_embed.proj",
    time=(f"{EMBEDDINGS}.timestep_embedder.linear_1", f"{EMBEDDINGS}.timestep_embedder.linear_2"),
    label=f"{EMBEDDINGS}.class_embedder.embedding_table",
    modulation_out="proj_out_1",
    dense_out="proj_out_2",
    block="transformer_blocks.{i}",
    modulation="norm1.linear",
    attention="attn1",
    attention_layers=TO_QKV,
    perceptron=("ff.net.0.proj", "ff.net.2"),
)
"""With the embeddings of time and label in the first block alone."""
PAPER = Names(
    patches="x_embedder.proj",
    time=("t_embedder.mlp.0", "t_embedder.mlp.2"),
    label="y_embedder.embedding_table",
    modulation_out="final_layer.adaLN_modulation.1",
    dense_out="final_layer.linear",
    block="blocks.{i}",
    modulation="adaLN_modulation.1",
    attention="attn",
    attention_layers=("q", "k", "v", "proj"),
    perceptron=("mlp.fc1", "mlp.fc2"),
)
"""With query, key and value apart."""


def entries(model: DiT, names: Names) -> list[Entry]:
    """The table by these names."""
    found = layer("patches", names.patches, _patches(model.patch_size))
    for i, there in enumerate(names.time):
        found += layer(f"conditioning/time_{i}", there, DENSE)
    if model.num_classes is not None:
        found += embedding("conditioning/label", names.label)
    for i in range(model.num_layers):
        found += _block(f"block_{i}", names.block.format(i=i), names)
    return found + layer("modulation_out", names.modulation_out, DENSE) + layer("dense_out", names.dense_out, DENSE)


def _block(ours: str, theirs: str, names: Names) -> list[Entry]:
    found = layer(f"{ours}/modulation", f"{theirs}.{names.modulation}", DENSE)
    found += attention(f"{ours}/attention", f"{theirs}.{names.attention}", names.attention_layers)
    for i, there in enumerate(names.perceptron):
        found += layer(f"{ours}/perceptron/dense_{i}", f"{theirs}.{there}", DENSE)
    return found


def _patches(size: int) -> Layout:
    """A convolution [out in h w] over patches that don't overlap <-> a dense layer [h*w*in out] of each patch."""
    return Layout(
        lambda a: CONV.to_ours(a).reshape(-1, a.shape[0]),
        lambda a: CONV.to_theirs(a.reshape(size, size, -1, a.shape[-1])),
    )
