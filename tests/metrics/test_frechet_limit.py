"""FID for infinitely many rows: Gaussians whose distance is known."""

import numpy as np
import pytest

from mvflow.metrics import FrechetDistance, FrechetLimit, MeanAndCovariance, limit_sizes
from mvflow.metrics.moments import feature_blocks


def limit(real, made):
    return FrechetLimit(feature_blocks(real)).update(made).jackknife().estimate()


def drawn(rng, n, d):
    return rng.normal(size=(n, d)), 0.5 + 1.5 * rng.normal(size=(n, d))


def test_gaussians_have_their_exact_distance_where_few_rows_have_a_larger_one():
    """16 dimensions, 150 rows: the mean of 20 draws within their error, which few rows are not."""
    rng, n, d = np.random.default_rng(0), 150, 16
    exact = d * 0.5**2 + d * (1 - 1.5) ** 2
    limits, finite = [], []
    for _ in range(20):
        real, made = drawn(rng, n, d)
        limits.append(limit(real, made))
        moments = MeanAndCovariance().update(real).compute()
        finite.append(FrechetDistance(moments).update(made).compute())
    errors = np.array([found.standard_error for found in limits])
    apart = np.array([found.mean for found in limits]) - exact
    assert abs(apart.mean()) < 2 * errors.mean() / 20**0.5
    assert np.mean(abs(apart) < 2 * errors) >= 0.8
    # an error may be too large, by no more than twice, but never too small
    assert 0.9 < errors.mean() / apart.std(ddof=1) < 2.5
    excess = np.array([found.mean for found in finite]) - exact
    assert excess.mean() > 4 * errors.mean() / 20**0.5


def test_rows_of_one_distribution_are_at_no_distance():
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        real, made = rng.normal(size=(2, 200, 8))
        found.append(limit(real, made).mean)
    assert abs(np.mean(found)) < 4 * np.std(found) / 20**0.5
    biased = FrechetDistance(MeanAndCovariance().update(real).compute()).update(made).compute()
    assert biased.mean > 0.1


def test_batches_and_many_features_make_no_difference(monkeypatch):
    real, made = drawn(np.random.default_rng(0), 120, 6)
    expected = limit(real, made)
    parts = FrechetLimit(feature_blocks(real)).update(made[:50]).update(made[50:])
    assert parts.jackknife().estimate().mean == pytest.approx(expected.mean, rel=1e-9)
    monkeypatch.setattr("mvflow.metrics.moments.MANY_FEATURES", 5)
    found = limit(real, made)
    assert found.mean == pytest.approx(expected.mean, rel=1e-6)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-5)


def test_too_few_rows_for_a_line_are_known():
    assert limit_sizes(4096, 1024) == [2048, 3072, 4096]
    assert limit_sizes(4094, 1024) == []
