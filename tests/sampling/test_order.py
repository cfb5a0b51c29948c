"""Orders of convergence, by the slope of the error against the exact paths of mixture data, in float64."""

import pytest
from mixture import order_of_convergence

from marble.diffusion import cosine
from marble.sampling import DDIM, PNDM, DPMSolver, Euler, Heun, UniPC

SCHEDULE = cosine()


def with_corrected(memory, x):
    return memory._replace(x=x)


@pytest.mark.parametrize(
    "sampler, order, exact_steps",
    [
        (Euler(SCHEDULE), 1, 0),
        (DDIM(), 1, 0),
        (Heun(SCHEDULE), 2, 0),
        (PNDM(SCHEDULE), 2, 0),  # the pseudo transfer is of order 2, whatever the order of the average
        (DPMSolver(2, lower_order_final=False), 2, 1),
        (DPMSolver(3, corrected=False, lower_order_final=False), 2, 2),  # as published: half of its quadratic term
        (DPMSolver(3, corrected=True, lower_order_final=False), 3, 2),
    ],
)
def test_the_error_falls_by_the_order(x64, sampler, order, exact_steps):
    assert order_of_convergence(sampler, SCHEDULE, exact_steps=exact_steps) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order, variant", [(1, "bh1"), (1, "bh2"), (2, "bh1"), (2, "bh2"), (3, "bh1"), (3, "bh2")])
def test_the_corrector_of_unipc_adds_one_to_the_order_of_its_predictor(x64, order, variant):
    # Zhao et al. 2023, theorem 3.1 with corollary 3.2: UniPC-p is of order p + 1.
    sampler = UniPC(order, variant, lower_order_final=False)
    slope = order_of_convergence(sampler, SCHEDULE, exact_steps=order, remember=with_corrected)
    assert slope == pytest.approx(order + 1, abs=0.3)
