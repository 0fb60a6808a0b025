import numpy as np
from scipy.spatial.distance import pdist

from mvflow.functional import pairwise_distance


def test_equals_scipys_distances(xp):
    draws = np.random.default_rng(0).normal(size=(5, 7, 3))
    got = np.asarray(pairwise_distance(xp.asarray(draws)))
    expected = [pdist(draws[:, row]).mean() / np.sqrt(3) for row in range(7)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_equal_draws_have_none_and_independent_ones_the_spread_of_their_distribution():
    draws = np.ones((4, 2, 3)) * np.arange(2)[None, :, None]
    np.testing.assert_array_equal(pairwise_distance(draws), [0, 0])
    rng = np.random.default_rng(0)
    found = pairwise_distance(3 * rng.normal(size=(8, 200, 500)))
    # the squared difference of two draws has mean 18; its root, with 500 features, bias 1e-3
    error = 4 * found.std() / np.sqrt(200) + 3e-3
    assert abs(found.mean() - np.sqrt(18)) < error


def test_what_is_not_known_is_left_out_of_both():
    """Each pair by the features that both have; a pair without any does not count."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 5, 3))
    draws[rng.random(draws.shape) < 0.4] = np.nan
    expected = []
    for row in draws.transpose(1, 0, 2):
        pairs = [row[i] - row[j] for i in range(4) for j in range(i)]
        known = [d[~np.isnan(d)] for d in pairs]
        expected.append(np.mean([np.sqrt(np.mean(d**2)) for d in known if len(d)]))
    np.testing.assert_allclose(pairwise_distance(draws), expected, rtol=1e-12)
