"""Objectives of multimodal VAEs: NumPy at random, and the limits that make them known ones."""

import numpy as np

from mvflow.functional import crmvae_bound, jmvae_bound, mvtcae_bound

rng = np.random.default_rng(0)
FIT, ALONE = -rng.gamma(9.0, size=(2, 6))
PRIOR = rng.gamma(2.0, size=6)
EXPERTS = rng.gamma(2.0, size=(3, 6))


def test_mvtcae_is_its_two_sums_and_the_elbo_at_zero(xp):
    a = [xp.asarray(v) for v in (FIT, PRIOR, EXPERTS.sum(0))]
    np.testing.assert_allclose(np.asarray(mvtcae_bound(*a, 3, 0.0)), FIT - PRIOR, rtol=1e-14)
    expected = 2 / 3 * FIT - EXPERTS.mean(0)
    np.testing.assert_allclose(np.asarray(mvtcae_bound(*a, 3, 1.0)), expected, rtol=1e-14)
    # Eq. 8 of the paper: (M - alpha)/M, alpha/M per expert, 1 - alpha
    expected = 2.4 / 3 * FIT - 0.6 / 3 * EXPERTS.sum(0) - 0.4 * PRIOR
    np.testing.assert_allclose(np.asarray(mvtcae_bound(*a, 3, 0.6)), expected, rtol=1e-14)


def test_a_single_modality_makes_crmvae_the_elbo_and_jmvae_a_tilted_one(xp):
    fit, prior = xp.asarray(FIT), xp.asarray(PRIOR)
    found = crmvae_bound(fit, fit, prior, xp.zeros_like(prior))  # q(z|X) is its only expert
    np.testing.assert_allclose(np.asarray(found), FIT - PRIOR, rtol=1e-14)
    elbo = xp.asarray(FIT - PRIOR)
    for alpha in (0.0, 0.1):
        found = jmvae_bound(elbo, xp.asarray(EXPERTS), alpha)
        expected = FIT - PRIOR - alpha * EXPERTS.sum(0)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-14)


def test_crmvae_has_the_weights_of_multivae_up_to_a_factor(xp):
    found = crmvae_bound(*(xp.asarray(v) for v in (FIT, ALONE, PRIOR, EXPERTS.sum(0))))
    theirs = -(FIT + ALONE) / (2 * 4) + (PRIOR + EXPERTS.sum(0)) / 4  # minimised, M = 3
    np.testing.assert_allclose(np.asarray(found), -4 * theirs, rtol=1e-14)
