"""Built models: nothing depends on the order in which modalities are named."""

from itertools import permutations

import pytest
import torch

from mvflow.config import config_from_dict, stage_names
from mvflow.core import ConfigError
from mvflow.models import build_model
from mvflow.nn import seeded


def config(order, model="jnf", **changes):
    modalities = {
        f"m{j}": {
            "shape": [2 + j],
            "encoder": {"kind": "mlp", "hidden": [5]},
            "decoder": {"kind": "mlp", "hidden": [4]},
        }
        for j in order
    }
    small = {"hidden": [6], "summary_hidden": [6]}
    raw = {"latent_dim": 2, "modalities": modalities, "model": model, "flows": small}
    return config_from_dict(raw | {"joint": {"merge": [7]}} | changes)


def batch(order):
    rng = torch.Generator().manual_seed(0)
    x = {j: torch.randn(4, 2 + j, generator=rng) for j in sorted(order)}
    return {f"m{j}": x[j] for j in order}


@pytest.mark.parametrize("model", ["jnf", "jnf-shared"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_order_matters_to_the_bit(count, model):
    first = tuple(range(count))
    orders = list(permutations(first))
    expected = build_model(config(first, model)).state_dict()
    with seeded(0, "loss"):
        loss = build_model(config(first, model)).joint.losses(batch(first))
    for order in orders[1 :: max(1, len(orders) // 5)]:
        built = build_model(config(order, model))
        found = built.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[k], expected[k]) for k in expected)
        with seeded(0, "loss"):
            losses = built.joint.losses(batch(order))
        assert torch.equal(losses.total, loss.total)
        assert losses.terms.keys() == loss.terms.keys()


def test_the_seed_decides_the_weights_and_the_global_state_stays():
    before = torch.get_rng_state()
    one, same, other = (build_model(config((0, 1), seed=s)).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_settings_of_one_stage_leave_the_initial_weights_of_the_others():
    one = build_model(config((0, 1), "jnf-shared"))
    other = build_model(config((0, 1), "jnf-shared", flows={"posterior": "nsf"}))
    for stage in ("projectors", "joint"):
        a, b = (m.stage_module(stage).state_dict() for m in (one, other))
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("model", ["jnf", "jnf-shared"])
def test_the_stages_cover_all_parameters_once(model):
    settings = config((0, 1, 2), model)
    built = build_model(settings)
    parts = [p for s in stage_names(settings) for p in built.stage_module(s).parameters()]
    assert {id(p) for p in parts} == {id(p) for p in built.parameters()}
    assert len(parts) == len(list(built.parameters()))


def test_a_shared_posterior_sees_the_projection_alone():
    built = build_model(config((0, 1), "jnf-shared"))
    x = batch((0, 1))["m1"]
    z = torch.zeros(4, 2)
    direct = built.flows["m1"](built.projectors["m1"](x)).log_prob(z)
    assert torch.equal(built.unimodal("m1", x).log_prob(z), direct)


@pytest.mark.bad_input
def test_a_network_that_cannot_take_a_shape_is_named():
    modalities = {"a": {"shape": [3, 6, 6], "encoder": {"kind": "conv", "channels": [4, 4]}}}
    raw = {"latent_dim": 2, "modalities": modalities}
    with pytest.raises(ConfigError, match="2 layers cannot take 'a' of shape .*multiples of 4"):
        build_model(config_from_dict(raw))
