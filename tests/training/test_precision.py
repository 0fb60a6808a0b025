"""Choosing the faster precision: by what is measured, and nothing else changes."""

import logging

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import ArraySource
from mvflow.training import Table, faster_precision, precision

MLP = {"kind": "mlp", "hidden": [8]}
NAMES = ("projectors", "joint", "flows", "amortised")


@pytest.fixture(scope="module")
def config():
    networks = {"encoder": MLP, "decoder": MLP, "projector": MLP}
    flows = {"hidden": [8], "summary_hidden": [8], "context": 2}
    return config_from_dict(
        {
            "model": "jnf-shared",
            "latent_dim": 2,
            "modalities": {"a": {"shape": [2], **networks}, "b": {"shape": [3], **networks}},
            "joint": {"merge": [8]},
            "projectors": {"dim": 2, "kind": "dcca", "batch_size": 20},
            "flows": flows,
            "amortised": {**flows, "embedding": 4},
        }
    )


@pytest.fixture(scope="module")
def source(config):
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=(60, d)).astype(np.float32) for n, d in (("a", 2), ("b", 3))}
    return ArraySource(arrays, config.specifications())


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_measured_and_nothing_else_changes(name, budget, config, source, caplog):
    caplog.set_level(logging.INFO, "mvflow.training.precision")
    before, state = config.model_dump(), torch.get_rng_state()
    found = faster_precision(name, config, Table.of(source, budget=budget))
    assert found in ("float32", "bfloat16")
    (line,) = caplog.messages
    assert line.startswith(f"{name}: bfloat16 is ")
    assert line.endswith(f" times as fast on this CPU: {found}")
    assert config.model_dump() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("ratio", "chosen"),
    [(0.5, "float32"), (1.19, "float32"), (1.21, "bfloat16"), (4.0, "bfloat16")],
)
def test_bfloat16_must_be_worth_its_bits(ratio, chosen, config, source, monkeypatch):
    def seconds(stage):
        turns.append(stage.settings.precision)
        slow = 10.0 if len(turns) in (1, 2, 5) else 1.0  # warming up; another program
        return slow * (ratio if stage.settings.precision == "float32" else 1.0)

    turns = []
    monkeypatch.setattr(precision, "_seconds", seconds)
    assert faster_precision("joint", config, Table.of(source)) == chosen
    assert turns == ["float32", "bfloat16"] * 4
