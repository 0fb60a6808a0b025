"""Networks that do not fit into memory are refused before anything is made."""

import time

import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import ConfigError
from mvflow.nn import allocation, checked_allocation
from mvflow.systems import build_system

HUGE = 3_000_000
"""Width of layers of which two take 36 TB."""


def config(**changes):
    modalities = {"a": {"shape": [3]}, "b": {"shape": [1, 8, 8]}}
    for name, settings in changes.pop("networks", {}).items():
        modalities[name] |= settings
    raw = {"system": "jnf", "latent_dim": 2, "modalities": modalities}
    return config_from_dict({**raw, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": {"a": {"encoder": {"kind": "mlp", "hidden": [HUGE, HUGE]}}}},
        {"networks": {"a": {"decoder": {"kind": "mlp", "hidden": [HUGE, HUGE]}}}},
        {"networks": {"b": {"encoder": {"kind": "conv", "channels": [HUGE, HUGE]}}}},
        {"networks": {"a": {"decoder": {"kind": "mlp", "hidden": [2**40]}}}},
        *({"posterior": {"kind": k, "hidden": [HUGE, HUGE]}} for k in ("maf", "nsf", "coupling")),
        {"latent_dim": 2**40},
        {"networks": {"a": {"encoder": {"kind": "mlp", "hidden": [10**30]}}}},  # no int64
        {"latent_dim": HUGE, "system": "mvae", "networks": {"a": {"encoder": {"hidden": [HUGE]}}}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_networks_larger_than_memory_are_refused_at_once(changes):
    settings, began = config(**changes), time.process_time()
    with pytest.raises(ConfigError, match="networks .* too large: .* memory, where .* available"):
        build_system(settings)
    assert time.process_time() - began < 30  # filling what fits takes minutes


def test_what_fits_is_made_as_without_the_check(monkeypatch):
    monkeypatch.setattr(allocation, "SMALL", 0)  # look at everything
    torch.manual_seed(0)
    with checked_allocation("it"):
        layer = torch.nn.Linear(3, 2)
        x = layer.weight[torch.tensor([0, 1, 0])] @ layer.weight.T
    torch.manual_seed(0)
    same = torch.nn.Linear(3, 2)
    assert torch.equal(layer.weight, same.weight)
    assert torch.equal(x, same.weight[[0, 1, 0]] @ same.weight.T)


def test_memory_that_is_left_counts(monkeypatch):
    monkeypatch.setattr(allocation, "SMALL", 0)
    monkeypatch.setattr(allocation, "available_memory", lambda: 4 * 60)
    with checked_allocation("it"):
        torch.zeros(6, 10)
        torch.zeros(60).expand(60, 60)  # a view takes nothing
    message = r"^it are too large: an array of shape \(61,\)"
    with pytest.raises(ConfigError, match=message), checked_allocation("it"):
        torch.zeros(61)
    with pytest.raises(ConfigError, match=r"shape \(10, 10\)"), checked_allocation("it"):
        torch.zeros(10)[:, None] + torch.zeros(10)
