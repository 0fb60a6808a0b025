"""What is absent is as if not asked for, and no modality has a privileged place: all systems."""

import numpy as np
import pytest
import torch
import torch.distributions as td

from mvflow.config import config_from_dict
from mvflow.core import Observed, UsageError, registry
from mvflow.nn import seeded
from mvflow.systems import build_system
from mvflow.systems.masking import presence, random_subsets

SYSTEMS = registry("systems").names()
ABLE = [n for n in SYSTEMS if registry("systems").load(n).accepts_absent]
MIXED = [n for n in ABLE if not hasattr(registry("systems").load(n), "encode")]
"""Systems whose posterior takes rows of which each lacks something else."""
JOINT = [n for n in ABLE if n not in MIXED]
ROWS = 70  # a multiple of the number of subsets, which MoPoE spreads over rows
RANDOM = {"mvae": {"random_subsets": 0}, "nexus": {"dropout": 0.0}}
RANDOM |= {name: {"masking": 0.0} for name in JOINT}


@pytest.fixture(autouse=True)
def noiseless(monkeypatch):
    """All draws are means, so that losses are functions of weights and data alone."""

    def mean_of(self, sample_shape=()):
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape)))

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    for family in (td.Normal, td.Laplace):
        monkeypatch.setattr(family, "rsample", mean_of)


def build(name, roles=("a", "b", "c"), latent_dim=2, **joint):
    """Modalities of three shapes; `roles` are their names."""
    small = {"kind": "mlp", "hidden": [4]}
    modalities = {
        role: {"shape": [2 + j], "encoder": small, "decoder": small, "projector": small}
        for j, role in enumerate(roles)
    }
    raw = {"system": name, "latent_dim": latent_dim, "modalities": modalities}
    raw["joint"] = {**RANDOM.get(name, {}), **joint}
    if name == "nexus":
        raw["private_dim"] = 2
    return build_system(config_from_dict(raw)).double()


def data(roles=("a", "b", "c")):
    rng = np.random.default_rng(0)
    return {r: torch.from_numpy(rng.normal(size=(ROWS, 2 + j))) for j, r in enumerate(roles)}


def loss(system, observed):
    """Sum of the losses of all stages, each with what earlier ones give it."""
    total = 0.0
    for spec in system.stages():
        seen = observed
        columns = {
            **observed.x,
            **{f"present/{n}": m for n, m in (observed.present or {}).items()},
        }
        with torch.no_grad():
            for c in spec.columns:
                if c.of is None:
                    seen = seen._replace(cached={c.name: c.compute(columns).double()})
                elif c.of in seen.x:
                    x = c.compute(observed.x[c.of]).double()
                    seen = seen._replace(x={**seen.x, c.name: x})
        with seeded(0, "loss"):
            total = total + spec.loss(seen, 1.0).total
    return total


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


@pytest.mark.parametrize("name", MIXED)
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


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("merge", ["sum", [8], [], "concat"])
def test_the_joint_encoder_is_that_of_what_a_row_has(name, merge):
    system, x = build(name, merge=merge, latent_dim=3), data()
    for p in system.joint.merge.parameters():  # those of a sum begin at zero
        torch.nn.init.normal_(p, std=0.3)
    here = torch.arange(ROWS) % 2 > 0
    broken = {**x, "b": torch.where(here[:, None], x["b"], torch.nan)}
    q, full = system.encode(Observed(broken, {"b": here})), system.encode(Observed(x))
    without = system.encode(Observed({n: x[n] for n in "ac"}))
    for of in ("mean", "stddev"):
        expected = torch.where(here[:, None], getattr(full, of), getattr(without, of))
        torch.testing.assert_close(getattr(q, of), expected, rtol=1e-10, atol=1e-12)
    assert (full.mean - without.mean).abs().amax(1).median() > 1e-6  # it is used where it is there


@pytest.mark.parametrize("name", JOINT)
def test_a_mixed_batch_loses_the_mean_of_its_parts(name):
    """Parts are the rows that have the same modalities; terms of pairs of rows are no means."""
    system, x = build(name), data()
    if getattr(system, "projectors", None) is not None:
        pytest.skip("InfoNCE compares rows with each other")
    some = {"a": torch.arange(ROWS) % 3 > 0, "b": torch.arange(ROWS) % 2 > 0}
    kinds, total = 2 * some["a"] + some["b"], 0.0
    for kind in kinds.unique():
        at = kinds == kind
        names = [n for n in x if n not in some or some[n][at].all()]
        total = total + at.sum() * loss(system, Observed({n: x[n][at] for n in names}))
    torch.testing.assert_close(loss(system, Observed(x, some)), total / ROWS)


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("masking", [None, 0.0])
def test_a_mask_that_hides_nothing_changes_no_bit(name, masking):
    system, x = build(name, masking=masking), data()
    shown = {n: torch.ones(ROWS, dtype=torch.bool) for n in x}
    if masking is None:
        assert isinstance(system.joint.merge, torch.nn.Sequential)  # names of weights as ever
    assert loss(system, Observed(x, shown)) == loss(system, Observed(x))


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.bad_input
def test_rows_that_lack_something_are_refused_without_a_masked_encoder(name):
    system, x = build(name, masking=None), data()
    some = Observed(x, {"b": torch.arange(ROWS) > 0})
    (spec,) = (s for s in system.stages() if s.name == "joint")
    for ask in (lambda: spec.loss(some, 1.0), lambda: system.encode(some)):
        with pytest.raises(UsageError, match=r"'b' is absent in 1 of 70.*joint.masking=0.5"):
            ask()


def test_modalities_are_hidden_in_the_asked_share_of_rows():
    present = torch.ones(3, 10_000, dtype=torch.bool)
    with seeded(0, "hidden"):
        seen = random_subsets(present, 0.4)
    counts = seen.sum(0)
    assert abs((counts < 3).double().mean() - 0.4) < 4 * (0.24 / 10_000) ** 0.5
    assert counts.min() == 1
    some = Observed({n: torch.zeros(10_000, 1) for n in "ab"}, {"a": torch.arange(10_000) > 5})
    assert torch.equal(presence(some, "abc")[0], torch.arange(10_000) > 5)
    assert not presence(some, "abc")[2].any()


@pytest.mark.parametrize("name", SYSTEMS)
def test_names_do_not_matter(name):
    """Modalities change their names, hence their order; weights and data go with them."""
    roles, others = ("a", "b", "c"), ("z", "y", "x")
    unmasked = {"masking": None} if name in JOINT else {}
    one, other = build(name, roles, **unmasked), build(name, others, **unmasked)
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
