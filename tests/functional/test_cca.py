import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from mvflow.functional import (
    canonical_correlations,
    pairwise_total_correlation,
    total_correlation,
)

TINY = 1e-12  # a ridge that does not bias the comparison with classical CCA
known = np.array([0.9, 0.5, 0.1])


def correlated(rows, seed=0, extra=2):
    """Columns with `known` population correlations, mixed; `extra` independent ones in `b`."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, 3))
    b = known * a + np.sqrt(1 - known**2) * rng.normal(size=(rows, 3))
    b = np.concatenate([b, rng.normal(size=(rows, extra))], axis=1)
    return a @ rng.normal(size=(3, 3)), b @ rng.normal(size=(3 + extra, 3 + extra))


def classical(a, b):
    """Hotelling's CCA: S12 S22^-1 S21 v = rho^2 S11 v, a generalised eigenproblem."""
    joint = np.cov(np.concatenate([a, b], axis=1), rowvar=False)
    k = a.shape[1]
    s11, s12, s22 = joint[:k, :k], joint[:k, k:], joint[k:, k:]
    squares = eigh(s12 @ np.linalg.solve(s22, s12.T), s11, eigvals_only=True)
    return np.sqrt(squares[::-1])


def test_equals_classical_cca(xp):
    a, b = correlated(200)
    got = canonical_correlations(xp.asarray(a), xp.asarray(b), TINY)
    # the ridge moves a correlation by about TINY times the condition number of the covariance
    np.testing.assert_allclose(np.asarray(got), classical(a, b), rtol=1e-8)


def test_finds_the_correlations_of_the_population():
    rows = 20_000
    got = canonical_correlations(*correlated(rows))
    # standard error of a sample correlation: (1 - rho^2) / sqrt(rows); the smallest is biased up
    # by the search over directions, of the order of 1 / (rho * rows)
    np.testing.assert_array_less(np.abs(got - known), 4 * (1 - known**2) / np.sqrt(rows) + 1e-3)


def test_invertible_linear_maps_change_nothing(xp):
    a, b = correlated(100)
    rng = np.random.default_rng(1)
    moved = a @ rng.normal(size=(3, 3)) + 5, 1e3 * b @ rng.normal(size=(5, 5)) - 1
    got = canonical_correlations(xp.asarray(moved[0]), xp.asarray(moved[1]), TINY)
    np.testing.assert_allclose(np.asarray(got), classical(a, b), rtol=1e-7)
    swapped = canonical_correlations(xp.asarray(b), xp.asarray(a), TINY)
    np.testing.assert_allclose(np.asarray(swapped), classical(a, b), rtol=1e-8)


def test_total_correlation_is_the_trace_norm(xp):
    a, b = correlated(100)
    got = float(total_correlation(xp.asarray(a), xp.asarray(b), TINY))
    np.testing.assert_allclose(got, classical(a, b).sum(), rtol=1e-8)
    covariance = np.cov(np.concatenate([a, b], axis=1), rowvar=False)
    (w1, v1), (w2, v2) = np.linalg.eigh(covariance[:3, :3]), np.linalg.eigh(covariance[3:, 3:])
    t = v1 / np.sqrt(w1) @ v1.T @ covariance[:3, 3:] @ v2 / np.sqrt(w2) @ v2.T
    np.testing.assert_allclose(got, np.linalg.norm(t, "nuc"), rtol=1e-8)
    assert got > 1.05 * np.linalg.norm(t, "fro")


def test_rows_that_do_not_count_are_as_if_they_were_not_there(xp):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 30, 3))
    b, here = a @ rng.normal(size=(3, 3)) + b, np.arange(30) % 3 > 0
    expected = canonical_correlations(xp.asarray(a[here]), xp.asarray(b[here]))
    got = canonical_correlations(xp.asarray(a), xp.asarray(b), present=xp.asarray(here))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-10)


def test_pairs_are_summed(xp):
    a, b = correlated(60)
    c = np.random.default_rng(2).normal(size=(60, 2))
    got = pairwise_total_correlation([xp.asarray(x) for x in (a, b, c)])
    expected = sum(total_correlation(x, y) for x, y in [(a, b), (a, c), (b, c)])
    np.testing.assert_allclose(float(got), expected, rtol=1e-9)


def degenerate(rows=16):
    """Pairs of outputs that break inverse square roots of covariances."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, rows, 3))
    dead, duplicated = a.copy(), a.copy()
    dead[:, 1] = 7.0
    duplicated[:, 1] = duplicated[:, 0]
    return {
        "dead": (dead, b),
        "duplicated": (duplicated, b),
        "perfect": (a, a.copy()),
        "perfect multiple": (a, -2 * a),
        "zeros": (0 * a, b),
        "all zeros": (0 * a, 0 * b),
        "batch below dimension": (a[:2], b[:2]),
        "one row": (a[:1], b[:1]),
        "large": (1e6 * a, 1e-6 * b),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_degenerate_outputs_have_finite_values_and_gradients(case, dtype):
    a, b = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in degenerate()[case])
    total = total_correlation(a, b)
    total.backward()
    assert total.dtype == torch.float64
    assert 0 <= total <= 3
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


@pytest.mark.parametrize(
    "case", ["dead", "duplicated", "perfect", "perfect multiple", "batch below dimension"]
)
def test_gradients_are_right_where_columns_are_degenerate(case):
    a, b = (torch.tensor(x, requires_grad=True) for x in degenerate(rows=8)[case])
    assert torch.autograd.gradcheck(lambda a, b: total_correlation(a, b, 1e-2), (a, b))


def test_float32_input_is_widened(xp):
    a, b = (x.astype(np.float32) for x in correlated(100))
    got = canonical_correlations(xp.asarray(a), xp.asarray(b))
    wide = canonical_correlations(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(np.asarray(got), wide, rtol=1e-10)
    assert got.dtype == xp.float64
