"""What is absent is as if not asked for, and no modality has a privileged place: all systems."""

import numpy as np
import pytest
import torch
import torch.distributions as td

from mvflow.config import config_from_dict
from mvflow.core import Observed, registry
from mvflow.nn import seeded
from mvflow.systems import build_system

SYSTEMS = registry("systems").names()
ABLE = [n for n in SYSTEMS if registry("systems").load(n).accepts_absent]
ROWS = 70  # a multiple of the number of subsets, which MoPoE spreads over rows
RANDOM = {"mvae": {"random_subsets": 0}, "nexus": {"dropout": 0.0}}


@pytest.fixture(autouse=True)
def noiseless(monkeypatch):
    """All draws are means, so that losses are functions of weights and data alone."""

    def mean_of(self, sample_shape=()):
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape)))

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    for family in (td.Normal, td.Laplace):
        monkeypatch.setattr(family, "rsample", mean_of)


def build(name, roles=("a", "b", "c")):
    """Modalities of three shapes; `roles` are their names."""
    small = {"kind": "mlp", "hidden": [4]}
    modalities = {
        role: {"shape": [2 + j], "encoder": small, "decoder": small, "projector": small}
        for j, role in enumerate(roles)
    }
    raw = {"system": name, "latent_dim": 2, "modalities": modalities}
    if name in RANDOM:
        raw["joint"] = RANDOM[name]
    if name == "nexus":
        raw["private_dim"] = 2
    return build_system(config_from_dict(raw)).double()


def data(roles=("a", "b", "c")):
    rng = np.random.default_rng(0)
    return {r: torch.from_numpy(rng.normal(size=(ROWS, 2 + j))) for j, r in enumerate(roles)}


def loss(system, observed):
    (spec,) = system.stages()
    with seeded(0, "loss"):
        return spec.loss(observed, 1.0).total


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("gone", ["a", "c"])
def test_what_is_absent_adds_nothing_to_the_loss_and_is_never_read(name, gone):
    system, x = build(name), data()
    broken = {**x, gone: torch.full_like(x[gone], torch.nan)}
    masked = loss(system, Observed(broken, {gone: torch.zeros(ROWS, dtype=torch.bool)}))
    without = loss(system, Observed({n: v for n, v in x.items() if n != gone}))
    torch.testing.assert_close(masked, without, rtol=1e-10, atol=1e-12)
    system.zero_grad()
    some = {gone: torch.arange(ROWS) % 3 > 0, "b": torch.arange(ROWS) % 2 > 0}
    broken = {
        n: torch.where(some.get(n, torch.ones(ROWS) > 0)[:, None], v, torch.nan)
        for n, v in x.items()
    }
    loss(system, Observed(broken, some)).backward()
    grads = [p.grad for p in system.parameters() if p.grad is not None]
    assert grads
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", ABLE)
def test_the_posterior_of_a_row_is_that_of_what_it_has(name):
    system, x = build(name), data()
    here = torch.arange(ROWS) % 2 > 0
    z = torch.randn(3, ROWS, system.latent.dim, dtype=torch.float64)
    broken = {**x, "b": torch.where(here[:, None], x["b"], torch.nan)}
    found = system.posterior(Observed(broken, {"b": here})).log_prob(z)
    full = system.posterior(Observed(x)).log_prob(z)
    without = system.posterior(Observed({n: x[n] for n in "ac"})).log_prob(z)
    torch.testing.assert_close(found, torch.where(here, full, without), rtol=1e-10, atol=1e-10)
    nothing = {n: torch.zeros(ROWS, dtype=torch.bool) for n in x}
    empty = system.posterior(Observed(x, nothing)).log_prob(z)
    torch.testing.assert_close(empty, system.prior().log_prob(z), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SYSTEMS)
def test_names_do_not_matter(name):
    """Modalities change their names, hence their order; weights and data go with them."""
    roles, others = ("a", "b", "c"), ("z", "y", "x")
    one, other = build(name, roles), build(name, others)
    state, renamed = other.state_dict(), dict(zip(roles, others, strict=True))
    order = [2, 1, 0]
    for key, value in one.state_dict().items():
        parts = [
            f"{p[:-1]}{renamed[p[-1]]}"
            if p in ("x_a", "x_b", "x_c") or p.startswith("likelihood_")
            else p
            for p in key.split(".")
        ]
        if key == "joint.log_scales":  # MMVAE+: rows by modality
            value = value[order]
        if key == "joint.merge.0.weight":  # the features of the heads, side by side
            value = value.unflatten(1, (3, -1))[:, order].flatten(1)
        assert state[".".join(parts)].shape == value.shape
        state[".".join(parts)] = value
    other.load_state_dict(state)
    x, y = ({n: v[:1].repeat(ROWS, 1) for n, v in data(r).items()} for r in (roles, others))
    stage = {"jnf-shared": 1}.get(name, 0)
    losses = []
    for system, rows in ((one, x), (other, y)):
        with seeded(0, "loss"):
            losses.append(system.stages()[stage].loss(Observed(rows), 1.0).total)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)
