"""A flow as prior, on every system: its density, its training, what it needs."""

import numpy as np
import pytest
import torch

from mvflow.core import Modality, registry
from mvflow.estimators import estimator_class
from mvflow.posteriors import MAF, NSF, Gaussian
from mvflow.priors.flow import FlowPrior

SMALL = {"kind": "mlp", "hidden": [8]}
TRAIN = {"epochs": 2, "batch_size": 50, "learning_rate": 1e-2}
KINDS = {
    "flow": {"posterior": {"kind": "nsf", "hidden": [8]}, **TRAIN, "epochs": 15},
    "mixture": {"components": 3},
    "vampprior": {"components": 5, **TRAIN, "epochs": 15},
}


def data(rows, seed):
    """Two groups of rows in two modalities."""
    rng = np.random.default_rng(seed)
    group = (4.0 * rng.integers(2, size=rows) - 2)[:, None]
    return {n: (group + 0.3 * rng.normal(size=(rows, 2))).astype(np.float32) for n in "ab"}


@pytest.fixture(scope="module", params=registry("systems").names())
def trained(request):
    kind = estimator_class(request.param)
    modalities = [Modality(n, (2,)) for n in "ab"]
    networks = {m.name: {"encoder": SMALL, "decoder": SMALL} for m in modalities}
    plain = kind(modalities, 2)
    stages = [s for s in plain.stage_names if s in type(plain.config).model_fields]
    sections = dict.fromkeys(stages, TRAIN)
    return kind(modalities, 2, networks=networks, **sections).fit(data(200, 0))


@pytest.mark.parametrize("prior", KINDS)
def test_every_system_can_have_it(trained, prior):
    """Held-out latents are as likely as under p(z), or likelier, but for what 200 rows leave."""
    model = trained.with_settings(prior={"kind": prior, **KINDS[prior]})
    model.fit(data(200, 0), stages=["prior"])
    z = model.draw(data(300, 1), 1, seed=0).z[0]
    gain = model.prior_log_prob(z) - model.prior_log_prob(z, "standard")
    assert gain.mean() > -0.5
    assert model.priors() == ["standard", prior]
    again = model.sample_latent(n=2000, seed=3)[:, 0]
    spread = z.std(0) / 200**0.5  # the fit has seen 200 latents
    assert (np.abs(again.mean(0) - z.mean(0)) < 6 * spread + 0.35 * z.std(0)).all()


@pytest.mark.parametrize("family", [MAF(hidden=(8,)), NSF(hidden=(8,)), Gaussian()])
def test_its_density_integrates_to_one(family):
    torch.manual_seed(0)
    prior = FlowPrior(family, latent=2)
    prior.standardise(torch.randn(50, 2) * torch.tensor([0.5, 2.0]) + 1)
    axis = torch.linspace(-12, 14, 400)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        mass = prior().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1.0, abs=2e-3)  # the rule's error on a grid of 0.065
