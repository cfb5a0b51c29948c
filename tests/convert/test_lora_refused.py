"""Files of adapters whose numbers are none; the rest of what is refused: test_lora_refused_parity."""

import jax
import numpy as np
import pytest
import small_networks

from marble.convert import lora
from marble.convert.tensors import held
from marble.errors import InputError

NETWORK = small_networks.classes()
QUERY = "transformer.transformer_blocks.0.attn1.to_q"
DOWN, UP = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"


def read(change):
    tensors = {DOWN: np.ones((2, 16), np.float32), UP: np.ones((16, 2), np.float32), **change}
    return lora.read(held(tensors), NETWORK.table, NETWORK.shapes(), part="transformer", source="x.bin")


def test_what_is_whole_is_read():
    found, pairs = read({})
    assert (found.rank, found.alpha) == (2, 2)
    assert sorted(array.shape for array in jax.tree.leaves(pairs)) == [(2, 16), (16, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({DOWN: np.ones((2, 16), np.int32)}, f"{DOWN} is of int32 and must be of floats"),
        ({UP: np.ones((16, 2), np.complex64)}, f"{UP} is of complex64 and must be of floats"),
        ({DOWN: np.full((2, 16), np.nan, np.float32)}, f"has NaN or infinity in {DOWN}:"),
        ({UP: np.full((16, 2), np.inf, np.float16)}, f"has NaN or infinity in {UP}:"),
        (
            {DOWN: np.ones((0, 16), np.float32), UP: np.ones((16, 0), np.float32)},
            rf"{DOWN} is \[0, 16\], and its rank, the first number, must be from 1 to 65536$",
        ),
    ],
)
def test_what_has_no_numbers_is_refused(change, message):
    with pytest.raises(InputError, match=message) as error:
        read(change)
    assert str(error.value).startswith("x.bin ") and "\n" not in str(error.value)
