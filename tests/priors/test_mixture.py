"""The fitted prior: it finds a mixture that is known, and is what the formulas say it is."""

import numpy as np
import pytest
import torch

from mvflow.functional import GaussianMixture, gaussian_mixture_log_joint, log_sum_exp
from mvflow.priors.mixture import MixturePrior

MEANS = np.array([[-4.0, 0.0], [4.0, 2.0], [0.0, -5.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def rows(count, seed=0):
    """Draws of a mixture of three, each with its own covariance."""
    rng = np.random.default_rng(seed)
    factors = np.array([[[1, 0], [0.8, 0.5]], [[0.3, 0], [0, 1.5]], [[1, 0], [-0.5, 0.3]]])
    of = rng.choice(3, size=count, p=WEIGHTS)
    return MEANS[of] + np.einsum("nij,nj->ni", factors[of], rng.normal(size=(count, 2)))


@pytest.fixture(scope="module")
def fitted():
    prior = MixturePrior(3, latent=2).double()
    found = prior.fit(rows(4000), np.random.default_rng(0))
    return prior, found


def test_it_finds_the_mixture(fitted):
    prior, found = fitted
    order = prior.means.numpy()[:, 0].argsort()
    expected = MEANS[:, 0].argsort()
    # standard errors of means of about 1,000 rows with deviation 1: .03
    np.testing.assert_allclose(prior.means.numpy()[order], MEANS[expected], atol=0.15)
    np.testing.assert_allclose(
        prior.log_weights.exp().numpy()[order], WEIGHTS[expected], atol=0.03
    )
    assert np.all(np.diff(found) >= -1e-9)


def test_it_generalises_and_a_gaussian_does_not(fitted):
    held = torch.from_numpy(rows(2000, seed=1))
    one = MixturePrior(1, latent=2).double()
    one.fit(rows(4000), np.random.default_rng(0))
    assert fitted[0]().log_prob(held).mean() > one().log_prob(held).mean() + 0.5


def test_its_density_is_the_formula_and_its_draws_have_its_moments(fitted):
    prior, _ = fitted
    z = torch.from_numpy(rows(50, seed=2))
    mixture = GaussianMixture(*(getattr(prior, name).numpy() for name in GaussianMixture._fields))
    expected = log_sum_exp(gaussian_mixture_log_joint(z.numpy(), mixture))
    np.testing.assert_allclose(prior().log_prob(z).numpy(), expected, rtol=1e-9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = prior().sample((20_000,))[:, 0]
    # five standard errors of a mean of 20,000 draws with deviations below 4
    np.testing.assert_allclose(draws.mean(0), prior().mean[0], atol=5 * 4 / 20_000**0.5)


@pytest.mark.parametrize(("count", "latent"), [(2, 3), (5, 1), (40, 2)])
def test_few_or_equal_rows_leave_it_finite(count, latent):
    z = np.ones((count, latent))
    z[: count // 2] += 1e-9
    prior = MixturePrior(8, latent)
    prior.fit(z, np.random.default_rng(0))
    draws = prior().sample((100,))
    assert draws.isfinite().all()
    np.testing.assert_allclose(draws, 1, atol=0.1)  # the ridge's deviation is .001
