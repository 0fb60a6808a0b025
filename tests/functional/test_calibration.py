"""Ranks, counts, coverage: against their definitions, and against what theory says of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mvflow.functional import (
    coverage,
    ecdf_band,
    ecdf_difference,
    rank_counts,
    rank_statistics,
)

ROWS, DRAWS = 4000, 19


def ranks_of(scale=1.0, shift=0.0, rows=ROWS, draws=DRAWS, seed=0):
    """Ranks of N(0, 1) values among draws of N(shift, scale^2)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 2))
    return rank_statistics(z, shift + scale * rng.normal(size=(draws, rows, 2)))


def test_ranks_count_what_lies_below(xp):
    rng = np.random.default_rng(0)
    z, draws = rng.normal(size=(5, 3)), rng.normal(size=(7, 5, 3))
    got = np.asarray(rank_statistics(xp.asarray(z), xp.asarray(draws)))
    for i in range(5):
        for k in range(3):
            assert got[i, k] == np.searchsorted(np.sort(draws[:, i, k]), z[i, k])


def test_ranks_do_not_change_under_monotone_maps():
    rng = np.random.default_rng(1)
    z, draws = rng.normal(size=(50, 2)), rng.normal(size=(9, 50, 2))
    moved = rank_statistics(np.exp(3 * z), np.exp(3 * draws))
    np.testing.assert_array_equal(moved, rank_statistics(z, draws))
    np.testing.assert_array_equal(rank_statistics(-z, -draws), 9 - rank_statistics(z, draws))


@given(st.integers(1, 60), st.integers(1, 25))
def test_counts_of_every_rank_once_are_the_expected_ones(draws, bins):
    counts, expected = rank_counts(np.arange(draws + 1), draws, bins)
    np.testing.assert_allclose(counts, expected, rtol=1e-12)
    assert counts.sum() == draws + 1
    if bins <= draws + 1:
        assert counts.max() - counts.min() <= 1


def test_counts_are_those_of_a_histogram(xp):
    ranks = ranks_of(rows=300)
    counts, expected = rank_counts(xp.asarray(ranks), DRAWS, 10)
    for k in range(2):
        wanted = np.histogram(ranks[:, k], np.arange(11) * 2 - 0.5)[0]
        np.testing.assert_array_equal(np.asarray(counts)[:, k], wanted)
    np.testing.assert_allclose(np.asarray(expected), np.full(10, 30.0), rtol=1e-15)


@given(st.integers(1, 40), st.floats(0, 1))
def test_coverage_of_uniform_ranks_is_the_level(draws, level):
    got = coverage(np.arange(draws + 1), draws, np.array([level]))
    np.testing.assert_allclose(got, [level], atol=1e-12)


def test_coverage_is_the_share_of_values_in_central_intervals(xp):
    """With many draws a rank is a quantile: against intervals of the known distribution."""
    draws, scale = 999, 0.7
    ranks = ranks_of(scale, rows=ROWS // 4, draws=draws)
    levels = np.array([0.5, 0.8, 0.95])
    got = np.asarray(coverage(xp.asarray(ranks), draws, xp.asarray(levels)))
    wanted = 2 * stats.norm.cdf(scale * stats.norm.ppf(0.5 + levels / 2)) - 1
    error = np.sqrt(wanted * (1 - wanted) / (ROWS // 4))
    assert np.all(abs(got - wanted[:, None]) < 4 * error[:, None] + 1 / draws)


def test_the_difference_is_that_of_distribution_functions(xp):
    ranks = ranks_of(rows=100)
    got = np.asarray(ecdf_difference(xp.asarray(ranks), DRAWS))
    at = (np.arange(DRAWS + 1) + 1) / (DRAWS + 1)
    for k in range(2):
        wanted = stats.ecdf(ranks[:, k]).cdf.evaluate(np.arange(DRAWS + 1)) - at
        np.testing.assert_allclose(got[:, k], wanted, atol=1e-12)
    np.testing.assert_allclose(got[-1], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "shift", "sign"),
    [(0.6, 0.0, (1, -1)), (1.7, 0.0, (-1, 1)), (1.0, 0.5, (1, 1)), (1.0, -0.5, (-1, -1))],
)
def test_the_shape_of_the_difference_tells_what_is_wrong(scale, shift, sign):
    found = ecdf_difference(ranks_of(scale, shift), DRAWS)
    left, right = found[DRAWS // 5], found[-1 - DRAWS // 5]
    band = ecdf_band(ROWS)
    assert np.all(sign[0] * left > band)
    assert np.all(sign[1] * right > band)


def test_calibrated_ranks_leave_the_band_as_seldom_as_it_says():
    rng = np.random.default_rng(2)
    rows, trials, level = 200, 2000, 0.9
    ranks = rng.integers(100, size=(rows, trials))
    outside = np.abs(ecdf_difference(ranks, 99)).max(0) > ecdf_band(rows, level)
    # the bound is nearly attained by continuous values, a little less by ranks
    allowed = 1 - level + 4 * np.sqrt(level * (1 - level) / trials)
    assert 0.3 * (1 - level) < outside.mean() < allowed
