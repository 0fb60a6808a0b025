"""Scores of predictions against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn import metrics as reference

from mvflow.metrics import (
    calibration_error,
    central_intervals,
    correlation,
    crps_of_draws,
    crps_of_normal,
    log_losses,
    mean_and_error,
    mean_over_columns,
    poisson_deviance,
    probability_ahead,
    r_squared,
    r_squared_terms,
    rmse,
    rmse_terms,
)


@st.composite
def predicted(draw):
    rows, columns = draw(st.integers(3, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    true = rng.normal(size=(rows, columns)) * 10 ** rng.uniform(-2, 3)
    return true, true + rng.normal(size=true.shape)


@settings(max_examples=20)
@given(predicted())
def test_errors_of_numbers_are_those_of_scikit_learn(pair):
    true, made = pair
    expected = reference.r2_score(true, made, multioutput="raw_values")
    np.testing.assert_allclose(r_squared(true, made), expected, rtol=1e-9)
    np.testing.assert_allclose(r_squared_terms(true, made).mean(), expected.mean(), rtol=1e-7)
    expected = reference.root_mean_squared_error(true, made, multioutput="raw_values")
    np.testing.assert_allclose(rmse(true, made), expected, rtol=1e-9)
    np.testing.assert_allclose(rmse_terms(true, made).mean(), expected.mean(), rtol=1e-9)
    pearson = [stats.pearsonr(a, b).statistic for a, b in zip(true.T, made.T, strict=True)]
    np.testing.assert_allclose(correlation(true, made), pearson, atol=1e-9)


def test_columns_that_do_not_vary_have_no_r_squared():
    true = np.column_stack([np.full(9, 0.1), np.arange(9.0)])
    made = true + [[0.0, 1.0]]
    assert np.isnan(r_squared(true, made)[0])
    assert r_squared_terms(true, made).mean() == pytest.approx(r_squared(true, made)[1])
    assert np.isnan(correlation(true, made)[0])


def test_the_error_of_r_squared_is_that_of_repeated_samples():
    """Also that of a difference, whose rows are shared."""
    rng, repeats = np.random.default_rng(0), 300
    values, errors = [], []
    for _ in range(repeats):
        x = rng.normal(size=(200, 3))
        first, second = x + 0.5 * rng.normal(size=x.shape), x + 0.6 * rng.normal(size=x.shape)
        terms = r_squared_terms(x, first)
        both = [terms, terms - r_squared_terms(x, second), rmse_terms(x, first)]
        estimates = [mean_and_error(of) for of in both]
        values.append([e.mean for e in estimates])
        errors.append([e.standard_error for e in estimates])
    # a standard deviation of 300 repeats is known to 1 / sqrt(600) = 4 %
    np.testing.assert_allclose(np.mean(errors, 0), np.std(values, 0, ddof=1), rtol=0.16)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_the_deviance_of_counts_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    true, mean = rng.poisson(2.0, size=20).astype(float), rng.uniform(0.1, 5, size=20)
    expected = reference.mean_poisson_deviance(true, mean)
    assert poisson_deviance(true, mean).mean() == pytest.approx(expected)


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(2, 5))
def test_errors_of_classes_are_those_of_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=30)
    labels = rng.integers(classes, size=30)
    expected = reference.log_loss(labels, p, labels=range(classes))
    assert log_losses(labels, p).mean() == pytest.approx(expected)


def test_calibrated_probabilities_have_no_calibration_error_and_certain_wrong_ones_all():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1.0, 1.0, 1.0], size=20000)
    labels = (p.cumsum(1) < rng.random((20000, 1))).sum(1)
    assert calibration_error(labels, p) < 0.02  # each of ten bins is known to 0.5 / 2000**0.5
    assert calibration_error([1, 1], [[1.0, 0.0], [1.0, 0.0]]) == 1.0


def test_sets_with_less_than_a_level_ahead_are_the_smallest_with_that_probability():
    ahead = probability_ahead([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(ahead, [[0, 0.5, 0.8], [0.8, 0.9, 0]], atol=1e-12)


@settings(max_examples=20)
@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(0.2, 3))
def test_the_score_of_a_normal_distribution_is_the_integral_that_defines_it(y, mean, deviation):
    def integrand(x):
        return (stats.norm.cdf(x, mean, deviation) - (x >= y)) ** 2

    low, high = min(y, mean) - 8 * deviation, max(y, mean) + 8 * deviation
    expected = sum(integrate.quad(integrand, a, b)[0] for a, b in ((low, y), (y, high)))
    assert float(crps_of_normal(y, mean, deviation)) == pytest.approx(expected, rel=1e-5)


def test_the_score_of_draws_is_unbiased_for_few_draws():
    rng = np.random.default_rng(0)
    expected = float(crps_of_normal(0.7, 0.0, 1.0))
    for count in (2, 5, 50):
        scores = crps_of_draws(np.full(20000, 0.7), rng.normal(size=(count, 20000)))
        assert abs(scores.mean() - expected) < 4 * scores.std() / 20000**0.5


@given(st.integers(2, 12), st.integers(0, 99))
def test_the_score_of_draws_is_the_mean_over_all_pairs(count, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, 3)), rng.normal(size=3)
    pairs = np.abs(x[:, None] - x[None]).sum((0, 1)) / (count * (count - 1))
    np.testing.assert_allclose(crps_of_draws(y, x), np.abs(x - y).mean(0) - pairs / 2, atol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_intervals_of_draws_hold_a_new_draw_with_their_probability(level):
    rng, repeats = np.random.default_rng(0), 20000
    draws, new = rng.normal(size=(100, repeats)), rng.normal(size=repeats)
    low, high = central_intervals(draws, [level])[0]
    held = np.mean((new >= low) & (new <= high))
    assert abs(held - level) < 4 * (level * (1 - level) / repeats) ** 0.5


@settings(max_examples=30)
@given(predicted(), st.integers(0, 99))
def test_columns_with_gaps_are_measured_on_what_is_known(pair, seed):
    true, made = pair
    known = np.random.default_rng(seed).random(true.shape) < 0.7
    known[:3] = True
    gaps = np.where(known, true, np.nan)
    columns = [(true[k, j], made[k, j]) for j, k in enumerate(known.T)]
    for of_columns, of_rows, measure in (
        (r_squared, r_squared_terms, reference.r2_score),
        (rmse, rmse_terms, reference.root_mean_squared_error),
    ):
        expected = np.array([measure(a, b) for a, b in columns])
        np.testing.assert_allclose(of_columns(gaps, made), expected, rtol=1e-7)
        np.testing.assert_allclose(of_rows(gaps, made).mean(), expected.mean(), rtol=1e-6)
    pearson = [stats.pearsonr(a, b).statistic for a, b in columns]
    np.testing.assert_allclose(correlation(gaps, made), pearson, atol=1e-9)
    expected = np.mean([a.mean() for a, _ in columns])
    np.testing.assert_allclose(mean_over_columns(gaps).mean(), expected, rtol=1e-9, atol=1e-9)


def test_the_error_of_a_mean_with_gaps_is_that_of_what_is_known():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    x[rng.random(400) < 0.5] = np.nan
    rest = x[np.isfinite(x)]
    found, expected = mean_and_error(mean_over_columns(x)), mean_and_error(rest)
    assert found.mean == pytest.approx(expected.mean, rel=1e-9)
    # they differ by the roots of n / (n - 1) of 400 and of 200 rows
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.002)


def test_a_column_of_which_nothing_is_known_counts_for_nothing():
    rng = np.random.default_rng(0)
    true, made = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    gaps = np.column_stack([true, np.full(9, np.nan)])
    wide = np.column_stack([made, made[:, 0]])
    for measure in (r_squared_terms, rmse_terms):
        np.testing.assert_allclose(measure(gaps, wide), measure(true, made), rtol=1e-12)
    np.testing.assert_allclose(mean_over_columns(gaps), true.mean(1), rtol=1e-12)
    assert np.isnan(r_squared(gaps, wide)[2])
