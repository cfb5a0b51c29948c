"""Files of adapters that are not of the model, or of another kind than LoRA, are refused in one line."""

import numpy as np
import pytest
from convert.lora_pair import QUERY, ZERO, Pair, assert_equal, read, small

from marble.errors import InputError

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def base():
    return Pair()


def test_a_text_encoder_is_refused_or_left_out(base):
    tensors = {**small(), "text_encoder.layers.0.q_proj.lora_A.weight": np.zeros((2, 8))}
    tensors["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"] = np.float32(1)
    with pytest.raises(
        InputError, match=r"x.bin adapts a text encoder too \(2 arrays, as text_encoder.layers.0.*=True"
    ):
        read(base, tensors)
    found, expected = read(base, tensors, ignore_text_encoder=True), read(base, small())
    assert found[0] == expected[0]
    assert_equal(found[1], expected[1])
    only = {name: array for name, array in tensors.items() if "te" in name.partition("unet")[0]}
    with pytest.raises(InputError, match="x.bin has no adapter of the unet"):
        read(base, only, ignore_text_encoder=True)


A, B = small()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({B: None}, rf"x.bin does not fit the model: {A} is there without its up$"),
        ({A: None}, rf"{B} is there without its down$"),
        ({A: ZERO((2, 31))}, rf"{A} is \[2, 31\] and must be \[2, 32\]$"),
        ({B: ZERO((32, 3))}, rf"{B} is \[32, 3\] and must be \[32, 2\]$"),
        ({A: ZERO((2, 32, 3, 3))}, rf"{A} is \[2, 32, 3, 3\] and must be \[2, 32\]$"),
        ({A: ZERO((0, 32)), B: ZERO((32, 0))}, r"\[0, 32\], and its rank, the first number, must be from 1 to 65536$"),
        ({A: np.broadcast_to(np.int8(0), (2**57, 32))}, "its rank, the first number, must be from 1 to 65536"),
        ({A: ZERO(())}, "its rank, the first number, must be from 1 to 65536"),
        (
            {f"lora_unet_{QUERY.replace('.', '_')}.lora_up.weight": ZERO((32, 2))},
            rf"lora_unet_.* and {B} are the same$",
        ),
        (
            small(QUERY.replace("attn1", "atn1")),
            r"atn1.to_q.lora_A.weight is of no layer .*did you mean '.*attn1.to_q'\?",
        ),
        (
            {"lora_unet_mid_block_attentions_0_proj_on.alpha": ZERO(())},
            "did you mean 'lora_unet_mid_block_attentions_0_proj_in'",
        ),
        ({f"unet.{QUERY}.hada_w1_a": ZERO((2, 2))}, "hada_w1_a is no weight of LoRA"),
        ({f"unet.{QUERY}.lora_magnitude_vector": ZERO(2)}, "lora_magnitude_vector is no weight of LoRA"),
        ({f"unet.{QUERY}.alpha": ZERO(2)}, r"alpha is \[2\] and must be one number"),
        ({f"unet.{QUERY}.alpha": ZERO(())}, "x.bin has alpha 0.0 for mid_block.*, and it must be a number above 0"),
        ({f"unet.{QUERY}.alpha": np.float32("nan")}, r"has NaN or infinity in unet\..*\.alpha"),
        (
            {f"unet.conv_{i}.lora_A.weight": ZERO((2, 2)) for i in range(9)},
            "conv_4.lora_A.weight [^;]*; [^;]*; and 4 more$",
        ),
        ({A: None, B: None}, "x.bin has no adapter of the unet: is it a file of LoRA"),
    ],
)
def test_what_does_not_fit_is_refused(base, change, message):
    tensors = {name: array for name, array in {**small(), **change}.items() if array is not None}
    with pytest.raises(InputError, match=message) as error:
        read(base, tensors)
    assert "\n" not in str(error.value) and str(error.value).startswith("x.bin ")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "that is not JSON"),
        ("[" * 100_000, "that is not JSON"),
        ("[1]", "that is no object"),
        ('{"unet.use_dora": true}', "is LoRA with use_dora, which"),
        (
            '{"unet.lora_bias": true, "unet.init_lora_weights": "pissa"}',
            "with lora_bias, init_lora_weights='pissa', which",
        ),
        ('{"unet.lora_alpha": "8"}', "has alpha '8' for"),
        ('{"unet.alpha_pattern": [1]}', r"has the alpha_pattern \[1\], and"),
        ('{"unet.lora_alpha": -1}', "has alpha -1 for"),
        ('{"unet.lora_alpha": 1e400}', "has alpha inf for"),
        ('{"unet.lora_alpha": ' + "9" * 400 + "}", "has alpha a number of more than 64 bits for"),
        ('{"unet.alpha_pattern": {"mid_block.*": 3}}', r"has an alpha_pattern 'mid_block\.\*', and"),
    ],
)
def test_metadata_that_is_no_plain_lora_is_refused(base, metadata, message):
    with pytest.raises(InputError, match=message) as error:
        read(base, small(), metadata)
    assert "\n" not in str(error.value) and str(error.value).startswith("x.bin ")


def test_metadata_of_another_part_says_nothing(base):
    assert read(base, small(), '{"text_encoder.lora_alpha": 7}')[0].alpha == 2
    assert read(base, small(), '{"text_encoder.lora_alpha": 7, "unet.lora_alpha": 5}')[0].alpha == 5
