"""What depends on the machine changes no result: where rows are, precision, compilation."""

import logging

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from mvflow.config import config_from_dict, recipe
from mvflow.core import ArraySource, Observed
from mvflow.nn import seeded
from mvflow.systems import build_system, stages_of
from mvflow.training import Table, build_stage, compiled, free_memory, run_stage

CHANGES = [
    *(f"{s}.epochs=2" for s in ("projectors", "joint", "flows")),
    *(f"{s}.batch_size=16" for s in ("projectors", "joint", "flows")),
    "latent_dim=3",
    "joint.merge=[8]",
    "posterior.hidden=[8]",
    "flows.summary_hidden=[8]",
    "system=jnf-shared",
]
NETWORKS = {
    "encoder": {"kind": "conv", "channels": [4, 8]},
    "decoder": {"kind": "conv", "channels": [8, 4], "output": "sigmoid"},
    "projector": {"kind": "conv", "channels": [4]},
}


def config(precision="float32"):
    raw = recipe("mnist-svhn", CHANGES)
    raw["projector"]["dim"] = 2
    raw["modalities"] = {
        "a": {"shape": [3, 8, 8], "likelihood": {"kind": "laplace", "scale": 0.75}, **NETWORKS},
        "b": {"shape": [5]},
    }
    for section in ("projectors", "joint", "flows"):
        raw[section]["precision"] = precision
    return config_from_dict(raw)


def source():
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(256, size=(40, 3, 8, 8), dtype=np.uint8),
        "b": rng.normal(size=(50, 5)).astype(np.float32),
    }
    pairs = {"a": rng.integers(40, size=80), "b": rng.integers(50, size=80)}
    return ArraySource(arrays, config().specifications(), pairs=pairs)


def trained(table, *, precision="float32", change=lambda stage: stage):
    system = build_system(config(precision))
    rows, held = table.split(0.2, np.random.default_rng(0))
    for spec in stages_of(system):
        system.eval().requires_grad_(False)
        spec.module.requires_grad_(True)
        run_stage(change(build_stage(spec, system, rows, held)), seed=0)
    return system


@pytest.fixture(scope="module")
def reference():
    return trained(Table.of(source()))


def assert_same_bits(system, reference):
    expected = reference.state_dict()
    for name, value in system.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_streamed_rows_train_to_the_same_bits(reference):
    table = Table.of(source(), budget=100)
    assert table.is_streamed
    assert not Table.of(source(), budget=free_memory("cpu")).is_streamed
    assert_same_bits(trained(table), reference)


def test_reading_ahead_keeps_the_order():
    held, streamed = Table.of(source()), Table.of(source(), budget=0)
    orders = [torch.randint(80, (n,)) for n in (3, 1, 8, 2, 5, 7, 4)]
    for a, b in zip(held.each(orders), streamed.each(orders), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_reader_that_fails_is_heard():
    with pytest.raises(IndexError):
        list(Table.of(source(), budget=0).each([torch.tensor([0]), torch.tensor([80])]))


def test_bfloat16_agrees_with_float32():
    """The ELBO of the same rows within 1 %: bfloat16 has 8 bits, sums are in float32."""
    elbos, table = [], Table.of(source())
    for precision in ("float32", "bfloat16"):
        system, batch = trained(table, precision=precision), Observed(next(table.batches(80)))
        with torch.no_grad(), seeded(0, "elbo"):
            elbos.append(float(system.joint.losses(batch).terms["elbo"]))
    assert elbos[1] == pytest.approx(elbos[0], rel=0.01)


@pytest.mark.slow
def test_a_compiled_stage_trains_to_the_same_bits(reference):
    system = trained(Table.of(source()), change=lambda s: compiled(s, backend="eager"))
    assert_same_bits(system, reference)


@pytest.mark.slow
def test_without_a_compiler_the_stage_runs_and_says_so(reference, caplog):
    def broken(graph, inputs):
        raise BackendCompilerFailed(broken, RuntimeError("no compiler here"), None)

    with caplog.at_level(logging.WARNING, "mvflow.training"):
        system = trained(Table.of(source()), change=lambda s: compiled(s, backend=broken))
    assert_same_bits(system, reference)
    assert "is not compiled" in caplog.text
