"""Coupling: two groups of dimensions, written out by hand, with an inverse of two levels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.core.parts import create
from mvflow.nn import seeded
from mvflow.posteriors import build_posterior
from mvflow.posteriors.fast.levels import levels

LATENTS = [2, 5, 8]


def make(latent, *, transforms=2, hidden=(16, 16), context=0):
    """A posterior in float64 with weights away from their initial values, and a row of data."""
    settings = {"transforms": transforms, "hidden": hidden, "context": context}
    with seeded(0, "coupling"):
        family = create("posteriors", {"kind": "coupling", **settings})
        posterior = build_posterior(family, latent, lambda n: nn.Linear(3, n))
        with torch.no_grad():
            for p in posterior.parameters():
                p.add_(0.1 * torch.randn_like(p))
        x, z = torch.randn(1, 3).double(), torch.randn(6, 1, latent).double()
    return posterior.double(), x, z


def network(lazy, z):
    """Shift and log-scale of each dimension, by the masked layers in NumPy."""
    layers = [m for m in lazy.hyper if isinstance(m, nn.Linear)]
    for i, m in enumerate(layers):
        z = np.maximum(z, 0) if i else z
        z = z @ (m.weight * m.mask).detach().numpy().T + m.bias.detach().numpy()
    shift, a = np.moveaxis(z.reshape(*z.shape[:-1], -1, 2), -1, 0)
    return shift, a / (1 + np.abs(a) / math.log(1e3))  # zuko bounds the log-scale softly


@pytest.mark.parametrize("latent", LATENTS)
def test_it_is_affine_coupling_written_out(latent):
    """y = z exp(a) + b; a and b of one half do not see z, those of the other see that half."""
    posterior, x, z = make(latent)
    y, log_det = z.numpy(), 0.0
    for i, part in enumerate(posterior.transform.transforms):
        half = math.ceil(latent / 2)
        first = np.arange(latent) < half
        first = first[::-1] if i % 2 else first
        fixed = network(part.transform, 0 * y)  # the first half's are those of any z
        given = network(part.transform, np.where(first, y, 0))
        shift, a = (np.where(first, f, g) for f, g in zip(fixed, given, strict=True))
        y, log_det = y * np.exp(a) + shift, log_det + a.sum(-1)
    q = posterior(x)
    found, found_det = q.transform.call_and_ladj(z)
    np.testing.assert_allclose(found.detach(), y, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found_det.detach(), log_det, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("context", [0, 4])
@pytest.mark.parametrize("latent", LATENTS)
def test_the_log_determinant_is_that_of_autograd(latent, context):
    posterior, x, z = make(latent, context=context)
    q = posterior(x)
    _, found = q.transform.call_and_ladj(z)
    jacobian = torch.autograd.functional.jacobian(lambda v: q.transform(v).sum((0, 1)), z)
    expected = torch.linalg.slogdet(jacobian.permute(1, 2, 0, 3))[1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latent", [2, 5, 40])
def test_the_inverse_has_two_levels_whatever_the_dimension(latent):
    """Dimensions of a half are found together: a MAF of this width takes `latent` levels."""
    posterior, x, z = make(latent, transforms=4, hidden=(64,))
    assert [len(levels(part.transform)) for part in posterior.transform.transforms] == [2] * 4
    q = posterior(x)
    with torch.no_grad():
        torch.testing.assert_close(q.transform.inv(q.transform(z)), z, rtol=1e-9, atol=1e-9)


def test_two_transforms_let_every_dimension_depend_on_the_other_half():
    """After one, the first half is on its own; after two, no dimension is."""
    posterior, x, z = make(6)
    one, two = posterior.transform.transforms
    lone = torch.autograd.functional.jacobian(one(None), z[0, 0]) != 0
    half = torch.arange(6) < 3
    assert torch.equal(lone, torch.eye(6, dtype=torch.bool) | (~half[:, None] & half))
    both = torch.autograd.functional.jacobian(lambda v: two(None)(one(None)(v)), z[0, 0]) != 0
    assert both[:3, 3:].all()
    assert both[3:, :3].all()


def test_it_bends_to_what_no_gaussian_follows():
    """Maximum likelihood on z_2 = z_1^2 + noise reaches the entropy; a Gaussian cannot."""
    with seeded(0, "banana"):
        z = torch.randn(4000, 1, 2)
        z[..., 1] = z[..., 0] ** 2 - 1 + 0.3 * z[..., 1]
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    covariance = np.cov(z[:, 0].T.numpy())
    gaussian = 1 + math.log(2 * math.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    family = create("posteriors", {"kind": "coupling", "transforms": 4, "hidden": (32, 32)})
    with seeded(0, "fit"):
        posterior = build_posterior(family, 2, lambda n: nn.Linear(1, n))
        optimiser = torch.optim.Adam(posterior.parameters(), 5e-3)
        for _ in range(300):
            rows = z[torch.randint(len(z), (256,))]
            optimiser.zero_grad()
            loss = -posterior(torch.zeros(1, 1)).log_prob(rows).mean()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = -float(posterior(torch.zeros(1, 1)).log_prob(z).mean())
    assert found - entropy < 0.15 * (gaussian - entropy)
