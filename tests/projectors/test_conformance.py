"""One suite for all trained projectors: what their losses are, and on which batches."""

import pytest
import torch
from torch import nn

from mvflow.core import ConfigError, Modality
from mvflow.core.parts import create, dump
from mvflow.core.registry import registry
from mvflow.functional import pairwise_info_nce, pairwise_total_correlation
from mvflow.nn import seeded
from mvflow.projectors import DCCA, Contrastive, Objective

SPECS = [Modality(name, (dim,)) for name, dim in (("b", 5), ("a", 4), ("c", 3))]


@pytest.fixture(params=registry("projectors").names())
def objective(request):
    part = create("projectors", {"kind": request.param, "dim": 4})
    assert isinstance(part, Objective)
    return part


def projections(rows=200, noise=0.5, seed=0):
    """What three modalities share, seen with noise, in float64."""
    with seeded(seed, "projections"):
        shared = torch.randn(rows, 4, dtype=torch.float64)
        return {n: shared + noise * torch.randn_like(shared) for n in "abc"}


def test_networks_are_the_configured_ones(objective):
    asked = []

    def build(name, out_features, dropout):
        asked.append((name, out_features, dropout))
        return nn.Linear(1, out_features)

    networks = objective.model_copy(update={"dropout": 0.25}).networks(SPECS, build)
    assert networks.keys() == {"a", "b", "c"}
    assert sorted(asked) == [(name, 4, 0.25) for name in "abc"]
    assert all(networks[m.name].out_features == objective.width(m) for m in SPECS)


def test_the_loss_is_lower_where_rows_belong_together(objective):
    x = projections()
    turned = {n: v.roll(i, 0) for i, (n, v) in enumerate(x.items())}
    assert objective.loss(x) < objective.loss(projections(noise=1.0)) < objective.loss(turned)


def test_a_pair_is_compared_over_the_rows_that_have_both(objective):
    x = projections()
    here = {"a": torch.arange(200) % 3 > 0, "c": torch.arange(200) % 4 > 0}
    pairs = {("a", "b"): here["a"], ("a", "c"): here["a"] & here["c"], ("b", "c"): here["c"]}
    expected = sum(objective.loss({n: x[n][at] for n in pair}) for pair, at in pairs.items())
    parts = {n: v.clone().requires_grad_() for n, v in x.items()}
    loss = objective.loss(parts, here)
    torch.testing.assert_close(loss, expected)  # sums of float64 in another order
    loss.backward()
    for name, mask in here.items():
        assert parts[name].grad.isfinite().all()
        assert not parts[name].grad[~mask].any()
        assert parts[name].grad[mask].any()
    nowhere = {"a": torch.zeros(200, dtype=torch.bool)}
    alone = objective.loss({n: x[n] for n in "bc"})
    known = objective.loss({n: v.requires_grad_() for n, v in parts.items()}, nowhere)
    if objective.kind != "barlow-twins":  # which counts features without a counterpart
        torch.testing.assert_close(known, alone)
    known.backward()
    assert all(v.grad.isfinite().all() for v in parts.values())


def test_no_order_of_rows_or_modalities_matters(objective):
    x = projections()
    expected = objective.loss(x)
    assert torch.equal(objective.loss({n: x[n] for n in "cab"}), expected)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    # sums of float64 in another order
    torch.testing.assert_close(objective.loss({n: v[rows] for n, v in x.items()}), expected)
    renamed = dict(zip("cab", x.values(), strict=True))
    torch.testing.assert_close(objective.loss(renamed), expected)


def test_the_loss_is_a_sum_over_pairs(objective):
    x = projections()
    pairs = [{n: x[n] for n in pair} for pair in ("ab", "ac", "bc")]
    total = sum(objective.loss(pair) for pair in pairs)
    torch.testing.assert_close(objective.loss(x), total)


def test_gradients_are_finite_where_projections_are_dead(objective):
    x = projections()
    x["a"] = torch.zeros_like(x["a"])
    x = {n: v.requires_grad_() for n, v in x.items()}
    for grad in torch.autograd.grad(objective.loss(x), list(x.values())):
        assert grad.isfinite().all()


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_autocast_reaches_no_objective(objective, narrow):
    """Projections may come in 16 bits; products and logarithms are in 32 or 64 all the same."""
    x = {name: g.to(narrow) for name, g in projections().items()}
    expected = objective.loss({name: g.float() for name, g in x.items()})
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.loss(x)
    assert found.itemsize >= 4
    assert torch.equal(found, expected)


@pytest.mark.bad_input
def test_batches_that_say_nothing_are_refused(objective):
    objective.check_batch(objective.min_rows)
    with pytest.raises(ConfigError, match=f"too small .*use at least {objective.min_rows}$"):
        objective.check_batch(objective.min_rows - 1)


def test_settings_survive_being_written(objective):
    assert create("projectors", dump(objective, "projectors")) == objective


# Each kind against its formula


def test_contrastive_is_the_formula_and_has_no_loss_for_one_row():
    x = projections()
    expected = pairwise_info_nce([x[n] for n in "abc"], 0.3)
    assert torch.equal(Contrastive(dim=4, temperature=0.3).loss(x), expected)
    one = Contrastive(dim=4).loss({n: v[:1] for n, v in x.items()})
    assert one == 0  # which is why two rows are asked for


def test_dcca_is_the_formula_and_asks_for_ten_rows_a_dimension():
    x = projections()
    expected = -pairwise_total_correlation([x[n] for n in "abc"], 0.01)
    assert torch.equal(DCCA(dim=4, ridge=0.01).loss(x), expected)
    assert DCCA(dim=7).min_rows == 70
