"""How often samplers ask, against what they are known to ask."""

import jax
import jax.numpy as jnp
import pytest

from marble.diffusion import linear
from marble.operations import num_calls
from marble.sampling import DDIM, PNDM, Ancestral, Heun, dpm_solver_2m, levels
from marble.typing import Prediction

SCHEDULE = linear()
SHAPE = (2, 2, 1)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Ancestral(), lambda n: n),
        (DDIM(), lambda n: n),
        (dpm_solver_2m(), lambda n: n),
        (Heun(SCHEDULE), lambda n: 2 * n - 1),  # the last step is Euler's
        (PNDM(SCHEDULE, skip_prk_steps=True), lambda n: n + 1),
        (PNDM(SCHEDULE), lambda n: n + 9),  # three steps of four evaluations
    ],
    ids=["ancestral", "ddim", "dpm_solver_2m", "heun", "pndm, skipping", "pndm"],
)
def test_every_question_of_a_sampler_is_counted(sampler, expected):
    shape = jax.ShapeDtypeStruct((3, *SHAPE), jnp.float32)
    for num_steps in (10, 12):
        grid = levels(SCHEDULE, num_steps, "trailing")
        assert num_calls(sampler, grid, num_steps, SHAPE, Prediction(shape, shape)) == expected(num_steps)
