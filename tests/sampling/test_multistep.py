"""The integrals of exponential integrators, against quadrature."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from marble.sampling.multistep import interpolation_weights, moments


def integral(of, h):
    return quad(lambda tau: h * np.exp(-h * (1 - tau)) * of(tau), 0, 1, epsabs=1e-14, epsrel=1e-13)[0]


@pytest.mark.parametrize("h", [1e-6, 1e-2, 0.5, 0.999, 1.001, 3.0, 30.0])
def test_moments_are_the_integrals_of_powers(x64, h):
    expected = [integral(lambda tau, k=k: tau**k, h) for k in range(4)]
    np.testing.assert_allclose(moments(jnp.asarray(h), 4), expected, rtol=1e-10)
    np.testing.assert_allclose(moments(jnp.float32(h), 4), expected, rtol=3e-6)


def test_moments_of_the_step_to_the_clean_level_are_one():
    np.testing.assert_array_equal(moments(jnp.float32(jnp.inf), 3), 1)


def test_weights_integrate_every_polynomial_through_their_nodes(x64):
    h, nodes = 0.7, [0.0, 1.0, -0.8, -2.1]
    weights = interpolation_weights([jnp.asarray(node) for node in nodes], jnp.asarray(h))
    for power in range(4):
        total = sum(w * node**power for w, node in zip(weights, nodes, strict=True))
        assert total == pytest.approx(integral(lambda tau, k=power: tau**k, h), rel=1e-10)
