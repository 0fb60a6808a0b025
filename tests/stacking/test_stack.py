"""A stacked training is the training of each variant alone, but for rounding and noise."""

import math

import pytest
import torch
from torch import nn

from mvflow.config import Training
from mvflow.core import NumericsError, UsageError
from mvflow.nn import BatchNorm, seeded
from mvflow.stacking import Variant, run_stack
from mvflow.stages import Losses
from mvflow.training import NoOpCallback, Stage, Table, TensorColumn, run_stage

SEEDS = (3, 5, 8)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def table(rows, seed, device):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed)).double().to(device)
    columns = {"x": x, "y": x.sum(1, keepdim=True).sin(), "row": torch.arange(rows, device=device)}
    return Table({k: TensorColumn(v, None) for k, v in columns.items()}, rows)


def stage(settings, seed, *, noise=0.0, spoil=None, device="cpu", rows=48):
    """A small network with batch normalisation and a frozen part, other weights for each seed."""
    with seeded(seed, "network"):
        module = nn.Sequential(
            nn.Linear(3, 8, bias=False), BatchNorm(8), nn.ReLU(), nn.Linear(8, 1)
        )
        frozen = nn.Linear(1, 1).requires_grad_(False)
    system = nn.ModuleDict({"module": module, "frozen": frozen}).double().to(device)

    def loss(batch, progress):
        x = batch["x"] + noise * torch.randn_like(batch["x"])
        total = (module(x) - frozen(batch["y"])).square().mean() * (1 + progress)
        if spoil is not None:
            total = total + spoil(module, batch)
        return Losses(total, {"double": 2 * total})

    tables = table(rows, seed, device), table(21 + seed, seed + 100, device)
    return Stage("joint", module, loss, settings, *tables, model=system)


class Recorder(NoOpCallback):
    def __init__(self):
        self.records = []

    def on_epoch(self, record, checkpoint):
        self.records.append(record)


def alone(settings, seed, **options):
    made, recorder = stage(settings, seed, **options), Recorder()
    run_stage(made, seed=seed, callback=recorder)
    return made.trainable.state_dict(), recorder.records


def stacked(settings, seeds=SEEDS, compile="auto", **options):
    records = {seed: [] for seed in seeds}
    variants = [Variant(stage(settings, s, **options), s, records[s].append) for s in seeds]
    run_stack(variants, compile=compile)
    return variants, records


SETTINGS = {
    "plain": Training(epochs=4, batch_size=8),
    "clipped": Training(
        epochs=4, batch_size=8, clip=0.1, schedule="one-cycle", learning_rate=0.05
    ),
    "patient": Training(epochs=30, batch_size=8, patience=2, learning_rate=0.2),
    "best": Training(epochs=12, batch_size=8, keep_best=True, weight_decay=0.1, learning_rate=0.2),
    "short": Training(epochs=4, batch_size=16, steps_per_epoch=2, schedule="cosine"),
    "none": Training(epochs=0, batch_size=8),
}


def assert_same(variant, records, settings, **options):
    weights, expected = alone(settings, variant.seed, **options)
    for name, value in variant.stage.trainable.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-7, atol=1e-9)
    assert variant.error is None
    assert variant.epochs == len(expected) == len(records)
    for found, alike in zip(records, expected, strict=True):
        assert found.validation == pytest.approx(alike.validation, rel=1e-9)
        assert (found.loss, found.terms) == (
            pytest.approx(alike.loss, rel=1e-9),
            pytest.approx(alike.terms, rel=1e-9),
        )
        assert (found[:2], found.learning_rate, found.epochs) == (
            *(alike[:2], alike.learning_rate),
            alike.epochs,
        )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_without_noise_each_is_trained_as_alone(settings):
    """In float64, where a few hundred steps of Adam keep rounding below the tolerance."""
    variants, records = stacked(settings)
    for variant in variants:
        assert_same(variant, records[variant.seed], settings)


