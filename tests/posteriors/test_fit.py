"""Families fitted, by the training loop, to posteriors that are known on a grid."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mvflow.config import Flows
from mvflow.models import Losses
from mvflow.nn import MLP, seeded
from mvflow.posteriors import build_posterior
from mvflow.training import Stage, Table, TensorColumn, run_stage

AXIS = torch.linspace(-5, 5, 161, dtype=torch.float64)
GRID = torch.cartesian_prod(AXIS, AXIS)[:, None]
BANANA = SimpleNamespace(scale=0.3, mean=lambda z: z[..., 1] + z[..., 0] ** 2 - 1)
LINEAR = SimpleNamespace(scale=0.5, mean=lambda z: 0.8 * z[..., 1] - 0.6 * z[..., 0])


def fit(problem, family, *, epochs, seed=0):
    """q(z|x) fitted to pairs z ~ N(0, I), x = mean(z) + noise, by maximum likelihood."""
    settings = Flows(
        posterior=family,
        transforms=3,
        hidden=(32, 32),
        epochs=epochs,
        batch_size=256,
        learning_rate=5e-3,
        schedule="one-cycle",
    )
    with seeded(seed, "data"):
        z = torch.randn(25_600, 2)
        x = problem.mean(z)[:, None] + problem.scale * torch.randn(len(z), 1)
        posterior = build_posterior(settings, 2, lambda out: MLP(1, 32, 32, out))
    table = Table({"z": TensorColumn(z, None), "x": TensorColumn(x, None)}, len(z))

    def loss(batch, progress):
        return Losses(-posterior(batch["x"]).log_prob(batch["z"]).mean(), {})

    run_stage(Stage("flows", posterior, loss, settings, table), seed=seed)
    return posterior


def divergences(problem, posterior):
    """KL(true posterior || q) for several x, on a grid."""
    found = []
    for x in (-1.0, 0.0, 0.5, 1.5):
        log_true = -0.5 * (GRID**2).sum(-1) - 0.5 * ((x - problem.mean(GRID)) / problem.scale) ** 2
        log_true = log_true[:, 0] - torch.logsumexp(log_true[:, 0], 0)
        with torch.no_grad():
            log_q = posterior(torch.tensor([[x]])).log_prob(GRID.float())[:, 0].double()
        cell = float(AXIS[1] - AXIS[0]) ** 2
        found.append(float((log_true.exp() * (log_true - log_q)).sum() - np.log(cell)))
    return np.array(found)


def test_maf_bends_to_a_banana_where_a_gaussian_cannot():
    """Long fits reach .03-.05 (maf) against .4-1.1 (Gaussian); these stop earlier: bars of .15
    and .25 leave room for other machines, and the ratio is what the paper claims.
    """
    maf = divergences(BANANA, fit(BANANA, "maf", epochs=10)).mean()
    gaussian = divergences(BANANA, fit(BANANA, "gaussian", epochs=4)).mean()
    assert maf < 0.15
    assert gaussian > 0.25
    assert maf < gaussian / 3


@pytest.mark.parametrize("family", ["maf"])
def test_a_linear_gaussian_expert_is_found(family):
    """500 steps give about .007 (DESIGN, section 5); .03 is its bar."""
    assert divergences(LINEAR, fit(LINEAR, family, epochs=5)).mean() < 0.03
