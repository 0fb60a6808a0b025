"""The joint VAE's loss against models whose evidence is known."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from mvflow.core import LatentSpace, Modality, Observed, rescale_weights
from mvflow.nn import seeded
from mvflow.systems import JointVAE
from mvflow.systems.decoders import Decoders


def tensors(x, dtype=torch.float64):
    return {name: torch.from_numpy(v).to(dtype) for name, v in x.items()}


def repeated(x, times):
    return {name: v.repeat(times, 1) for name, v in tensors(x).items()}


def without_weights(system):
    """Set every lambda to one, so that the loss is the plain ELBO."""
    system.joint.weights = dict.fromkeys(system.joint.weights, 1.0)
    return system


def mean_and_error(joint, x, draws=64, times=200):
    """Mean of the loss over independent draws, and its standard error."""
    with torch.no_grad(), seeded(0, "elbo"):
        losses = np.array(
            [float(joint.losses(Observed(repeated(x, times))).total) for _ in range(draws)]
        )
    return losses.mean(), losses.std(ddof=1) / np.sqrt(draws)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("modalities", [2, 3])
def test_log_evidence_is_that_of_numerical_integration(linear_gaussian, modalities, latent):
    """The closed form that the other tests rely on, against quadrature over the decoders."""
    known = linear_gaussian(modalities, latent)
    joint, x = known.system().joint, known.sample(1)

    def density(*z):
        at = torch.tensor(z, dtype=torch.float64)
        decoded = joint.decoders.decode(at[None])
        fit = sum(float(decoded[n].log_prob(v)) for n, v in tensors(x).items())
        return np.exp(fit + stats.norm.logpdf(z).sum())

    loc, scale = (np.broadcast_to(v, (1, latent))[0] for v in known.posterior(x))
    box = [(m - 9 * s, m + 9 * s) for m, s in zip(loc, scale, strict=True)]
    if latent == 1:
        evidence = integrate.quad(density, *box[0], epsabs=0, epsrel=1e-10)[0]
    else:  # a Gaussian falls to e^-40 at the box: the trapezoid rule is exact to rounding
        axes = [np.linspace(*b, 61) for b in box]
        values = np.array([[density(u, v) for v in axes[1]] for u in axes[0]])
        evidence = np.trapezoid(np.trapezoid(values, axes[1]), axes[0])
    np.testing.assert_allclose(np.log(evidence), known.log_evidence(x)[0], rtol=1e-9)


@pytest.mark.parametrize("latent", [1, 2])
def test_each_draw_gives_the_evidence_when_q_is_exact(linear_gaussian, latent):
    known = linear_gaussian(3, latent)
    joint, x = known.system().joint, known.sample(20)
    with torch.no_grad(), seeded(0, "draw"):
        q = joint.posterior(Observed(tensors(x)))
        z = q.sample((5,))
        decoded = joint.decoders.decode(z)
        fit = sum(decoded[n].log_prob(v) for n, v in tensors(x).items())
    prior = stats.norm.logpdf(z).sum(-1)
    got = fit.numpy() + prior - q.log_prob(z).numpy()
    np.testing.assert_allclose(got, np.tile(known.log_evidence(x), (5, 1)), rtol=1e-11)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("modalities", [2, 3])
def test_the_loss_is_minus_the_evidence_when_q_is_exact(linear_gaussian, modalities, latent):
    known = linear_gaussian(modalities, latent)
    x = known.sample(1)
    mean, error = mean_and_error(without_weights(known.system()).joint, x)
    assert abs(mean + known.log_evidence(x)[0]) < 4 * error


def test_the_gap_to_the_evidence_is_the_divergence_of_q(linear_gaussian):
    known = linear_gaussian(2, 2)
    x, system = known.sample(1), without_weights(known.system())
    loc, scale = known.posterior(x)
    (merge,) = system.joint.merge
    shift, log_wider = np.array([0.3, -0.2]), np.array([0.4, -0.3])
    wide = 7 * np.arctanh((np.log(scale) + log_wider) / 7) - 7 * np.arctanh(np.log(scale) / 7)
    merge.bias.data += torch.from_numpy(np.concatenate([shift, wide]))
    q = system.joint.posterior(Observed(tensors(x))).base_dist
    np.testing.assert_allclose(q.loc.detach(), loc + shift, rtol=1e-12)
    np.testing.assert_allclose(q.scale.detach()[0], scale * np.exp(log_wider), rtol=1e-12)
    gap = (0.5 * (np.exp(2 * log_wider) - 1 + (shift / scale) ** 2) - log_wider).sum()
    mean, error = mean_and_error(system.joint, x)
    assert abs(mean - (gap - known.log_evidence(x)[0])) < 4 * error


def test_beta_and_lambda_each_multiply_their_own_term(linear_gaussian):
    known = linear_gaussian(3, 2)
    joint, x = known.system().joint, Observed(tensors(known.sample(7)))
    joint.weights = {"m0": 0.5, "m1": 2.0, "m2": 3.0}
    for beta in (0.0, 1.0, 2.5):
        with torch.no_grad(), seeded(0, "loss"):
            total, terms = joint.losses(x, beta)
        expected = beta * terms["kl"] - sum(w * terms[n] for n, w in joint.weights.items())
        torch.testing.assert_close(total, expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(  # the history shows the ELBO itself, free of both
            terms["elbo"], sum(terms[n] for n in joint.weights) - terms["kl"], rtol=1e-13, atol=0
        )


def test_the_weights_are_the_largest_dimension_over_ones_own(linear_gaussian):
    known = linear_gaussian(3, 2)
    assert known.system().joint.weights == rescale_weights(tuple(known.specs))
    assert known.system().joint.weights == {"m0": 5 / 3, "m1": 5 / 4, "m2": 1.0}


@pytest.mark.parametrize("kind", ["normal", "laplace", "bernoulli", "categorical"])
def test_the_terms_are_sums_of_scipy_log_densities(kind):
    rng = np.random.default_rng(0)
    scaled = {"kind": kind, "scale": 0.7}
    modality = Modality("a", (4,), scaled if kind in ("normal", "laplace") else kind)
    head, decoder = nn.Linear(4, 4), nn.Linear(2, 4)
    if kind == "categorical":
        head = nn.Sequential(nn.Embedding(4, 4), nn.Identity())
    decoders = Decoders([modality], {"a": decoder}, LatentSpace.flat(2))
    joint = JointVAE([modality], {"a": head}, decoders, 2, (8,)).double()
    x = {
        "normal": rng.normal(size=(6, 4)),
        "laplace": rng.normal(size=(6, 4)),
        "bernoulli": rng.integers(2, size=(6, 4)).astype(float),
        "categorical": rng.integers(4, size=6),
    }[kind]
    with torch.no_grad(), seeded(3, "z"):
        losses = joint.losses(Observed({"a": torch.from_numpy(x)}))
    with torch.no_grad(), seeded(3, "z"):
        p = decoder(joint.posterior(Observed({"a": torch.from_numpy(x)})).rsample()).numpy()
    probabilities = 1 / (1 + np.exp(-p))
    expected = {
        "normal": lambda: stats.norm.logpdf(x, p, 0.7).sum(-1),
        "laplace": lambda: stats.laplace.logpdf(x, p, 0.7).sum(-1),
        "bernoulli": lambda: stats.bernoulli.logpmf(x, probabilities).sum(-1),
        "categorical": lambda: (p - np.log(np.exp(p).sum(-1, keepdims=True)))[np.arange(6), x],
    }[kind]()
    np.testing.assert_allclose(losses.terms["a"], expected.mean(), rtol=1e-10)


def test_training_and_evaluation_agree_without_batch_normalisation(linear_gaussian):
    known = linear_gaussian(2, 2)
    joint, x = known.system().joint, Observed(tensors(known.sample(7)))
    found = []
    for mode in (True, False):
        joint.train(mode)
        with torch.no_grad(), seeded(0, "loss"):
            found.append(joint.losses(x).total)
    assert torch.equal(*found)


def test_the_recorded_moments_are_those_of_the_aggregated_posterior(linear_gaussian):
    joint = linear_gaussian(2, 2).system().joint
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(500, 2)), rng.uniform(0.1, 0.5, size=(500, 2))
    joint.record_latents(torch.from_numpy(loc), torch.from_numpy(scale))
    farthest = np.sqrt((loc**2 + scale**2).sum(1)).max()
    np.testing.assert_allclose(joint.radius, 1.1 * farthest, rtol=1e-7)
    np.testing.assert_allclose(joint.latent_mean, loc.mean(0), rtol=1e-7)
    second = (loc**2 + scale**2).mean(0) - loc.mean(0) ** 2
    np.testing.assert_allclose(joint.latent_std, np.sqrt(second), rtol=1e-7)


def test_q_is_bounded_and_finite_for_extreme_features(linear_gaussian):
    joint = linear_gaussian(2, 2).system().joint
    x = {
        n: torch.full((1, len(b)), 1e30, dtype=torch.float64)
        for n, b in linear_gaussian().b.items()
    }
    joint.merge[0].weight.data[2:] = 1.0
    q = joint.posterior(Observed(x)).base_dist
    assert torch.isfinite(q.scale).all()
    assert float(q.scale.detach().max()) <= np.exp(7.0) * (1 + 1e-12)
