"""The same numbers of the same features as torch-fidelity's, whose functions take features and need no network."""

import numpy as np
import pytest
from fidelity_peer import imported, torch

from marble.metrics import Moments, frechet_distance, frechet_distance_of_features, inception_score, kid
from marble.metrics import precision_recall as ours_precision_recall

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(96, 96)) / 10
KERNEL = dict(
    **dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0),
    **dict(rng_seed=2020, verbose=False),
)


def features(n, shift=0.0, scale=1.0, dtype=np.float64):
    """As networks have them: above 0, correlated."""
    return np.maximum(scale * RNG.normal(size=(n, 96)) @ MIX + shift, 0).astype(dtype)


@pytest.mark.parametrize("n, m", [(500, 300), (300, 60), (40, 60)], ids=["above", "across", "below the dimension"])
@pytest.mark.parametrize("dtype, within", [(np.float64, 1e-6), (np.float32, 1e-4)])
def test_fid(n, m, dtype, within):
    theirs = imported("metric_fid")
    one, other = features(n, dtype=dtype), features(m, 0.2, 1.2, dtype)
    statistics = [theirs.fid_features_to_statistics(torch.tensor(rows)) for rows in (one, other)]
    expected = theirs.fid_statistics_to_metric(
        *[{k: v.astype(np.float64) for k, v in s.items()} for s in statistics], False
    )
    expected = expected[theirs.KEY_METRIC_FID]
    assert expected > 0.1
    moments = [Moments.of(rows) for rows in (one, other)]
    found = frechet_distance(*[array for each in moments for array in (each.mean, each.covariance)])
    assert found == pytest.approx(expected, rel=within)
    assert frechet_distance_of_features(one, other) == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("dtype, within", [(np.float64, 1e-9), (np.float32, 1e-3)])
def test_kid_draws_the_same_subsets(dtype, within):
    theirs = imported("metric_kid")
    one, other = features(250, dtype=dtype), features(200, 0.1, 1.1, dtype)
    sizes = dict(kid_subsets=7, kid_subset_size=100)
    expected = theirs.kid_features_to_metric(torch.tensor(one), torch.tensor(other), **sizes, **KERNEL)
    expected = expected[theirs.KEY_METRIC_KID_MEAN], expected[theirs.KEY_METRIC_KID_STD]
    assert kid(one, other, num_subsets=7, subset_size=100) == pytest.approx(expected, rel=within)
    generator = np.random.RandomState(2020)
    subsets = [tuple(generator.choice(n, 100, replace=False) for n in (250, 200)) for _ in range(7)]
    assert kid(one, other, subsets=subsets) == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("splits", [1, 10, 7])
def test_inception_score(splits, shuffle):
    theirs = imported("metric_isc")
    logits = 3 * features(205)
    expected = theirs.isc_features_to_metric(torch.tensor(logits), splits, shuffle, 2020)
    expected = expected[theirs.KEY_METRIC_ISC_MEAN], expected[theirs.KEY_METRIC_ISC_STD]
    assert inception_score(logits, splits=splits, shuffle=shuffle) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("in_parts", [True, False])
def test_precision_and_recall(k, in_parts):
    theirs = imported("metric_prc")
    real, fake = features(300), features(250, 0.05, 0.95)
    expected = theirs.prc_features_to_metric(
        torch.tensor(fake),
        torch.tensor(real),
        prc_neighborhood=k,
        prc_batch_size=64,
        save_cpu_ram=in_parts,
        verbose=False,
    )
    expected = expected[theirs.KEY_METRIC_PRECISION], expected[theirs.KEY_METRIC_RECALL]
    assert min(expected) > 0.02 and max(expected) < 0.98
    found = ours_precision_recall(real, fake, k=k)
    assert (found.precision, found.recall) == pytest.approx(expected, rel=1e-6)
