"""Variants trained as one program are what each is alone: same batches, noise and weights."""

import copy
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import Training, config_from_dict
from mvflow.core import DataError, NumericsError, UsageError
from mvflow.estimators import sweeping
from mvflow.estimators.sweeping import Quiet, stacks, sweep
from mvflow.models import Losses
from mvflow.nn import seeded
from mvflow.runs import RunDirectory, read_tensors
from mvflow.training import Silent, Stage, Table, TensorColumn, loop, run_stage
from mvflow.training.ensemble import Variant, run_stacked
from mvflow.training.stacked import StackedLoss

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
        self.records, self.checkpoints, self.within = [], [], []

    def on_step(self, stage, epoch, step, steps, loss, checkpoint):
        self.within.append(checkpoint())

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


def together(stages, resumes, reason=None, compile="auto"):
    heard, errors, said = [Recorder() for _ in stages], [None] * len(stages), []
    variants = [
        Variant(each, seed, {}, resumes[seed], heard[seed]) for seed, each in enumerate(stages)
    ]
    for number, error in run_stacked(variants, compile=compile, on_turn=said.append):
        errors[number] = error
    assert (said == []) == (reason is None), said
    assert reason is None or reason in said[0]
    return heard, errors


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **(tolerance or ROUNDING))


def assert_same(
    settings,
    change=lambda total, batch, progress: total,
    resumes=(None,) * 3,
    initial=lambda seed, module: None,
    **how,
):
    """Train three variants both ways; returns what was heard together."""
    first = [stage(seed, s, change) for seed, s in enumerate(settings)]
    second = [stage(seed, s, change) for seed, s in enumerate(settings)]
    for seed, each in (*enumerate(first), *enumerate(second)):
        initial(seed, each.trainable)
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


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_with_dropout_batch_normalisation_noise_and_clipping(schedule):
    settings = Training(epochs=4, batch_size=8, clip=0.1, learning_rate=0.01, schedule=schedule)
    assert_same([settings] * 3)


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
    is_late = torch.as_tensor(progress >= 0.4) & torch.as_tensor(progress < 1)
    hit = (batch["row"] == BAD).any() & is_late & (total > 20)
    return total + torch.where(hit, math.nan, 0.0)


@pytest.mark.parametrize("compile", ["no", "graph"])
def test_one_whose_loss_is_not_finite_stops_and_the_others_go_on(compile):
    def large(seed, module):
        if seed == 1:
            module[-1].weight.data.mul_(100.0)

    settings = [Training(epochs=5, batch_size=8)] * 3
    found, errors = assert_same(settings, spoil_a_large_loss, initial=large, compile=compile)
    assert [type(e) for e in errors] == [type(None), NumericsError, type(None)]
    assert "training rows" in str(errors[1])
    assert [len(each.records) for each in found] == [5, 2, 5]


def test_a_listener_that_fails_ends_its_own_training_alone():
    class Full(Recorder):
        def on_epoch(self, record, checkpoint):
            raise DataError("no space left")

    stages = [stage(seed, Training(epochs=3, batch_size=8)) for seed in range(3)]
    heard = [Recorder(), Full(), Recorder()]
    variants = [Variant(each, 0, listener=h) for each, h in zip(stages, heard, strict=True)]
    found = dict(run_stacked(variants))
    assert (found[0], str(found[1]), found[2]) == (None, "no space left", None)
    assert [len(each.records) for each in heard] == [3, 0, 3]


CAPTURED = {
    "plain": {},
    "clipped": {"clip": 0.1, "schedule": "one-cycle"},
    "bfloat16": {"precision": "bfloat16"},
    "patient": {"epochs": 8, "patience": 1, "learning_rate": 0.1},
}


@pytest.mark.parametrize("kind", CAPTURED)
def test_a_captured_step_of_a_stack_is_the_step_to_the_bit(kind, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "mvflow.training.captured")
    monkeypatch.setattr(loop, "HEARD_EVERY", -1.0)
    settings = Training(**{"epochs": 4, "batch_size": 4, **CAPTURED[kind]})
    ways = []
    for compile in ("no", "graph"):
        stages = [stage(seed, settings) for seed in range(3)]
        heard, _ = together(stages, [None] * 3, compile=compile)
        ways.append((stages, heard))
    assert "steps are captured" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO], caplog.text
    (stages, heard), (others, theirs) = ways
    for a, b in zip(stages, others, strict=True):
        assert_close(a.trainable.state_dict(), b.trainable.state_dict(), rtol=0, atol=0)
    for a, b in zip(heard, theirs, strict=True):
        assert [r[:6] for r in a.records] == [r[:6] for r in b.records]
        for x, y in zip(a.within, b.within, strict=True):
            assert_close(x.tensors, y.tensors, rtol=0, atol=0)


