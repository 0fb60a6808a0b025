"""Memory told before a stage: its closed-form parts, and activations that grow with the batch."""

import torch
from torch import nn

from mvflow.config import Training
from mvflow.models import Losses
from mvflow.training import Stage, Table, TensorColumn, memory_line, predicted_memory
from mvflow.training.memory import saved_bytes

ROWS, WIDE = 100, 7


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


def test_closed_form_of_all_but_activations():
    numbers = (3 * WIDE + WIDE) + 2 * WIDE + (WIDE + 1)
    buffers = 4 * 2 * WIDE + 8  # running moments and a count
    said = predicted_memory(stage())
    assert said.data == 4 * 3 * (ROWS // 2) + 8 * ROWS
    assert said.weights == 8 * numbers + buffers
    assert said.optimizer == 8 * numbers + 4 * 6  # two moments; six tensors with a step count
    assert said.copies == 4 * numbers + buffers + said.optimizer
    assert said.total == sum(said)
    assert predicted_memory(stage(patience=3)).copies == said.copies + 4 * numbers + buffers


def test_activations_are_extrapolated_to_the_batch():
    for size in (3, 16, 64):
        made = stage(batch_size=size)
        exact = saved_bytes(made, size)
        assert abs(predicted_memory(made).activations - exact) <= 0.02 * exact


def test_asking_changes_nothing():
    made = stage()
    made.trainable.eval()
    before = {k: v.clone() for k, v in made.trainable.state_dict().items()}
    state = torch.get_rng_state()
    assert memory_line(made).startswith("joint: 100 rows held on cpu; needs 0.0 MiB (data ")
    assert torch.equal(state, torch.get_rng_state())
    assert not made.trainable.training
    for name, value in made.trainable.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.grad is None
