import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from mvflow.functional import average_divergence_bounds, normal_kl, normal_kl_standard

rng = np.random.default_rng(0)
loc0, loc1 = rng.normal(size=(2, 4, 3))
scale0, scale1 = rng.uniform(0.3, 2, size=(2, 4, 3))


def integral(m0, s0, m1, s1):
    """KL of two normal densities by quadrature over 12 standard deviations."""
    p, q = stats.norm(m0, s0), stats.norm(m1, s1)
    return quad(lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), m0 - 12 * s0, m0 + 12 * s0)[0]


def test_kl_equals_the_integral(xp):
    got = normal_kl(*(xp.asarray(a) for a in (loc0, scale0, loc1, scale1)))
    expected = np.vectorize(integral)(loc0, scale0, loc1, scale1).sum(-1)
    # the quadrature is accurate to 1e-8
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-7)


def test_standard_is_the_special_case(xp):
    got = normal_kl_standard(xp.asarray(loc0), xp.asarray(scale0))
    expected = np.vectorize(integral)(loc0, scale0, 0.0, 1.0).sum(-1)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-7)
    zero, one = np.zeros(3), np.ones(3)
    np.testing.assert_allclose(np.asarray(got), normal_kl(loc0, scale0, zero, one), rtol=1e-12)


location, width = st.floats(-10, 10), st.floats(0.05, 20)


@given(location, width, location, width, st.floats(-3, 3), st.floats(0.1, 10))
def test_kl_is_nonnegative_zero_at_equality_and_affine_invariant(m0, s0, m1, s1, shift, factor):
    a, b = np.array([m0]), np.array([m1])
    kl = normal_kl(a, np.array([s0]), b, np.array([s1]))
    assert kl >= -1e-12
    assert abs(normal_kl(a, np.array([s0]), a, np.array([s0]))) < 1e-12
    moved = normal_kl(
        factor * a + shift, np.array([factor * s0]), factor * b + shift, np.array([factor * s1])
    )
    # differences of locations lose digits to the shift: 1e-13 / s1 squared, and a margin
    np.testing.assert_allclose(moved, kl, rtol=1e-9, atol=1e-9)


def average_case(count, rows=4000, shift=0.0):
    """q_X = N(m, s^2), m ~ N(0, 1 - s^2), so that q_avg = N(0, 1); r = N(shift, 1)."""
    draws, s = np.random.default_rng(1), 0.8
    m = draws.normal(size=(count + 1, 1, rows)) * (1 - s**2) ** 0.5
    z = m[0] + s * draws.normal(size=(4, rows))
    own, others = stats.norm.logpdf(z, m[0], s), stats.norm.logpdf(z, m[1:], s)
    return own, others, stats.norm.logpdf(z, shift)


def test_bounds_on_the_divergence_from_an_average_hold_and_close(xp):
    """KL(N(0, 1) || N(d, 1)) is d^2/2; the bounds are above and below it and meet."""
    for shift in (0.0, 0.7):
        widths = []
        for count in (1, 4, 100):
            case = (xp.asarray(a) for a in average_case(count, shift=shift))
            below, above = (np.asarray(b) for b in average_divergence_bounds(*case))
            error = 4 * np.hypot(below.std(), above.std()) / 4000**0.5
            assert below.mean() - error < shift**2 / 2 < above.mean() + error
            widths.append(above.mean() - below.mean())
        assert widths[0] > widths[1] > widths[2] > 0
        assert widths[2] < 0.02