def test_each_has_noise_of_its_own_and_ends_as_alone():
    """Means of the last losses over variants, within four standard errors of their difference."""
    settings, seeds = Training(epochs=12, batch_size=8, learning_rate=0.02), range(8)
    _, records = stacked(settings, seeds, noise=0.3)
    ends = [torch.tensor([records[s][-1].validation["loss"] for s in seeds])]
    ends.append(
        torch.tensor([alone(settings, s, noise=0.3)[1][-1].validation["loss"] for s in seeds])
    )
    difference = ends[0] - ends[1]
    assert difference.abs().min() > 0
    assert difference.mean().abs() < 4 * difference.std() / len(seeds) ** 0.5
    twins, same = stacked(settings, (0, 0), noise=0.3)
    assert same[0][0].loss != pytest.approx(same[0][1].loss, rel=1e-6)  # both wrote into [0]
    again = stacked(settings, (0, 0), noise=0.3)[0]
    for one, other in zip(twins, again, strict=True):
        for a, b in zip(*(v.stage.trainable.parameters() for v in (one, other)), strict=True):
            assert torch.equal(a, b)


def breaks_at_row_17(module, batch):
    """Not finite for variants whose seed, a buffer's value, is 5 and batches that have row 17."""
    is_hit = (batch["row"] == 17).any() & (module.seed == 5) & module.training
    return torch.where(is_hit, math.nan, 0.0)


def breaks_on_held_out_rows(module, batch):
    is_hit = (batch["row"] == 11).any() & (module.seed == 5)
    return torch.where(is_hit, math.nan, 0.0) if not module.training else 0.0


@pytest.mark.parametrize("spoil", [breaks_at_row_17, breaks_on_held_out_rows])
def test_a_nan_stops_one_variant_and_leaves_the_others(spoil):
    settings = Training(epochs=3, batch_size=8)
    stages = []
    for seed in SEEDS:
        made = stage(settings, seed, spoil=spoil)
        made.trainable.register_buffer("seed", torch.tensor(float(seed)))
        stages.append(made)
    before = {n: v.clone() for n, v in stages[1].trainable.state_dict().items()}
    variants = [Variant(made, s) for made, s in zip(stages, SEEDS, strict=True)]
    run_stack(variants, compile="no")
    lone = stage(settings, 5, spoil=spoil)
    lone.trainable.register_buffer("seed", torch.tensor(5.0))
    with pytest.raises(NumericsError) as caught:
        run_stage(lone, seed=5)
    said = str(caught.value).replace("last good epoch", "beginning of the stage")
    assert [None if v.error is None else str(v.error) for v in variants] == [None, said, None]
    assert [v.epochs for v in variants] == [3, 0, 3]
    for name, value in stages[1].trainable.state_dict().items():
        assert torch.equal(value, before[name])
    for variant in (variants[0], variants[2]):
        weights = alone(settings, variant.seed)[0]
        for name, value in weights.items():
            torch.testing.assert_close(variant.stage.trainable.state_dict()[name], value)


@pytest.mark.bad_input
def test_what_is_not_alike_is_refused():
    first, other = Training(epochs=1, batch_size=8), Training(epochs=2, batch_size=8)
    with pytest.raises(UsageError, match="'joint' differ in their settings"):
        run_stack([Variant(stage(first, 0), 0), Variant(stage(other, 1), 1)])


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["clipped"]], ids=str)
def test_a_captured_stack_is_the_eager_one(settings, caplog):
    """Noise included: a graph draws on from the same generator. Sums may differ in their order."""
    caplog.set_level("INFO", "mvflow.training.captured")
    found, eager = (
        stacked(settings, compile=way, noise=0.3, device="cuda") for way in ("graph", "no")
    )
    assert caplog.messages == ["joint: each step is one CUDA graph"]
    for one, other in zip(found[0], eager[0], strict=True):
        for a, b in zip(*(v.stage.trainable.parameters() for v in (one, other)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert found[1][3][-1].validation == pytest.approx(eager[1][3][-1].validation, rel=1e-6)
