"""A captured step is the eager step; on a GPU, so these tests are skipped without one."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import Training, config_from_dict
from mvflow.core import ArraySource, Modality, NumericsError, StageError, UsageError
from mvflow.nn import seeded
from mvflow.stages import Losses
from mvflow.systems import build_system, stages_of
from mvflow.systems.annealing import annealed
from mvflow.training import (
    NoOpCallback,
    Stage,
    Table,
    TensorColumn,
    build_stage,
    check_compile,
    loop,
    run_stage,
)
from mvflow.training.captured import training_step
from mvflow.training.step import Step, Sums, new_optimizer

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ROWS = 64


def table(device, seed=0):
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(seed)).to(device)
    row = torch.arange(ROWS, device=device)
    columns = {"x": x, "y": x.sum(1, keepdim=True).sin(), "row": row}
    return Table({k: TensorColumn(v, None) for k, v in columns.items()}, ROWS)


def stage(settings, change=lambda total, batch, progress: total, device="cuda"):
    """A small network with dropout, batch normalisation, noise and something annealed."""
    with seeded(0, "network"):
        norm, drop = nn.BatchNorm1d(8), nn.Dropout(0.3)
        module = nn.Sequential(nn.Linear(3, 8), norm, nn.ReLU(), drop, nn.Linear(8, 1)).to(device)

    def loss(batch, progress):
        noise = 0.1 * torch.randn_like(batch["x"])
        error = (module(batch["x"] + noise) - batch["y"]).float().square().mean()
        total = annealed(20.0, 0.7, 0.6, progress) * error
        return Losses(change(total, batch, progress), {"error": error})

    return Stage("joint", module, loss, settings, table(device), table(device, seed=1))


class Recorder(NoOpCallback):
    def __init__(self):
        self.records, self.within = [], []

    def on_step(self, record, checkpoint):
        self.within.append(checkpoint())

    def on_epoch(self, record, checkpoint):
        self.records.append(record[:6])  # without what was measured of the speed


def train(made, compile="graph", **options):
    recorder = Recorder()
    run_stage(made, callback=recorder, compile=compile, **options)
    return made.trainable.state_dict(), recorder


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@pytest.fixture(autouse=True)
def report_every_step(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_INTERVAL", -1.0)


@pytest.fixture
def said(caplog):
    """Lines logged of captured steps."""
    caplog.set_level(logging.INFO, "mvflow.training.captured")
    return lambda: [r.message for r in caplog.records if r.name == "mvflow.training.captured"]


PLAIN = Training(epochs=3, batch_size=8)
SETTINGS = {
    "plain": PLAIN,
    "clipped": Training(epochs=3, batch_size=8, clip=0.5, schedule="one-cycle"),
    "patient": Training(epochs=8, batch_size=8, patience=1, learning_rate=0.1),
    "bfloat16": Training(epochs=3, batch_size=8, precision="bfloat16"),
}


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_captured_steps_give_the_bits_of_eager_ones(settings, said):
    expected, eager = train(stage(settings), "no")
    found, captured = train(stage(settings), "auto")
    assert said() == ["joint: each step is one CUDA graph"]
    assert_equal(found, expected)
    assert captured.records == eager.records


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_resuming_anywhere_gives_the_same_bits(settings):
    expected, whole = train(stage(settings))
    for checkpoint in whole.within[2::5]:
        found, rest = train(stage(settings), resume=checkpoint)
        assert_equal(found, expected)
        assert rest.records == whole.records[checkpoint.state["epoch"] :]


def by_value(total, batch, progress):
    return total if total.item() > 0 else -total


def by_progress(total, batch, progress):
    return 2 * total if progress > 0.5 else total


def by_noise_of_the_host(total, batch, progress):
    return total * torch.rand(()).item() + torch.rand(1, device=total.device)[0]


def by_choice_of_the_host(total, batch, progress):
    return total * (1.0 + torch.randint(2, ()))


REASONS = {
    by_value: "captur",
    by_progress: "captur",
    by_noise_of_the_host: "captur",
    by_choice_of_the_host: "its loss draws random numbers on the CPU",
}


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("change", REASONS, ids=lambda change: change.__name__)
def test_what_cannot_be_captured_is_said_once_and_trained_eagerly(change, said):
    expected, eager = train(stage(PLAIN, change), "no")
    found, recorder = train(stage(PLAIN, change))
    (line,) = said()
    assert line.startswith("joint: steps are not captured: ")
    assert REASONS[change] in line
    assert_equal(found, expected)
    assert recorder.records == eager.records
    assert_equal(train(stage(PLAIN))[0], train(stage(PLAIN), "no")[0])  # CUDA is in order


@on_gpu
@pytest.mark.gpu
def test_streamed_rows_are_captured_too(said):
    arrays = {"x": np.random.default_rng(0).integers(256, size=(40, 1, 4, 4), dtype=np.uint8)}
    source, found = ArraySource(arrays, [Modality("x", (1, 4, 4))]), []
    for budget in (None, 0):
        with seeded(0, "network"):
            module = nn.Linear(16, 1).cuda()

        def loss(batch, progress, module=module):
            total = (module(batch["x"].flatten(1)) - 1).square().mean()
            return Losses(total, {"error": total})

        rows = Table.of(source, "cuda", budget)
        assert rows.is_streamed == (budget == 0)
        found.append(train(Stage("joint", module, loss, PLAIN, rows))[0])
    assert_equal(*found)
    assert said() == 2 * ["joint: each step is one CUDA graph"]


def spoiled(total, batch, progress):
    """Not finite for one row late in training, without reading a value."""
    hit = (batch["row"] == 17).any() & torch.as_tensor(progress >= 0.4)
    return total + torch.where(hit, math.nan, 0.0)


@on_gpu
@pytest.mark.gpu
def test_a_nan_is_named_as_by_eager_steps():
    messages, weights = [], []
    for way in ("no", "graph"):
        made = replace(stage(Training(epochs=5, batch_size=8), spoiled), validation=None)
        with pytest.raises(NumericsError) as caught:
            run_stage(made, compile=way)
        messages.append(str(caught.value))
        weights.append(made.trainable.state_dict())
    assert messages[0] == messages[1]
    assert "at epoch 3" in messages[0]
    assert_equal(*weights)


@on_gpu
@pytest.mark.gpu
def test_a_shortage_of_memory_is_one_sentence():
    def greedy(total, batch, progress):
        return total + torch.empty(2**45, dtype=torch.uint8, device="cuda")[0]

    with pytest.raises(StageError, match="stage 'joint' ran out of memory on cuda:0 with 8 rows"):
        train(stage(PLAIN, greedy))


# The stages of the systems

TRAIN = {"epochs": 2, "batch_size": 16}
FLOWS = {**TRAIN, "summary_hidden": [8]}
MLP = {"kind": "mlp", "hidden": [8]}
CONV = {"kind": "conv", "channels": [4]}
SMALL = {"hidden": [8]}
KINDS = {
    "joint": ("joint", {"joint": {**TRAIN, "merge": [8], "beta_start": 9.0, "clip": 1.0}}),
    "joint, bfloat16": ("joint", {"joint": {**TRAIN, "merge": [8], "precision": "bfloat16"}}),
    "flows": ("flows", {}),
    "splines": ("flows", {"posterior": {"kind": "nsf", **SMALL}}),
    "conditional": ("flows", {"posterior": {"kind": "conditional-maf", "context": 2, **SMALL}}),
    "contrastive": ("projectors", {"projector": {"kind": "contrastive", "dropout": 0.3}}),
    "amortised": ("amortised", {"subset": {"kind": "amortised", "embedding": 4, **FLOWS}}),
    "matching": (
        "matching",
        {"subset": {"kind": "matching", "embedding": 4, "width": 8, "sees": "both", **FLOWS}},
    ),
}


def stage_of_a_system(kind):
    name, sections = KINDS[kind]
    image = {"shape": [1, 8, 8], "likelihood": "laplace", "encoder": CONV, "decoder": CONV}
    config = config_from_dict(
        {
            "system": "jnf-shared",
            "latent_dim": 2,
            "modalities": {
                "a": {**image, "projector": CONV},
                "b": {"shape": [3], "encoder": MLP, "decoder": MLP, "projector": MLP},
            },
            "joint": {**TRAIN, "merge": [8]},
            "posterior": {"kind": "maf", **SMALL},
            "flows": FLOWS,
            "projector": {"kind": "contrastive", "dim": 2},
            "projectors": TRAIN,
            **sections,
        }
    )
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(256, size=(40, 1, 8, 8), dtype=np.uint8),
        "b": rng.normal(size=(50, 3)).astype(np.float32),
    }
    pairs = {"a": rng.integers(40, size=120), "b": rng.integers(50, size=120)}
    source = ArraySource(arrays, config.specifications(), pairs=pairs)
    system = build_system(config).cuda().eval().requires_grad_(False)
    (spec,) = (spec for spec in stages_of(system) if spec.name == name)
    spec.module.requires_grad_(True)
    return build_stage(spec, system, *Table.of(source, "cuda").split(0.3, rng))


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_of_a_system_is_captured(kind, said):
    """Convolutions sum in an order of their own each time, hence the tolerance."""
    expected, eager = train(stage_of_a_system(kind), "no")
    found, captured = train(stage_of_a_system(kind))
    assert said() == [f"{KINDS[kind][0]}: each step is one CUDA graph"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    losses = [[r[2] for r in recorder.records] for recorder in (captured, eager)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


# On a CPU


def test_on_a_cpu_a_graph_is_refused_in_one_line(said):
    made = stage(PLAIN, device="cpu")
    step = Step(made, new_optimizer(made), Sums())
    assert training_step(step, "auto") is step
    assert said() == []
    assert training_step(step, "graph") is step
    assert said() == ["joint: steps are not captured: there are no CUDA graphs on 'cpu'"]


@pytest.mark.bad_input
def test_an_unknown_way_is_refused():
    assert [check_compile(way) for way in ("auto", "graph", "torch", "no")]
    with pytest.raises(UsageError, match="unknown way to compile 'grpah': did you mean 'graph'?"):
        check_compile("grpah")
