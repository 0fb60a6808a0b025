"""Standard errors against what repeated experiments show."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import UsageError
from mvflow.metrics import (
    FrechetDistance,
    Jackknife,
    MeanAndCovariance,
    mean_and_error,
    mean_of_means,
)

REPEATS = 400
# the standard deviation of so many repeats is known to 1 / sqrt(2 * 400) = 3.5 %
SPREAD = 4 / np.sqrt(2 * REPEATS)


@given(st.integers(2, 60), st.integers(0, 99), st.sampled_from([0.0, 1e6]))
def test_independent_rows_have_the_usual_error(rows, seed, offset):
    values = np.random.default_rng(seed).normal(size=rows) + offset
    found = mean_and_error(values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    # around 1e6 numbers round to 1e-10, so deviations of size 1 keep eight digits
    assert found.standard_error == pytest.approx(values.std(ddof=1) / rows**0.5, rel=1e-7)


def test_the_error_of_one_value_is_not_known():
    found = mean_and_error([3.0])
    assert found.mean == 3.0
    assert np.isnan(found.standard_error)


def test_rows_that_share_an_item_count_as_one():
    """Each value five times, as where one image stands in five rows, is no more than once."""
    once = np.random.default_rng(0).normal(size=40)
    items = np.repeat(np.arange(40), 5)
    found, alone = mean_and_error(np.repeat(once, 5), items), mean_and_error(once)
    assert found.standard_error == pytest.approx(alone.standard_error, rel=1e-12)
    assert mean_and_error(np.repeat(once, 5)).standard_error < 0.5 * alone.standard_error


def test_errors_of_clusters_and_of_means_of_shared_rows_are_those_of_repeats():
    rng = np.random.default_rng(0)
    clusters = rng.integers(30, size=200)
    means, errors = [], []
    for _ in range(REPEATS):
        shared = rng.normal(size=30)[clusters]
        parts = [shared + rng.normal(size=200), (shared + rng.normal(size=200))[:80]]
        found = mean_of_means(parts, clusters)
        means.append(found.mean)
        errors.append(found.standard_error)
    # 30 clusters: the error is too small by about 1 / (2 * 30) of itself
    assert np.mean(errors) == pytest.approx(np.std(means), rel=SPREAD + 1 / 60)


def gaussian(features):
    """The exact moments of N(0, I), which have no error of their own."""
    exact = MeanAndCovariance().update(np.zeros((1, features))).compute()
    return replace(exact, covariance=np.eye(features))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_errors_and_limits_of_distances_are_those_of_repeats(shift):
    """N(shift, I) in 4 dimensions is 4 shift^2 away, however few rows say otherwise."""
    rng, found = np.random.default_rng(1), []
    for _ in range(REPEATS):
        rows = rng.normal(size=(200, 4)) + shift
        found.append(FrechetDistance(gaussian(4)).update(rows).compute())
    means, limits = np.array([f.mean for f in found]), np.array([f.infinite for f in found])
    bias = means.mean() - 4 * shift**2
    error = means.std() / REPEATS**0.5
    assert bias > 4 * error  # 200 rows are too few, and this is seen
    assert abs(limits.mean() - 4 * shift**2) < 4 * limits.std() / REPEATS**0.5
    spread = np.mean([f.standard_error for f in found])
    if shift:
        assert spread == pytest.approx(means.std(), rel=SPREAD + 0.05)
    else:  # a distance of equal distributions is a sum of squares: the jackknife is cautious
        assert 1 < spread / means.std() < 2


def test_a_jackknife_of_means_is_the_usual_error_whatever_the_sizes_of_blocks():
    rng = np.random.default_rng(0)
    values, block = rng.normal(size=600), rng.integers(10, size=600)
    left_out = np.array([values[block != b].mean() for b in range(10)])
    sizes = np.bincount(block, minlength=10)
    found = Jackknife(float(values.mean()), left_out, sizes).estimate()
    assert found.infinite == pytest.approx(values.mean(), rel=1e-9)  # a mean has no bias
    # ten blocks know it to 1 / sqrt(18)
    assert found.standard_error == pytest.approx(mean_and_error(values).standard_error, rel=1)


@pytest.mark.bad_input
def test_no_values_have_no_mean():
    for parts in ([], [[]], [[1.0], []]):
        with pytest.raises(UsageError, match="no value was given"):
            mean_of_means(parts)
