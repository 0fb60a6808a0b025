"""Accumulators give in batches what NumPy gives at once."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from mvflow.core import UsageError
from mvflow.metrics import FrechetDistance, MeanAndCovariance

cuts = st.lists(st.integers(0, 50), max_size=5)


def batches(values, at):
    edges = [0, *sorted(at), values.shape[-1]]
    return [values[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(cuts, st.integers(0, 99), st.sampled_from([0.0, 1e4]))
def test_moments_in_batches_are_those_of_numpy(at, seed, offset):
    rows = np.random.default_rng(seed).normal(size=(50, 4)) + offset
    accumulator = MeanAndCovariance()
    for part in batches(rows.T, at):
        accumulator.update(part.T)
    found = accumulator.compute()
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    # around 1e4 numbers round to 1e-12, so deviations of size 1 keep eleven digits
    np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-8, atol=1e-9)


def test_moments_run_on_every_library_and_in_float64(xp):
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    found = MeanAndCovariance().update(xp.asarray(rows[:4])).update(xp.asarray(rows[4:])).compute()
    assert found.covariance.dtype == xp.float64
    expected = np.cov(rows.astype(np.float64).T)
    np.testing.assert_allclose(np.asarray(found.covariance), expected, rtol=1e-12)
    distance = FrechetDistance(found).update(xp.asarray(rows)).compute().mean
    assert 0 <= distance < 1e-24


def test_the_moments_of_one_row_have_no_spread():
    found = MeanAndCovariance().update(np.ones((1, 2))).compute()
    np.testing.assert_array_equal(found.covariance, np.zeros((2, 2)))


@given(cuts, st.integers(0, 99))
def test_frechet_distance_in_batches_is_that_of_all_at_once(at, seed):
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(200, 3)), 0.5 * rng.normal(size=(50, 3)) + 1
    reference = MeanAndCovariance().update(real).compute()
    metric = FrechetDistance(reference)
    for part in batches(made.T, at):
        metric.update(part.T)
    root = sqrtm(np.cov(real.T) @ np.cov(made.T)).real
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum()
    expected += np.trace(np.cov(real.T) + np.cov(made.T) - 2 * root)
    assert metric.compute().mean == pytest.approx(expected, rel=1e-8)


def test_memory_of_moments_does_not_grow_with_rows():
    accumulator = MeanAndCovariance()
    rng = np.random.default_rng(0)
    for _ in range(3):
        accumulator.update(rng.normal(size=(500, 64)))
    tracemalloc.start()
    for _ in range(20):
        accumulator.update(rng.normal(size=(500, 64)))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 3 * 64 * 64 * 8  # the scatter, anew, and small things
    assert peak < 6 * 500 * 64 * 8  # a few copies of one batch


@pytest.mark.bad_input
def test_many_features_are_compared_by_their_rows(monkeypatch):
    """The same distance, error and limit as by moments, in batches."""
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(60, 12)), rng.normal(size=(40, 12)) + 0.5
    reference = MeanAndCovariance().update(real).compute()
    expected = FrechetDistance(reference).update(made).compute()
    monkeypatch.setattr("mvflow.metrics.moments.MANY_FEATURES", 10)
    found = FrechetDistance(reference).update(made[:7]).update(made[7:]).compute()
    for name in ("mean", "standard_error", "infinite"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    one = FrechetDistance(reference).update(made[:1]).compute().mean
    alone = ((made[0] - real.mean(0)) ** 2).sum() + np.trace(np.cov(real.T))
    assert one == pytest.approx(alone, rel=1e-9)


def test_nothing_added_has_no_value():
    reference = MeanAndCovariance().update(np.ones((2, 1))).compute()
    for metric in (MeanAndCovariance(), FrechetDistance(reference)):
        with pytest.raises(UsageError, match="was added: .* has no value"):
            metric.compute()


def test_the_distance_of_one_row_has_no_error():
    real = MeanAndCovariance().update(np.array([[0.0], [2.0]])).compute()
    found = FrechetDistance(real).update(np.array([[1.0]])).compute()
    assert found.mean == pytest.approx(2.0)  # the reference's variance, since one row has none
    assert np.isnan(found.standard_error)
