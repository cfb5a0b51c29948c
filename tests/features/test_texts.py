"""CLIP's embeddings of texts: those of the network for the tokenizer's tokens, however many there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vocabularies

from marble.convert import clip, folder
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.features import embed_texts
from marble.models import Clip, ClipText, ClipVision

TINY = dict(width=24, num_layers=1, num_heads=3, projection=10)
TEXTS = ["a photo of a cat", "two dogs", "a mat", "the year 2024", "snow"]


def written(path):
    """A folder of a small CLIPModel with a tokenizer; the model and its parameters."""
    vocabularies.write_clip(path, **vocabularies.of_stable_diffusion(1))
    vocab, _ = vocabularies.clip_bpe()
    model = Clip(
        ClipText(vocab_size=len(vocab), max_length=9, eos_token_id=len(vocab) - 1, **TINY), ClipVision(8, 4, **TINY)
    )
    inputs = jnp.zeros((1, 9), jnp.int32), jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    folder.write_part(path, clip.config_of(model), clip.table(model), params)
    return model, params


def test_embeddings_are_the_network_s_whatever_the_batch(tmp_path):
    model, params = written(tmp_path)
    tokens = Tokenizer.open(tmp_path, max_length=9).encode(TEXTS)[0]
    expected = jax.jit(lambda p, t: model.apply(p, t, method="encode_text"))({"params": params}, tokens)
    assert np.abs(expected - expected[:1]).max() > 0.1
    np.testing.assert_allclose(embed_texts(tmp_path, TEXTS, batch_size=2), expected, atol=1e-5)


def test_no_text_and_another_network_are_refused(tmp_path):
    model, params = written(tmp_path)
    with pytest.raises(InputError, match="no texts are given"):
        embed_texts(tmp_path, [])
    folder.write_part(tmp_path, clip.config_of(model.vision), clip.table(model.vision), params["vision"])
    with pytest.raises(InputError, match="holds a CLIPVisionModelWithProjection, which does not read texts"):
        embed_texts(tmp_path, TEXTS)
