"""A captured step is an eager one: on a CPU, where its function is called instead of replayed."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mvflow.config import Training, config_from_dict
from mvflow.core import ArraySource, Modality, NumericsError, UsageError
from mvflow.models import Losses, build_model
from mvflow.nn import seeded
from mvflow.training import (
    Silent,
    Stage,
    Table,
    TensorColumn,
    build_stage,
    captured,
    check_compile,
    compiled,
    loop,
    run_stage,
)
from mvflow.training.schedules import annealed
from mvflow.training.step import Step, Sums, new_optimizer

ROWS = 64


def table(seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 3, generator=rng)
    columns = {"x": x, "y": x.sum(1, keepdim=True).sin(), "row": torch.arange(ROWS)}
    return Table({k: TensorColumn(v, None) for k, v in columns.items()}, ROWS)


def stage(settings, change=lambda total, batch, progress: total):
    """A small network with dropout, batch normalisation, noise and something annealed."""
    with seeded(0, "network"):
        module = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def loss(batch, progress):
        noise = 0.1 * torch.randn_like(batch["x"])
        error = (module(batch["x"] + noise) - batch["y"]).float().square().mean()
        total = annealed(20.0, 0.7, 0.6, progress) * error
        return Losses(change(total, batch, progress), {"error": error})

    return Stage("joint", module, loss, settings, table(), table(seed=1))


class Recorder(Silent):
    def __init__(self):
        self.records, self.checkpoints, self.within = [], [], []

    def on_step(self, stage, epoch, step, steps, loss, checkpoint):
        self.within.append(((epoch, step), checkpoint()))

    def on_epoch(self, record, checkpoint):
        self.records.append(record[:6])  # all but what was measured of the speed
        self.checkpoints.append(checkpoint())


def train(made, compile="graph", **options):
    heard = Recorder()
    run_stage(made, listener=heard, compile=compile, **options)
    return made.trainable.state_dict(), heard


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def assert_same(found, expected):
    """Equal to the bit: weights, history, and checkpoints at and within every epoch."""
    (weights, heard), (others, theirs) = found, expected
    assert_equal(weights, others)
    assert heard.records == theirs.records
    assert [at for at, _ in heard.within] == [at for at, _ in theirs.within]
    ours = [*heard.checkpoints, *(c for _, c in heard.within)]
    for a, b in zip(ours, [*theirs.checkpoints, *(c for _, c in theirs.within)], strict=True):
        assert_equal(a.tensors, b.tensors)
        assert {**a.state, "seconds": 0} == {**b.state, "seconds": 0}


@pytest.fixture(autouse=True)
def every_step_is_heard(monkeypatch):
    monkeypatch.setattr(loop, "HEARD_EVERY", -1.0)


@pytest.fixture
def said(caplog):
    """What was logged: said() -> text; warnings are lines with WARNING."""
    caplog.set_level(logging.INFO, "mvflow.training.captured")
    return lambda: caplog.text


SETTINGS = {
    "plain": Training(epochs=3, batch_size=8),
    "clipped": Training(epochs=3, batch_size=8, clip=0.5, schedule="one-cycle"),
    "patient": Training(epochs=8, batch_size=8, patience=1, learning_rate=0.1),
    "short": Training(epochs=5, batch_size=8, steps_per_epoch=2, schedule="cosine"),
    "bfloat16": Training(epochs=3, batch_size=8, precision="bfloat16"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_with_a_captured_step_gives_the_same_bits(settings, said):
    expected = train(stage(settings), "no")
    assert_same(train(stage(settings)), expected)
    assert "steps are captured" in said()
    assert "WARNING" not in said()
    if settings.patience is not None:
        assert len(expected[1].records) < settings.epochs


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_either_kind_of_step_goes_on_from_a_checkpoint_of_the_other(settings):
    expected, whole = train(stage(settings), "no")
    _, other = train(stage(settings))
    for way, checkpoints in (("graph", whole.within), ("no", other.within)):
        for _, checkpoint in checkpoints[2::5]:
            assert_equal(train(stage(settings), way, resume=checkpoint)[0], expected)


def test_on_a_cpu_auto_is_eager():
    step = step_of(stage(SETTINGS["plain"]))
    assert captured.training_step(step, "auto") is step
    assert captured.training_step(step, "graph") is not step


def step_of(made):
    return Step(made, new_optimizer(made), Sums())


@pytest.mark.parametrize("is_faster", [True, False])
def test_auto_measures_real_steps_and_keeps_the_faster(is_faster, said, monkeypatch):
    def stopped(clock):
        clock.seconds = 0.01 if (clock._step is not clock.eager) == is_faster else 0.02

    def measured(step, compile):
        monkeypatch.setattr(captured._Clock, "eager", step, raising=False)
        made.append(captured._Capturing(step, is_measured=True))
        return made[-1]

    made = []
    settings = Training(epochs=5, batch_size=8)
    expected = train(stage(settings), "no")
    monkeypatch.setattr(captured._Clock, "stop", stopped)
    monkeypatch.setattr(loop, "training_step", measured)
    assert_same(train(stage(settings)), expected)
    times = "1.00 ms captured, 2.00 ms eager: goes on captured"
    if not is_faster:
        times = "2.00 ms captured, 1.00 ms eager: goes on eager"
    assert f"stage joint: a step takes {times}" in said()
    assert (made[-1]._static is not None) == is_faster


# What cannot be captured


def warnings_in(text):
    return [line for line in text.splitlines() if line.startswith("WARNING")]


def by_value(total, batch, progress):
    return total if total.item() > 0 else -total


def by_progress(total, batch, progress):
    return 2 * total if progress > 0.5 else total


def by_chosen_rows(total, batch, progress):
    return total + 0.01 * batch["x"][batch["x"][:, 0] > 0].nonzero().shape[0]


@pytest.mark.parametrize("change", [by_value, by_progress, by_chosen_rows])
def test_a_loss_that_reads_values_stays_eager_and_loses_nothing(change, said):
    settings = SETTINGS["clipped"]
    assert_same(train(stage(settings, change)), train(stage(settings, change), "no"))
    (line,) = warnings_in(said())
    assert "stage joint is not captured: its loss reads a value on the host" in line


def test_auto_does_not_warn_of_what_needs_no_graph(said, monkeypatch):
    monkeypatch.setattr(
        loop, "training_step", lambda step, way: captured._Capturing(step, is_measured=True)
    )
    train(stage(SETTINGS["plain"], by_value))
    assert "INFO" in said()
    assert "is not captured: its loss reads a value on the host" in said()
    assert "WARNING" not in said()


def test_a_capture_that_fails_is_told_once_and_loses_nothing(said, monkeypatch):
    def failing(run, step, stream):
        run()  # as far as it went
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured, "recorded", failing)
    assert_same(train(stage(SETTINGS["plain"])), train(stage(SETTINGS["plain"]), "no"))
    (line,) = warnings_in(said())
    assert "is not captured: operation not permitted" in line


def nothing(run, step):
    return lambda: None


def twice(run, step):
    return lambda: (run(), run())


def with_other_noise(run, step):
    return lambda: (torch.manual_seed(1), run())


def with_the_first_rate(run, step):
    rate = step.optimizer.param_groups[0]["lr"]

    def replay():
        rate.fill_(10 * rate.item())
        run()

    return replay


def with_one_number_too_many(run, step):
    return lambda: (run(), torch.rand(1))


def without_sums(run, step):
    def replay():
        kept = [value.clone() for value in step.sums.all()]
        run()
        for value, before in zip(step.sums.all(), kept, strict=True):
            value.copy_(before)

    return replay


WRONG = {
    nothing: "weights",
    twice: "weights",
    with_other_noise: "",
    with_the_first_rate: "weights",
    with_one_number_too_many: "random numbers",
    without_sums: "sums",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_replay_that_is_not_the_step_is_seen_and_loses_nothing(wrong, said, monkeypatch):
    monkeypatch.setattr(captured, "recorded", lambda run, step, stream: wrong(run, step))
    assert_same(train(stage(SETTINGS["plain"])), train(stage(SETTINGS["plain"]), "no"))
    (line,) = warnings_in(said())
    assert f"a replay is not what the step does, seen by its {WRONG[wrong]}" in line


def test_rounding_is_no_difference(said, monkeypatch):
    def rounded(run, step, stream):
        def replay():
            run()
            for p in step.stage.trainable.parameters():
                p.data.mul_(1 + 1e-6)

        return replay

    monkeypatch.setattr(captured, "recorded", rounded)
    train(stage(SETTINGS["plain"]))
    assert "steps are captured" in said()
    assert "WARNING" not in said()


def test_an_error_of_the_loss_itself_is_the_callers():
    def broken(total, batch, progress):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(stage(SETTINGS["plain"], broken))


def spoiled(total, batch, progress):
    """Not finite for one row late in training, without reading a value."""
    hit = (batch["row"] == 17).any() & torch.as_tensor(progress >= 0.4)
    return total + torch.where(hit, math.nan, 0.0)


def test_a_nan_is_named_as_by_eager_steps():
    settings, messages, weights = Training(epochs=5, batch_size=8), [], []
    for way in ("no", "graph"):
        made = stage(settings, spoiled)
        with pytest.raises(NumericsError) as caught:
            run_stage(made, compile=way)
        messages.append(str(caught.value))
        weights.append(made.trainable.state_dict())
    assert messages[0] == messages[1]
    assert "at epoch 3" in messages[0]
    assert_equal(*weights)


def test_what_is_known_beforehand_is_not_tried(said):
    made = stage(SETTINGS["plain"])
    source = ArraySource({"x": np.ones((9, 3), np.float32)}, [Modality("x", (3,))])
    streamed = Stage("joint", made.trainable, made.loss, made.settings, Table.of(source, budget=0))
    others = [streamed, compiled(made, backend="eager")]
    for each in others:
        step = step_of(each)
        assert captured.training_step(step, "graph") is step
    lines = warnings_in(said())
    assert len(lines) == 2
    assert "is not captured: its rows are streamed" in lines[0]
    assert "its loss is compiled, or shared" in lines[1]


@pytest.mark.bad_input
def test_an_unknown_way_is_refused():
    assert [check_compile(way) for way in ("auto", "graph", "torch", "no")]
    with pytest.raises(UsageError, match="unknown way to compile 'grpah': did you mean 'graph'?"):
        check_compile("grpah")


# The stages of the models

TRAIN = {"epochs": 2, "batch_size": 16}
FLOWS = {**TRAIN, "hidden": [8], "summary_hidden": [8], "context": 2}
MLP = {"kind": "mlp", "hidden": [8]}
CONV = {"kind": "conv", "channels": [4]}
KINDS = {
    "joint": ("joint", {"joint": {**TRAIN, "merge": [8], "beta_start": 9.0, "clip": 1.0}}),
    "joint, bfloat16": ("joint", {"joint": {**TRAIN, "merge": [8], "precision": "bfloat16"}}),
    "flows": ("flows", {}),
    "flows, bfloat16": ("flows", {"flows": {**FLOWS, "precision": "bfloat16"}}),
    "splines": ("flows", {"flows": {**FLOWS, "posterior": "nsf"}}),
    "conditional": ("flows", {"flows": {**FLOWS, "posterior": "conditional-maf"}}),
    "contrastive": ("projectors", {"projectors": {**TRAIN, "dim": 2, "dropout": 0.3}}),
    "amortised": ("amortised", {"subset": "amortised"}),
    "dcca": (
        "projectors",
        {"projectors": {**TRAIN, "batch_size": 20, "dim": 2, "kind": "dcca"}},
    ),
}


def model_stage(kind):
    name, sections = KINDS[kind]
    image = {"shape": [1, 8, 8], "likelihood": "laplace", "encoder": CONV, "decoder": CONV}
    config = config_from_dict(
        {
            "model": "jnf-shared",
            "latent_dim": 2,
            "modalities": {
                "a": {**image, "projector": CONV},
                "b": {"shape": [3], "encoder": MLP, "decoder": MLP, "projector": MLP},
            },
            "joint": {**TRAIN, "merge": [8]},
            "flows": FLOWS,
            "amortised": {**FLOWS, "embedding": 4},
            "projectors": {**TRAIN, "dim": 2},
            "data": {"validation": 0.3},
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
    model = build_model(config).eval().requires_grad_(False)
    model.stage_module(name).requires_grad_(True)
    return build_stage(name, model, config, Table.of(source))


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_of_a_model_can_be_captured_but_dcca(kind, said):
    assert_same(train(model_stage(kind)), train(model_stage(kind), "no"))
    if kind == "dcca":  # its matrices are looked at: are they positive definite?
        assert "its loss reads a value on the host" in said()
    else:
        assert "steps are captured" in said()
        assert "WARNING" not in said()


class OnTheDevice(TorchFunctionMode):
    """Refuses what would copy from or to the host if the tensors were on a device."""

    COPYING = frozenset(
        {
            *(torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy),
            *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu),
            *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
        }
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        is_there = func is torch.as_tensor and isinstance(args[0], Tensor)
        assert func not in self.COPYING or is_there, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dcca"])
def test_no_stage_copies_anything_between_host_and_device_in_a_step(kind):
    made = model_stage(kind)
    made.trainable.train()
    static = captured._Static(step_of(made), torch.arange(16))
    static.rows.copy_(torch.arange(16))
    with OnTheDevice():
        static.run()
        static.run()


# The thin part that only CUDA can run, on what stands for it


class Cuda:
    """As much of `torch.cuda` as a capture uses; remembers what was done."""

    def __init__(self, fails):
        self.done, self.fails = [], fails
        self.default_generators = [self]
        self.CUDAGraph = lambda: SimpleNamespace(
            replay="replay", register_generator_state=lambda _: self.done.append("register")
        )

    def graph(self, graph, stream):
        self.done.append("begin")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.done.append("end")
        if self.fails:
            raise RuntimeError("invalid capture")

    def current_stream(self, device):
        return "current"

    def set_stream(self, stream):
        self.done.append(f"stream {stream}")

    def clone_state(self):
        return "kept"

    def graphsafe_set_state(self, state):
        self.done.append(f"generator {state}")


@pytest.mark.parametrize("own", [0, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_leaves_stream_generators_and_optimiser_as_they_were(fails, own, monkeypatch):
    cuda, step, seen = Cuda(fails), step_of(stage(SETTINGS["plain"])), []
    step.generators = [cuda] * own
    step(torch.arange(8), 0.0)

    def run():
        group = step.optimizer.param_groups[0]
        seen.append((group["capturable"], [p.grad for p in group["params"] if p.grad is not None]))

    monkeypatch.setattr(captured.torch, "cuda", cuda)
    stream = SimpleNamespace(device=torch.device("cuda", 0))
    if fails:
        with pytest.raises(RuntimeError, match="invalid capture"):
            captured.recorded(run, step, stream)
    else:
        assert captured.recorded(run, step, stream) == "replay"
    after = ["stream current", *["generator kept"] * (1 + own)] if fails else []
    assert cuda.done == [*["register"] * own, "begin", "end", *after]
    assert seen == [(True, [])]
    assert not step.optimizer.param_groups[0]["capturable"]
