import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from mvflow.functional import (
    inside_ball,
    normal_log_prob,
    normal_poe,
    normal_product,
    poe_log_density,
    power_tail_log_density,
    standard_normal_log_prob,
)


def experts(count, latent=2, seed=0):
    """Experts narrow enough (scale below 0.7) for their product over the prior to be proper."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, latent)), rng.uniform(0.3, 0.7, size=(count, latent))


def log_product(z, locs, scales):
    """Eq. 12 for Gaussian experts at points z (points, latent)."""
    log_probs = normal_log_prob(z, locs[:, None], scales[:, None]).sum(-1)
    return poe_log_density(log_probs, standard_normal_log_prob(z))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_exponent_is_one_less_than_the_experts(xp, count):
    rng = np.random.default_rng(count)
    log_probs, prior = rng.normal(size=(count, 4, 3)), rng.normal(size=(4, 3))
    got = poe_log_density(xp.asarray(log_probs), xp.asarray(prior))
    np.testing.assert_allclose(np.asarray(got), log_probs.sum(0) - (count - 1) * prior, atol=1e-13)


def test_one_expert_is_itself(xp):
    log_probs = xp.asarray(np.arange(4.0)[None])
    got = poe_log_density(log_probs, xp.asarray(np.full(4, -3.0)))
    np.testing.assert_array_equal(np.asarray(got), np.arange(4.0))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_normal_poe_equals_the_product_on_a_grid(xp, count):
    locs, scales = experts(count, latent=1)
    loc, scale = (np.asarray(a) for a in normal_poe(xp.asarray(locs), xp.asarray(scales)))
    z = np.linspace(-8, 8, 20_001)[:, None]
    density = np.exp(log_product(z, locs, scales))
    density /= density.sum()
    mean = (density * z[:, 0]).sum()
    # sums of a smooth density on a fine grid are exact to rounding
    np.testing.assert_allclose(loc, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        scale, math.sqrt((density * (z[:, 0] - mean) ** 2).sum()), rtol=1e-9
    )


def test_experts_may_be_permuted(xp):
    locs, scales = experts(3)
    expected = normal_poe(locs, scales)
    z = np.random.default_rng(1).normal(size=(5, 2))
    for order in permutations(range(3)):
        order = list(order)
        got = normal_poe(xp.asarray(locs[order]), xp.asarray(scales[order]))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12)
        np.testing.assert_allclose(
            log_product(z, locs[order], scales[order]), log_product(z, locs, scales), rtol=1e-12
        )


@pytest.mark.parametrize(("count", "latent"), [(2, 2), (3, 2), (3, 8)])
def test_exact_posteriors_multiply_to_the_joint_posterior(count, latent):
    """Linear-Gaussian model x_j = A_j z + noise: Eq. 12 holds with equality."""
    rng = np.random.default_rng(latent)
    maps, data = rng.normal(size=(count, 4, latent)), rng.normal(size=(count, 4))

    def posterior(a, x):
        covariance = np.linalg.inv(np.eye(latent) + a.T @ a)
        return multivariate_normal(covariance @ a.T @ x, covariance)

    z = rng.normal(size=(50, latent))
    log_probs = np.stack([posterior(a, x).logpdf(z) for a, x in zip(maps, data, strict=True)])
    product = poe_log_density(log_probs, standard_normal_log_prob(z))
    joint = posterior(np.concatenate(maps), np.concatenate(data)).logpdf(z)
    difference = product - joint
    # equal up to the normalising constant, to rounding of sums of size 100
    np.testing.assert_allclose(difference, difference[0], atol=1e-10)


@pytest.mark.bad_input
def test_improper_product_is_refused():
    with pytest.raises(ValueError, match="2 Gaussian experts is improper"):
        normal_poe(np.zeros((2, 1)), np.full((2, 1), 1.5))
    with pytest.raises(ValueError, match="expected a positive one"):
        normal_poe(np.zeros((2, 1)), np.full((2, 1), np.nan))


def test_ball_cuts_the_density(xp):
    z = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0001], [np.nan, 0.0], [np.inf, 0.0]])
    got = inside_ball(xp.asarray(np.arange(5.0)), xp.asarray(z), 5.0)
    np.testing.assert_array_equal(np.asarray(got), [0, 1, -np.inf, -np.inf, -np.inf])
    everywhere = inside_ball(xp.asarray(np.arange(3.0)), xp.asarray(z[:3]), math.inf)
    np.testing.assert_array_equal(np.asarray(everywhere), [0, 1, 2])


def test_gradient_inside_the_ball_is_that_of_the_density():
    z = torch.tensor([[0.5, 0.5], [3.0, 0.0]], requires_grad=True)
    value = inside_ball(standard_normal_log_prob(z), z, 2.0)
    value[0].backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-0.5, -0.5], [0.0, 0.0]]))


def test_the_product_of_exact_posteriors_is_the_posterior_of_all(xp):
    """N(x; z, s^2) seen twice, over N(0, 1): conjugacy, by hand."""
    x, s = np.array([[0.4, -1.0], [2.0, 0.3]]), np.array([[0.5, 1.0], [2.0, 0.1]])
    locs = xp.asarray(np.concatenate([np.zeros((1, 2)), x]))
    precisions = xp.asarray(np.concatenate([np.ones((1, 2)), s**-2]))
    loc, scale = (np.asarray(a) for a in normal_product(locs, precisions))
    covariance = np.linalg.inv(1 + (s**-2).sum(0)[:, None, None] * np.eye(1))[:, 0, 0]
    np.testing.assert_allclose(scale**2, covariance, rtol=1e-14)
    np.testing.assert_allclose(loc, covariance * (x / s**2).sum(0), rtol=1e-14)


def test_the_product_is_the_normalised_product_of_densities(xp):
    """log N(loc, scale) is sum_j log N_j up to a constant; an expert of precision 0 adds none."""
    locs, scales = experts(3, latent=1)
    precisions = np.concatenate([scales**-2, [[0.0]]])
    found = normal_product(xp.asarray(np.concatenate([locs, [[1e6]]])), xp.asarray(precisions))
    loc, scale = (np.asarray(a) for a in found)
    z = np.linspace(-3, 3, 50)[:, None]
    summed = normal_log_prob(z, locs[:, None], scales[:, None]).sum(0)
    gap = normal_log_prob(z, loc, scale) - summed
    np.testing.assert_allclose(gap - gap[0], 0, atol=1e-11)


@pytest.mark.parametrize("edge", [1.0, 2.5])
def test_the_power_tail_is_a_gaussian_inside_and_a_power_of_the_distance_outside(xp, edge):
    inside, outside = edge * np.linspace(0, 1, 5), edge * np.array([1.0, 1.5, 10.0, 1e3])
    values = [
        np.asarray(power_tail_log_density(xp.asarray(m**2), edge)) for m in (inside, outside)
    ]
    np.testing.assert_allclose(
        values[0], multivariate_normal.logpdf(inside) + np.log(2 * np.pi) / 2
    )
    expected = -(edge**2) / 2 - edge**2 * np.log(outside / edge)  # m^(-c^2), where both meet
    np.testing.assert_allclose(values[1], expected, rtol=1e-12)
