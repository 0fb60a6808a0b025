"""The Fréchet distance: closed forms, SciPy's matrix square root, singular covariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from mvflow.functional import covariance_factor, frechet_distance, frechet_distance_of_rows


def gaussian(d, rank=None, seed=0):
    """Mean and covariance of the given rank."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d if rank is None else rank))
    return rng.normal(size=d), factor @ factor.T


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def reference(m1, s1, m2, s2):
    """The textbook form, as torchmetrics and pytorch-fid have it."""
    return ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)


@pytest.mark.parametrize("d", [1, 2, 5, 30])
def test_equals_scipy_on_regular_covariances(xp, d):
    arguments = (*gaussian(d, seed=1), *gaussian(d, seed=2))
    got = frechet_distance(*(xp.asarray(a) for a in arguments))
    np.testing.assert_allclose(float(got), reference(*arguments), rtol=1e-9)


@given(st.integers(1, 8), st.integers(0, 99))
def test_closed_form_where_covariances_commute(d, seed):
    """In the same axes it is |m_1 - m_2|^2 + sum of (s_1 - s_2)^2, also where some s are zero."""
    rng = np.random.default_rng(seed)
    u, (m1, m2) = rotation(d, seed), rng.normal(size=(2, d))
    s1, s2 = rng.exponential(size=(2, d)) * rng.integers(2, size=(2, d))
    got = frechet_distance(m1, u * s1**2 @ u.T, m2, u * s2**2 @ u.T)
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


@given(st.integers(0, 99))
def test_closed_form_in_two_dimensions(seed):
    """Tr (S_1 S_2)^(1/2) of two by two matrices: root of Tr(S_1 S_2) + 2 det(S_1 S_2)^(1/2)."""
    (m1, s1), (m2, s2) = gaussian(2, seed=seed), gaussian(2, seed=seed + 100)
    root = np.sqrt(np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1) * np.linalg.det(s2)))
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2) - 2 * root
    np.testing.assert_allclose(frechet_distance(m1, s1, m2, s2), expected, rtol=1e-8)


@pytest.mark.parametrize("d", [2, 20, 200])
def test_closed_form_of_covariances_of_rank_one(xp, d):
    """uu' and vv' have Tr (S_1 S_2)^(1/2) = |u'v|; SciPy's root of such matrices is far off."""
    rng = np.random.default_rng(d)
    u, v = rng.normal(size=(2, d))
    zero = np.zeros(d)
    arguments = (zero, np.outer(u, u), zero, np.outer(v, v))
    got = frechet_distance(*(xp.asarray(a) for a in arguments))
    np.testing.assert_allclose(float(got), u @ u + v @ v - 2 * abs(u @ v), rtol=1e-8)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_directions_without_variance_change_nothing(rank):
    """Embedded in more dimensions by a rotation, the distance is what it was."""
    m1, s1 = gaussian(4, seed=1)
    m2, s2 = gaussian(4, rank, seed=2)
    u = rotation(60)[:, :4]
    got = frechet_distance(u @ m1, u @ s1 @ u.T, u @ m2, u @ s2 @ u.T)
    np.testing.assert_allclose(got, frechet_distance(m1, s1, m2, s2), rtol=1e-8)


def test_of_a_gaussian_from_itself_it_is_zero():
    for rank in (None, 2):
        m, s = gaussian(50, rank)
        assert 0 <= frechet_distance(m, s, m, s) < 1e-20 * np.trace(s)


def test_near_gaussians_keep_their_digits():
    """Nothing is left of 1e-12 where traces of 50 cancel; here eight digits are."""
    s, eps = np.eye(50), 1e-6
    got = frechet_distance(np.zeros(50), s, np.zeros(50), (1 + eps) ** 2 * s)
    np.testing.assert_allclose(got, 50 * eps**2, rtol=1e-8)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 50))
def test_it_is_symmetric_positive_and_blind_to_rotations(d, rank, seed):
    (m1, s1), (m2, s2) = gaussian(d, seed=seed), gaussian(d, rank, seed=seed + 1)
    got = frechet_distance(m1, s1, m2, s2)
    assert got >= 0
    np.testing.assert_allclose(frechet_distance(m2, s2, m1, s1), got, rtol=1e-7, atol=1e-9)
    u = rotation(d, seed)
    turned = frechet_distance(u @ m1, u @ s1 @ u.T, u @ m2, u @ s2 @ u.T)
    np.testing.assert_allclose(turned, got, rtol=1e-7, atol=1e-9)


def test_float32_is_widened(xp):
    arguments = [a.astype(np.float32) for a in (*gaussian(5, seed=1), *gaussian(5, seed=2))]
    got = frechet_distance(*(xp.asarray(a) for a in arguments))
    assert got.dtype == xp.float64
    wide = [a.astype(np.float64) for a in arguments]
    np.testing.assert_allclose(float(got), reference(*wide), rtol=1e-6)


@pytest.mark.parametrize(("n", "d", "rank"), [(40, 6, 6), (5, 12, 12), (9, 4, 2)])
def test_rows_have_the_distance_of_their_moments(xp, n, d, rank):
    """Fewer rows than features, and more; a reference that lies in a plane."""
    rows = np.random.default_rng(0).normal(size=(n, d)) + 3
    mean, covariance = gaussian(d, rank, seed=1)
    factor = covariance_factor(xp.asarray(covariance))
    np.testing.assert_allclose(np.asarray(factor @ factor.T), covariance, atol=1e-12 * d)
    found = frechet_distance_of_rows(xp.asarray(rows), xp.asarray(mean), factor)
    expected = frechet_distance(rows.mean(0), np.cov(rows.T), mean, covariance)
    # seven digits of the traces: roots of eigenvalues that round to 1e-16 of the largest
    assert float(found) == pytest.approx(expected, abs=1e-7 * np.trace(covariance) * d)


def test_rows_are_at_no_distance_from_their_own_moments():
    rows = np.random.default_rng(0).normal(size=(30, 5))
    found = frechet_distance_of_rows(rows, rows.mean(0), covariance_factor(np.cov(rows.T)))
    assert 0 <= found < 1e-6