@pytest.mark.parametrize("compile", ["no", "graph"])
def test_checkpoints_of_a_stack_and_of_one_alone_are_the_same_kind(compile, monkeypatch):
    monkeypatch.setattr(loop, "HEARD_EVERY", -1.0)
    settings = Training(epochs=3, batch_size=8, patience=9)
    apart, stacked = ([stage(i, settings) for i in range(3)] for _ in "ab")
    expected, _ = alone(apart, [None] * 3)
    found, _ = together(stacked, [None] * 3, compile=compile)
    for ours, theirs in zip(expected, found, strict=True):
        assert len(ours.within) == len(theirs.within) == 12
        for x, y in zip(ours.within, theirs.within, strict=True):
            assert_close(y.tensors, x.tensors)
            assert {**x.state, "seconds": 0, "best_loss": 0} == {
                **y.state,
                "seconds": 0,
                "best_loss": 0,
            }
    for at in (2, 5):  # within the first epoch and the second
        again, others = ([stage(i, settings) for i in range(3)] for _ in "ab")
        alone(again, [copy.deepcopy(h.within[at]) for h in found])
        together(others, [h.within[at] for h in expected], compile=compile)
        for a, b, whole in zip(again, others, apart, strict=True):
            assert_close(a.trainable.state_dict(), whole.trainable.state_dict())
            assert_close(b.trainable.state_dict(), whole.trainable.state_dict())


def test_those_within_one_epoch_go_on_together_from_its_end(monkeypatch):
    monkeypatch.setattr(loop, "HEARD_EVERY", -1.0)
    settings = Training(epochs=4, batch_size=8)
    heard, _ = alone([stage(seed, settings) for seed in range(3)], [None] * 3)
    assert_same([settings] * 3, resumes=[heard[0].within[5], heard[1].within[6], None])


def test_an_interrupted_stack_leaves_each_where_it_was():
    def interrupt(record, checkpoint):
        if record.epoch == 1:
            raise KeyboardInterrupt

    settings = Training(epochs=4, batch_size=8)
    stages = [stage(seed, settings) for seed in range(3)]
    heard = [Recorder() for _ in stages]
    heard[2].on_epoch = interrupt
    variants = [Variant(each, i, listener=heard[i]) for i, each in enumerate(stages)]
    with pytest.raises(KeyboardInterrupt):
        dict(run_stacked(variants))
    for each, recorder in zip(stages[:2], heard, strict=False):
        weights = {f"weights/{k}": v for k, v in each.trainable.state_dict().items()}
        kept = recorder.checkpoints[-1].tensors
        assert_close(weights, {k: kept[k] for k in weights}, rtol=0, atol=0)
        storages = {t.untyped_storage().nbytes() == t.nbytes for t in weights.values()}
        assert storages == {True}  # slices no longer


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
    {"seed": 1, "joint.beta": 2.5},
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dcca"])
def test_captured_steps_of_each_stage_are_the_steps_to_the_bit(
    kind, small, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "mvflow.training.captured")
    changes, top = KINDS[kind]
    stages = [s for s in ("joint", "flows", "projectors", "amortised") if s in SECTIONS]
    short = {f"{stage}.batch_size": 10 for stage in stages}
    variants, ways = configs([{**short, **each} for each in changes], **top), []
    for compile in ("no", "graph"):
        monkeypatch.setattr(sweeping, "run_stacked", partial(run_stacked, compile=compile))
        found = sweep(variants, tmp_path / compile, small.data(2, 100)[0], stack="always")
        ways.append([stages_of(run.path) for run in found])
    assert caplog.text.count("steps are captured") == len(found[0].stages)
    assert not [r for r in caplog.records if r.levelno > logging.INFO], caplog.text
    for a, b in zip(*ways, strict=True):
        for name in a:
            assert_close(b[name], a[name], rtol=0, atol=0)


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
