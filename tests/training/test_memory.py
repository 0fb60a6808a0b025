"""Memory told before a stage: closed forms, and the peak that the allocator is seen to reach."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import Training, config_from_dict, recipe, stage_names
from mvflow.core import ArraySource
from mvflow.models import Losses, build_model
from mvflow.training import (
    Stage,
    Table,
    TensorColumn,
    build_stage,
    memory_line,
    predicted_memory,
)

ROWS, WIDE = 100, 7


@pytest.fixture
def peak(monkeypatch):
    """`benchmarks.peak`."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.peak")


def stage(**settings):
    values = torch.zeros(ROWS // 2, 3)
    index = torch.arange(ROWS) % (ROWS // 2)
    network = nn.Sequential(
        nn.Linear(3, WIDE), nn.ReLU(), nn.BatchNorm1d(WIDE), nn.Linear(WIDE, 1)
    )

    def loss(batch, progress):
        return Losses((network(batch["x"]) - 1).square().mean(), {})

    table = Table({"x": TensorColumn(values, index)}, ROWS)
    return Stage("joint", network, loss, Training(**settings), table)


NUMBERS = 4 * ((3 * WIDE + WIDE) + 2 * WIDE + (WIDE + 1))
BUFFERS = 4 * 2 * WIDE + 8  # running moments and a count
STEPS = 4 * 6  # six tensors with a step count


def test_closed_form_of_all_but_the_step():
    made = stage(batch_size=2)
    said = predicted_memory(made)
    assert said.data == 4 * 3 * (ROWS // 2) + 8 * ROWS + 8 * ROWS
    assert said.weights == NUMBERS + BUFFERS
    assert said.optimizer == 2 * NUMBERS + STEPS
    assert said.copies == 3 * NUMBERS + BUFFERS + STEPS
    assert said.step == NUMBERS + said.copies  # of so small a batch less than new copies
    assert said.total == sum(said)
    best = replace(stage(batch_size=2, patience=3), validation=made.train)
    assert predicted_memory(best).copies == said.copies + NUMBERS + BUFFERS


def test_what_is_frozen_or_beside_counts_once():
    made = stage()
    said = predicted_memory(made)
    whole = nn.ModuleDict({"trained": made.trainable, "frozen": nn.Linear(10, 10)})
    beside = Table({"y": TensorColumn(torch.zeros(10, 3), None)}, 10)
    found = predicted_memory(replace(made, model=whole, beside=(made.train, beside)))
    assert found.weights == said.weights + 4 * 110
    assert found.data == said.data + 4 * 30


@pytest.mark.parametrize("size", [1000, 333])
def test_a_step_that_can_be_counted_by_hand(size):
    weight = nn.Parameter(torch.zeros(5, 3))

    def loss(batch, progress):
        return Losses((batch["x"] @ weight).relu().sum(), {})

    table = Table({"x": TensorColumn(torch.zeros(size, 5), None)}, size)
    made = Stage("joint", nn.ParameterList([weight]), loss, Training(batch_size=size), table)
    # x, x w, and its positive part or later its gradient; scalars and the gradient of w
    assert 0 <= predicted_memory(made).step - 4 * (5 + 3 + 3) * size <= 4 * 15 + 8


def test_asking_changes_nothing():
    made = stage(batch_size=50)
    made.trainable.eval()
    before = {k: v.clone() for k, v in made.trainable.state_dict().items()}
    state = torch.get_rng_state()
    assert memory_line(made).startswith("joint: 100 rows held on cpu; needs 0.0 MiB (data ")
    assert torch.equal(state, torch.get_rng_state())
    assert not made.trainable.training
    for name, value in made.trainable.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in made.trainable.parameters())


# Against what the allocator gave


def test_the_peak_of_what_can_be_counted_by_hand(peak):
    def run():
        a = torch.empty(1000)  # 4000
        b = torch.empty(2000)  # 12000
        del a  # 8000
        return torch.empty(500), b  # 10000

    assert peak.peak_of(run) == 12000
    table = Table({"x": TensorColumn(torch.zeros(10, 4)[:5], None)}, 5)
    held = {"a": torch.zeros(3), "b": [table, lambda: table], "c": "text"}
    assert peak.held_bytes(held) == 4 * 3 + 4 * 40


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "projectors"),
    [("jnf", "dcca"), ("jnf-shared", "dcca"), ("jnf-shared", "contrastive")],
)
def test_what_is_said_is_within_a_fifth_of_what_is_seen(peak, kind, projectors, precision):
    sizes = {"joint": 40, "flows": 200, "projectors": 120}
    config = config_from_dict(
        recipe(
            "mnist-svhn",
            [
                f"model={kind}",
                f"projectors.kind={projectors}",
                "data.validation=0.2",
                *(f"{s}.precision={precision}" for s in sizes),
                *(f"{s}.batch_size={size}" for s, size in sizes.items()),
                "modalities.svhn.encoder.channels=[8,16,16]",
                "modalities.svhn.decoder.channels=[16,16,8]",
                "modalities.svhn.projector.channels=[8,16,16]",
                "joint.merge=[64]",
                "flows.summary_hidden=[64]",
            ],
        )
    )
    rng, specs = np.random.default_rng(0), config.specifications()
    x = {m.name: rng.integers(0, 256, (600, *m.shape), np.uint8) for m in specs}
    for name in stage_names(config):
        if (kind, name) == ("jnf-shared", "joint"):  # as without projectors
            continue
        model = build_model(config).eval().requires_grad_(False)
        model.stage_module(name).requires_grad_(True)
        made = build_stage(name, model, config, Table.of(ArraySource(x, specs)))
        said = predicted_memory(made).total
        assert 0.8 < said / peak.peak_bytes(made, steps=2) < 1.2, name
