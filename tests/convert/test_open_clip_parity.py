"""OpenCLIP's names of a text network: what Stable Diffusion's own files hold is the network of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.clip_pair import TOKENS, arrays_of, assert_close, ours, theirs_of

from marble.convert import clip as table_of_clip
from marble.convert.names import params_of
from marble.convert.open_clip import of_open_clip
from marble.convert.tensors import held
from marble.errors import InputError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def open_clip_arrays(theirs, prefix):
    """Their text under OpenCLIP's names: q, k and v in one, the projection the other way round."""
    arrays, names = (
        {},
        {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj", "self_attn": "attn"},
    )
    state = arrays_of(theirs)
    for i in range(theirs.config.num_hidden_layers):
        within = f"text_model.encoder.layers.{i}."
        for name in [
            name for name in state if name.startswith(within) and not any(f".{c}_proj" in name for c in "qkv")
        ]:
            end = ".".join(names.get(part, part) for part in name.removeprefix(within).split("."))
            arrays[f"transformer.resblocks.{i}.{end}"] = state[name]
        for kind in ("weight", "bias"):
            three = [state[f"{within}self_attn.{c}_proj.{kind}"] for c in "qkv"]
            arrays[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = np.concatenate(three)
    arrays["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    arrays["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    arrays |= {f"ln_final.{kind}": state[f"text_model.final_layer_norm.{kind}"] for kind in ("weight", "bias")}
    arrays |= {"text_projection": state["text_projection.weight"].T, "logit_scale": np.float32(4.6)}
    return {prefix + name: np.asarray(array) for name, array in arrays.items()} | {"model.diffusion_model": np.zeros(3)}


def test_open_clip_s_text_is_read():
    theirs = theirs_of("CLIPTextModelWithProjection")
    model, params = ours(theirs)
    arrays = open_clip_arrays(theirs, "conditioner.embedders.1.model.")
    found = of_open_clip(held(arrays), model, prefix="conditioner.embedders.1.model.")
    read = params_of(table_of_clip.text(model), found, params["params"])
    jax.tree.map(np.testing.assert_array_equal, read, params["params"])


def test_stable_diffusion_2_reads_what_goes_into_open_clip_s_last_block():
    theirs = theirs_of("CLIPTextModelWithProjection")
    model = ours(theirs)[0].clone(num_layers=1, projection=None)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]
    tensors = held(open_clip_arrays(theirs, "cond_stage_model.model."))
    found = of_open_clip(tensors, model, prefix="cond_stage_model.model.")
    params = params_of(table_of_clip.text(model), found, shapes)
    with torch.no_grad():
        before = theirs(input_ids=torch.from_numpy(TOKENS).long(), output_hidden_states=True).hidden_states[-2]
        expected = theirs.text_model.final_layer_norm(before)
    assert_close(model.apply({"params": params}, TOKENS).last, expected, 1e-4)
    deeper = of_open_clip(held({"transformer.resblocks.5.ln_1.bias": np.zeros(24)}), model)
    with pytest.raises(InputError, match=r"text_model.encoder.layers.5.layer_norm1.bias \[24\] is not in this model"):
        params_of(table_of_clip.text(model), {**found, **deeper}, shapes)
