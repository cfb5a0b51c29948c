"""Which network a file of weights is of, by the names of its arrays."""

import numpy as np
import pytest

from marble.conversion import kind_of_file
from marble.convert.tensors import held
from marble.errors import InputError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.double_blocks.0.weight", "is Flux; supported are Stable Diffusion by CompVis"),
        ("model.diffusion_model.joint_blocks.0.weight", "is Stable Diffusion 3; supported are"),
        ("down_blocks.0.resnets.0.conv1.weight", "is a network by diffusers' names, .* give its folder; supported are"),
        (
            "transformer_blocks.0.attn1.to_q.weight",
            "is a network by diffusers' names, .* give its folder; supported are",
        ),
        (
            "text_model.embeddings.position_embedding.weight",
            "is a CLIP by transformers' names, .* give its folder; supp",
        ),
        ("embeddings.token_embedding.weight", "is a network by transformers' names, .* give its folder; supported are"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", r"is a file of adapters \(LoRA\), .* --lora; supp"),
        ("weight", "holds none of the networks that are known; supported are"),
    ],
)
def test_other_files_are_refused_with_what_is_supported(name, message):
    with pytest.raises(InputError, match=f"^it {message}.*iDDPM and ADM.*DiT.*DDPM"):
        kind_of_file(held({name: np.zeros(1)}), "it")
