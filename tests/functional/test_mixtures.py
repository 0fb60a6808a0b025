import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mvflow.functional import GaussianMixture, gaussian_mixture_log_joint, gaussian_mixture_step


def some(components, latent, seed=0):
    """A mixture, and rows near it."""
    rng = np.random.default_rng(seed)
    log_weights = special.log_softmax(rng.normal(size=components))
    means = 3 * rng.normal(size=(components, latent))
    raw = rng.normal(size=(components, latent, latent))
    factors = np.linalg.cholesky(raw @ raw.swapaxes(1, 2) + 0.1 * np.eye(latent))
    z = means[rng.integers(components, size=40)] + rng.normal(size=(40, latent))
    return GaussianMixture(log_weights, means, factors), z


def test_log_joint_equals_scipy(xp):
    mixture, z = some(3, 4)
    got = gaussian_mixture_log_joint(xp.asarray(z), GaussianMixture(*map(xp.asarray, mixture)))
    for k, (log_weight, mean, factor) in enumerate(zip(*mixture, strict=True)):
        expected = stats.multivariate_normal(mean, factor @ factor.T).logpdf(z) + log_weight
        # float64 algebra of a few dozen operations
        np.testing.assert_allclose(np.asarray(got)[:, k], expected, rtol=1e-10)


@given(
    components=st.integers(1, 4),
    latent=st.integers(1, 3),
    strength=st.floats(0.1, 50),
    seed=st.integers(0, 2**16),
)
def test_the_penalised_likelihood_never_falls(components, latent, strength, seed):
    mixture, z = some(components, latent, seed)
    covariance = np.atleast_2d(np.cov(z.T))
    found = []
    for _ in range(6):
        mixture, value = gaussian_mixture_step(z, mixture, covariance, strength)
        found.append(float(value))
    scale = np.abs(found).max()
    assert np.all(np.diff(found) >= -1e-11 * scale)  # rounding of sums of that size


def test_one_component_is_fitted_in_one_step(xp):
    mixture, z = some(1, 3)
    covariance = np.eye(3)
    start = GaussianMixture(*map(xp.asarray, mixture))
    found, _ = gaussian_mixture_step(xp.asarray(z), start, xp.asarray(covariance), 7.0)
    np.testing.assert_allclose(np.asarray(found.means)[0], z.mean(0), rtol=1e-12)
    expected = (np.cov(z.T, ddof=0) * len(z) + 7.0 * covariance) / (len(z) + 7.0)
    factor = np.asarray(found.factors)[0]
    np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-10)


@pytest.mark.parametrize("strength", [0.5, 5.0])
def test_a_component_without_rows_stays_and_is_drawn_to_the_covariance(strength):
    mixture, z = some(2, 2)
    far = mixture._replace(means=np.array([mixture.means[0], [1e6, 1e6]]))
    covariance = np.cov(z.T)
    found, _ = gaussian_mixture_step(z, far, covariance, strength)
    np.testing.assert_array_equal(found.means[1], far.means[1])
    np.testing.assert_allclose(found.factors[1] @ found.factors[1].T, covariance, rtol=1e-10)
    np.testing.assert_allclose(np.exp(found.log_weights), np.array([41, 1]) / 42, rtol=1e-12)
