"""Variants trained as one program are what each is alone: same batches, noise and weights."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import Training, config_from_dict
from mvflow.core import NumericsError, UsageError
from mvflow.estimators.sweeping import Quiet, stacks, sweep
from mvflow.models import Losses
from mvflow.nn import seeded
from mvflow.runs import RunDirectory, read_tensors
from mvflow.training import Silent, Stage, Table, TensorColumn, run_stage
from mvflow.training.stacked import StackedLoss
from mvflow.training.together import Together

ROUNDING = {"rtol": 1e-4, "atol": 2e-5}
"""float32, after some dozens of steps of Adam, which magnifies the rounding of small gradients."""


def table(seed, rows=32):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=rng)
    columns = {"x": x, "y": x.sum(1, keepdim=True).sin(), "row": torch.arange(rows)}
    return Table({k: TensorColumn(v, None) for k, v in columns.items()}, rows)


def stage(seed, settings, change=lambda total, batch, progress: total):
    """A small network with dropout and batch normalisation, trained with further noise.

    The bias that the normalisation takes away again would have no gradient but rounding.
    """
    with seeded(seed, "network"):
        module = nn.Sequential(
            nn.Linear(3, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, 1),
        )

    def loss(batch, progress):
        noise = 0.1 * torch.randn_like(batch["x"]) + 0.1 * torch.rand(len(batch["x"]), 3)
        total = (module(batch["x"] + noise) - batch["y"]).square().mean()
        return Losses(change(total, batch, progress), {"double": 2 * total})

    return Stage("joint", module, loss, settings, table(0), table(1, 16))


class Recorder(Silent):
    def __init__(self):
        self.records, self.checkpoints = [], []

    def on_epoch(self, record, checkpoint):
        self.records.append(record)
        self.checkpoints.append(checkpoint())


def alone(stages, resumes):
    heard, errors = [Recorder() for _ in stages], []
    for seed, each in enumerate(stages):
        try:
            run_stage(each, seed=seed, listener=heard[seed], resume=resumes[seed])
            errors.append(None)
        except NumericsError as error:
            errors.append(error)
    return heard, errors


def together(stages, resumes, reason=None):
    def task(seed, prepare):
        ready = prepare(stages[seed])
        run_stage(ready, seed=seed, listener=heard[seed], resume=resumes[seed])

    heard, both = [Recorder() for _ in stages], Together()
    errors = both.run([partial(task, seed) for seed in range(len(stages))])
    assert (both.reason is None) == (reason is None), both.reason
    assert reason is None or reason in both.reason
    assert both.calls > 0 or reason is not None
    return heard, errors


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **(tolerance or ROUNDING))


def assert_same(settings, change=lambda total, batch, progress: total, resumes=(None,) * 3, **how):
    """Train three variants both ways; returns what was heard together."""
    first = [stage(seed, s, change) for seed, s in enumerate(settings)]
    second = [stage(seed, s, change) for seed, s in enumerate(settings)]
    expected, errors = alone(first, copy.deepcopy(resumes))  # the optimiser writes on them
    found, raised = together(second, resumes, **how)
    assert [str(e) for e in raised] == [str(e) for e in errors]
    for a, b, ours, theirs in zip(first, second, expected, found, strict=True):
        assert_close(b.trainable.state_dict(), a.trainable.state_dict())
        assert len(ours.records) == len(theirs.records)
        for x, y in zip(ours.records, theirs.records, strict=True):
            assert y.loss == pytest.approx(x.loss, rel=1e-4)
            assert y.terms == pytest.approx(x.terms, rel=1e-4)
            assert y.validation == pytest.approx(x.validation, rel=1e-3)
            assert y.learning_rate == x.learning_rate
    return found, raised


def test_with_dropout_batch_normalisation_noise_and_clipping():
    assert_same([Training(epochs=4, batch_size=8, clip=0.1, learning_rate=0.01)] * 3)


def test_each_has_its_own_learning_rate_schedule_and_clipping():
    own = [{"learning_rate": 0.003}, {"schedule": "one-cycle", "clip": 0.05}, {}]
    assert_same([Training(epochs=3, batch_size=8, **each) for each in own])


def test_each_stops_early_by_itself_and_keeps_its_best_weights():
    settings = Training(epochs=30, batch_size=8, patience=2, learning_rate=0.05)
    found, _ = assert_same([settings] * 3)
    epochs = [len(each.records) for each in found]
    assert len(set(epochs)) > 1
    assert min(epochs) < 30


def test_without_rounding_they_are_equal_to_machine_precision():
    """In float64 what is left of a difference is that of the order of sums."""
    made = [[stage(seed, Training(epochs=4, batch_size=8)) for seed in range(3)] for _ in "ab"]
    for each in (*made[0], *made[1]):
        each.trainable.double()
        for part in (each.train, each.validation):
            for name in ("x", "y"):
                column = part.columns[name]
                part.columns[name] = TensorColumn(column.values.double(), None)
    alone(made[0], [None] * 3)
    together(made[1], [None] * 3)
    for a, b in zip(*made, strict=True):
        assert_close(b.trainable.state_dict(), a.trainable.state_dict(), rtol=1e-10, atol=1e-12)


def test_in_bfloat16_they_agree_within_its_precision():
    settings = [Training(epochs=2, batch_size=8, precision="bfloat16")] * 3
    first, second = ([stage(i, s) for i, s in enumerate(settings)] for _ in "ab")
    expected, _ = alone(first, [None] * 3)
    found, _ = together(second, [None] * 3)
    for ours, theirs in zip(expected, found, strict=True):
        for x, y in zip(ours.records, theirs.records, strict=True):
            assert y.loss == pytest.approx(x.loss, rel=2e-2)  # 8 bits


def test_those_that_go_on_from_a_later_epoch_are_caught_up_with():
    settings = Training(epochs=5, batch_size=8)
    (heard, _) = alone([stage(seed, settings) for seed in range(3)], [None] * 3)
    resumes = [None, heard[1].checkpoints[2], heard[2].checkpoints[0]]
    found, _ = assert_same([settings] * 3, resumes=resumes)
    assert [len(each.records) for each in found] == [5, 2, 4]


BAD = 7


def spoil_a_large_loss(total, batch, progress):
    """NaN for one row late in training, in the variant whose loss is above a bar."""
    hit = (batch["row"] == BAD).any() & (0.4 <= progress < 1) & (total > 20)
    return total + torch.where(hit, math.nan, 0.0)


def test_one_whose_loss_is_not_finite_stops_and_the_others_go_on():
    settings = [Training(epochs=5, batch_size=8, learning_rate=r) for r in (1e-3, 10.0, 1e-3)]
    found, errors = assert_same(settings, spoil_a_large_loss)
    assert [type(e) for e in errors] == [type(None), NumericsError, type(None)]
    assert "training rows" in str(errors[1])
    assert [len(each.records) for each in found] != [5, 5, 5]


def by_value(total, batch, progress):
    return total if total.item() > 0 else -total


def by_unknown_numbers(total, batch, progress):
    return total + 0.01 * torch.randperm(4)[0]


@pytest.mark.parametrize(
    ("change", "reason"), [(by_value, "item"), (by_unknown_numbers, "random")]
)
def test_what_cannot_be_stacked_says_why_and_is_trained_in_turn(change, reason):
    settings = [Training(epochs=2, batch_size=8)] * 3
    first, second = ([stage(i, s, change) for i, s in enumerate(settings)] for _ in "ab")
    alone(first, [None] * 3)
    together(second, [None] * 3, reason=reason)
    for a, b in zip(first, second, strict=True):
        assert_close(b.trainable.state_dict(), a.trainable.state_dict(), rtol=0, atol=0)


def test_the_global_generator_stays():
    before = torch.get_rng_state()
    together([stage(i, Training(epochs=1, batch_size=8)) for i in range(2)], [None] * 2)
    assert torch.equal(torch.get_rng_state(), before)


# Sweeps: the stages of the models, in run directories


class Heard(Quiet):
    def __init__(self):
        self.stacks, self.failures = [], []

    def on_stack(self, stage, names, *, stacked, reason):
        self.stacks.append((stage, tuple(names), stacked, reason))

    def on_failure(self, name, error):
        self.failures.append((name, error))


TRAIN = {"epochs": 2, "batch_size": 40, "learning_rate": 1e-2}
FLOWS = {**TRAIN, "hidden": [8], "summary_hidden": [8], "context": 2}
SECTIONS = {
    "joint": {**TRAIN, "merge": [8]},
    "flows": FLOWS,
    "projectors": {**TRAIN, "dim": 2},
    "amortised": {**FLOWS, "embedding": 4},
    "data": {"validation": 0.2},
}
MLP = {"kind": "mlp", "hidden": [8]}


def configs(changes, modalities=None, **top):
    """Configurations of two modalities, one for each of `changes`: section.key -> value."""
    modalities = modalities or {"m0": {"shape": [2]}, "m1": {"shape": [3]}}
    specs = {
        n: {"encoder": MLP, "decoder": MLP, "projector": MLP, **m} for n, m in modalities.items()
    }
    found = {}
    for i, change in enumerate(changes):
        raw = {"latent_dim": 2, "modalities": specs, **SECTIONS, **top}
        for key, value in change.items():
            section, _, name = key.rpartition(".")
            raw = (
                {**raw, section: {**raw[section], name: value}}
                if section
                else {**raw, name: value}
            )
        found[f"v{i}"] = config_from_dict(raw)
    return found


BETAS = [
    {"seed": 0, "joint.beta": 0.5},
    {"seed": 1, "joint.beta": 2.5, "joint.learning_rate": 3e-3},
    {"seed": 1, "joint.beta": 1.0},
]
ANNEALED = [{"joint.beta_start": 20.0, **each} for each in BETAS]
SEEDS = [{"seed": seed} for seed in range(3)]
SHARED = {"model": "jnf-shared"}
KINDS = {
    "beta": (BETAS, {}),
    "annealed": (ANNEALED, {}),
    "splines": ([{"flows.posterior": "nsf", **each} for each in SEEDS], {}),
    "conditional": ([{"flows.posterior": "conditional-maf", **each} for each in SEEDS], {}),
    "contrastive": (
        [{"projectors.temperature": 0.1 * (i + 1), **each} for i, each in enumerate(SEEDS)],
        {**SHARED, "projectors": {**SECTIONS["projectors"], "dropout": 0.3}},
    ),
    "dcca": (
        [{"projectors.ridge": 0.01 * (i + 1), **each} for i, each in enumerate(SEEDS)],
        {**SHARED, "projectors": {**SECTIONS["projectors"], "kind": "dcca"}},
    ),
    "amortised": (SEEDS, {"subset": "amortised"}),
}


def stages_of(path):
    return {f.stem: read_tensors(f)[0] for f in path.glob("*.safetensors")}


def assert_swept_alike(variants, data, tmp_path, kind=None, **tolerance):
    heard = Heard()
    stacked = sweep(variants, tmp_path / "stacked", data, stack="always", listener=heard)
    in_turn = sweep(variants, tmp_path / "turn", data, stack="never")
    assert all(is_stacked for _, _, is_stacked, _ in heard.stacks), heard.stacks
    for a, b in zip(in_turn, stacked, strict=True):
        assert (a.error, b.error, a.stages) == (None, None, b.stages)
        expected, found = stages_of(a.path), stages_of(b.path)
        assert found.keys() == expected.keys() == a.stages.keys()
        for name in expected:
            assert_close(seen(found[name], kind), seen(expected[name], kind), **tolerance)
    return stacked


def seen(weights, kind):
    """Without what correlations do not see: the mean of a projection, which posteriors subtract.

    Its gradient is rounding, which Adam scales up.
    """
    last = ("x_m0.1.2.bias", "x_m1.1.2.bias", "x_m0.encoder.0.mean", "x_m1.encoder.0.mean")
    return {k: v for k, v in weights.items() if kind != "dcca" or k not in last}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stacked_sweep_is_a_sweep_in_turn(kind, small, tmp_path):
    changes, top = KINDS[kind]
    assert_swept_alike(configs(changes, **top), small.data(2, 100)[0], tmp_path, kind)


NETWORKS = {
    "conv": {"kind": "conv", "channels": [4]},
    "resnet": {"kind": "resnet", "channels": [4, 4]},
    "layers": {"kind": "layers", "layers": [{"channels": 4}], "norm": "batch"},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_images_can_be_stacked(kind, tmp_path):
    network = NETWORKS[kind]
    image = {"shape": [1, 8, 8], "likelihood": "laplace", "encoder": network, "decoder": network}
    variants = configs(BETAS, {"m0": image, "m1": {"shape": [3]}})
    rng = np.random.default_rng(0)
    data = {
        "m0": rng.random((80, 1, 8, 8), np.float32),
        "m1": rng.normal(size=(80, 3)).astype(np.float32),
    }
    assert_swept_alike(variants, data, tmp_path, rtol=1e-3, atol=1e-4)


def test_equal_stages_are_trained_once_and_shared(small, tmp_path):
    shared = {"model": "jnf-shared"}
    variants = configs(
        [
            {"joint.beta": 0.5},
            {"joint.beta": 2.5},
            {"joint.beta": 0.5, **shared},
            {"joint.beta": 2.5, **shared},
        ]
    )
    heard, data = Heard(), small.data(2, 100)[0]
    found = sweep(variants, tmp_path, data, stack="always", listener=heard)
    assert [(s, names) for s, names, _, _ in heard.stacks] == [
        ("projectors", ("v2",)),
        ("joint", ("v0", "v1")),
        ("flows", ("v0", "v1")),
        ("flows", ("v2", "v3")),
    ]
    assert [run.stages for run in found] == [
        {"joint": "trained", "flows": "trained"},
        {"joint": "trained", "flows": "trained"},
        {"projectors": "trained", "joint": "shared", "flows": "trained"},
        {"projectors": "shared", "joint": "shared", "flows": "trained"},
    ]
    for run in found:
        history = [(r["stage"], r["epoch"]) for r in RunDirectory(run.path).history()]
        assert len(history) == len(set(history)) == 2 * len(run.stages)
    again = sweep(variants, tmp_path, data, listener=heard)
    assert len(heard.stacks) == 4
    assert {how for run in again for how in run.stages.values()} == {"done"}


def test_an_interrupted_sweep_goes_on(small, tmp_path, monkeypatch):
    variants, data, calls = configs(BETAS), small.data(2, 100)[0], []
    whole = sweep(variants, tmp_path / "whole", data, stack="always")
    compute = StackedLoss.__call__

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 5:  # in the second epoch of three calls each
            raise KeyboardInterrupt
        return compute(self, *args)

    monkeypatch.setattr(StackedLoss, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(variants, tmp_path / "parts", data, stack="always")
    for name in variants:
        run = RunDirectory(tmp_path / "parts" / name)
        assert run.status("joint", variants[name]) == "unfinished"
        assert [r["epoch"] for r in run.history()] == [0]
    parts = sweep(variants, tmp_path / "parts", data, stack="always")
    for a, b in zip(whole, parts, strict=True):
        expected, found = stages_of(a.path), stages_of(b.path)
        for name in expected:
            assert_close(found[name], expected[name], rtol=0, atol=0)


def test_one_variant_that_fails_does_not_stop_the_others(small, tmp_path):
    variants = configs([{}, {"joint.learning_rate": 1e30}, {"seed": 1}])
    heard = Heard()
    found = sweep(variants, tmp_path, small.data(2, 100)[0], stack="always", listener=heard)
    assert [run.error is None for run in found] == [True, False, True]
    assert "loss of stage 'joint' is not finite" in found[1].error
    assert [name for name, _ in heard.failures] == ["v1"]
    assert found[1].stages == {}
    assert found[0].stages == found[2].stages == {"joint": "trained", "flows": "trained"}


def test_settings_that_change_the_program_make_stacks_of_their_own():
    changes = [{"joint.epochs": 3}, {"joint.epochs": 5, "joint.beta_start": 9.0}, {"seed": 4}]
    variants = configs(changes, **{"joint": {**SECTIONS["joint"], "epochs": 3}})
    assert stacks("joint", variants) == (
        [["v0", "v2"], ["v1"]],
        ["joint.beta_start", "joint.epochs"],
    )
    assert stacks("flows", variants) == ([["v0", "v1", "v2"]], [])
    both = configs([{}, SHARED, {**SHARED, "projectors.kind": "dcca"}])
    groups, apart = stacks("flows", both)
    assert groups == [["v0"], ["v1", "v2"]]
    assert "model" in apart


@pytest.mark.bad_input
def test_a_directory_with_other_settings_is_refused(small, tmp_path):
    data = small.data(2, 100)[0]
    sweep(configs([{"joint.epochs": 0, "flows.epochs": 0}]), tmp_path, data)
    with pytest.raises(UsageError, match=r"v0 is there with .*joint.beta is 1.0, not 2.5"):
        sweep(configs([{"joint.epochs": 0, "flows.epochs": 0, "joint.beta": 2.5}]), tmp_path, data)
