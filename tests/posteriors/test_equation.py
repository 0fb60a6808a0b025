"""`maf` against Eq. 10 written out by hand, with nothing of zuko but its weights."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from zuko.flows import MaskedAutoregressiveTransform

from mvflow.nn import seeded
from mvflow.posteriors import MAF, Gaussian, build_posterior


def masked(weights, h):
    """Masked layers with ReLU between them."""
    for i, (weight, bias) in enumerate(weights):
        h = np.maximum(h, 0) if i else h
        h = h @ weight.T + bias
    return h


def autoregressive(posterior):
    """Transforms in the order in which z goes through them to the base."""
    return [m for m in posterior.modules() if isinstance(m, MaskedAutoregressiveTransform)]


def by_hand(posterior, x, z):
    r"""log q(z|x) = log N(f^-1(z); mu(x), sigma(x)) - log |det df| at f^-1(z) (Eq. 10).

    The inverse of each f is h_i -> h_i exp(a_i) + b_i, with a and b of the h_k before i.
    """
    out = x @ posterior.encoder.weight.detach().numpy().T + posterior.encoder.bias.detach().numpy()
    loc, log_scale = out[:, :3], 7 * np.tanh(out[:, 3:] / 7)
    h = (z - posterior.shift.numpy()) / posterior.spread.numpy()
    log_det = -np.log(posterior.spread.numpy()).sum() * np.ones(len(z))
    for transform in autoregressive(posterior):
        layers = [m for m in transform.hyper if isinstance(m, nn.Linear)]
        weights = [((m.weight * m.mask).detach().numpy(), m.bias.detach().numpy()) for m in layers]
        shift, a = np.moveaxis(masked(weights, h).reshape(len(h), 3, 2), -1, 0)
        a = a / (1 + np.abs(a) / math.log(1e3))  # zuko bounds the log-scale softly
        h, log_det = h * np.exp(a) + shift, log_det + a.sum(1)
    return stats.norm.logpdf(h, loc, np.exp(log_scale)).sum(1) + log_det


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_maf_is_equation_10(dtype, tolerance):
    with seeded(0, "maf"):
        settings = MAF(transforms=3, hidden=(16, 16))
        posterior = build_posterior(settings, 3, lambda out: nn.Linear(4, out)).to(dtype)
        x, z = torch.randn(50, 4, dtype=dtype), torch.randn(50, 3, dtype=dtype)
        posterior.standardise(torch.tensor([0.3, -1.0, 0.1]), torch.tensor([1.5, 0.5, 2.0]))
    found = posterior(x).log_prob(z).detach().numpy()
    posterior = posterior.double()
    expected = by_hand(posterior, x.double().numpy(), z.double().numpy())
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 10)


def test_each_transform_is_autoregressive():
    """Its Jacobian is triangular in the order of the transform, with a positive diagonal."""
    with seeded(0, "maf"):
        posterior = build_posterior(MAF(transforms=3), 4, lambda n: nn.Linear(2, n))
        z = torch.randn(4)
    for lazy in autoregressive(posterior):
        jacobian = torch.autograd.functional.jacobian(lazy(), z)
        order = torch.argsort(lazy.order)
        ordered = jacobian[order][:, order]
        assert torch.equal(ordered.triu(1), torch.zeros(4, 4))
        assert (ordered.diagonal() > 0).all()


def test_a_gaussian_is_its_encoder():
    with seeded(0, "gaussian"):
        posterior = build_posterior(Gaussian(), 2, lambda n: nn.Linear(3, n))
        x, z = torch.randn(6, 3), torch.randn(6, 2)
    out = posterior.encoder(x).detach().double().numpy()
    expected = stats.norm.logpdf(z, out[:, :2], np.exp(7 * np.tanh(out[:, 2:] / 7))).sum(1)
    np.testing.assert_allclose(posterior(x).log_prob(z).detach(), expected, rtol=1e-5)
