"""Training that stops in the middle: nothing is lost, and what is damaged is said."""

import errno
import importlib
import math
import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from mvflow import JNF, JNFShared, load
from mvflow.core import DataError, StageError
from mvflow.estimators import fitting
from mvflow.runs import RunDirectory, directory, read_tensors, write_json, write_tensors
from mvflow.training import Checkpoint, NoOpCallback, StepRecord, loop

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 4  # of each epoch: 152 rows in batches of 32


class Killed(Exception):
    pass


class KillAt(NoOpCallback):
    """Stops training in the middle of a stage, after a step that was kept."""

    def __init__(self, stage=None, epoch=None, step=None):
        self.at, self.first = (stage, epoch, step), None

    def on_step(self, record, checkpoint):
        assert record.steps == STEPS
        if self.first is None:
            self.first = record[:3]
        if record[:3] == self.at:
            raise Killed


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after each step."""
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(fitting, "CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr(loop, "REPORT_INTERVAL", -1.0)


@pytest.fixture
def train(small, tmp_path):
    """Train what is left to do in one run directory, perhaps up to a kill."""

    def call(kind=JNF, *, subset="product", callback=None):
        path, made = tmp_path / "run", small.estimator(kind, 2, subset=subset)
        run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, made.config)
        todo = [s for s in made.stage_names if run.status(s, made.plan_) != "done"]
        return load(path).fit(small.data(2)[0], stages=todo, run=run, callback=callback)

    return call


@pytest.fixture
def run(train, often, tmp_path):
    """A run that was killed in its second epoch, with two checkpoints."""
    with pytest.raises(Killed):
        train(callback=KillAt("joint", 1, 2))
    return RunDirectory.open(tmp_path / "run")


@pytest.fixture(scope="module")
def expected(fitted):
    """Weights and history of training that was never stopped."""
    return fitted(JNF, 2).system_.state_dict()


def assert_equal(model, expected):
    found = model.system_.state_dict()
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


MATCHING = {"kind": "matching", "summary_hidden": [8], "embedding": 4, "width": 8, "epochs": 3}


@pytest.mark.parametrize("rule", ["product", "amortised", "matching"])
def test_a_run_killed_within_epochs_ends_the_same(small, train, often, tmp_path, rule):
    rules = {"amortised": small.amortised | {"epochs": 3}, "matching": MATCHING}
    subset = rules.get(rule, rule)
    whole = small.estimator(JNFShared, 2, subset=subset).fit(small.data(2)[0])
    names, ends = whole.stage_names, [(1, 3), (1, STEPS), (2, 1)]
    for stage in names:
        for epoch, step in ends:
            with pytest.raises(Killed):
                train(JNFShared, subset=subset, callback=KillAt(stage, epoch, step))
    callback = KillAt()
    assert_equal(train(JNFShared, subset=subset, callback=callback), whole.system_.state_dict())
    assert callback.first == (names[-1], 2, 2)  # it went on where it was
    records = [(r["stage"], r["epoch"]) for r in RunDirectory.open(tmp_path / "run").history()]
    assert records == [(s, e) for s in names for e in range(3)]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 8
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    run, train, expected, damage, caplog
):
    damage(run.checkpoint("joint"))
    callback = KillAt()
    assert_equal(train(callback=callback), expected)
    assert callback.first == ("joint", 1, 2)  # the newest was made after this step
    (line,) = caplog.messages
    assert line.startswith(f"{run.checkpoint('joint')} is missing or damaged (")
    assert line.endswith("): going on from the checkpoint before it")


def test_two_damaged_checkpoints_are_said_and_the_stage_starts_anew(run, train, expected, caplog):
    paths = (run.checkpoint("joint"), run.previous_checkpoint("joint"))
    for path in paths:
        cut(path)
    callback = KillAt()
    assert_equal(train(callback=callback), expected)
    assert callback.first == ("joint", 0, 1)
    (line,) = caplog.messages
    assert all(f"{path} is missing or damaged (" in line for path in paths)
    assert line.endswith("stage 'joint' starts anew")
    assert [r["epoch"] for r in run.history() if r["stage"] == "joint"] == [0, 1, 2]


def fails_at(count, call):
    """The call, but a full disk from its `count`-th time on."""
    calls = iter(range(1, 10**6))

    def limited(*args, **options):
        if next(calls) >= count:
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*args, **options)

    return limited


def line_that_is_cut(count):
    calls = iter(range(1, 10**6))

    def append_line(path, line):
        if next(calls) < count:
            whole(path, line)
            return
        with directory.writing(path), path.open("a") as file:
            file.write(line[: len(line) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    whole = directory.append_line
    return append_line


@pytest.mark.parametrize("what", ["checkpoint", "weights", "history"])
def test_a_full_disk_is_said_and_nothing_is_lost(run, train, expected, what, monkeypatch):
    before = read_tensors(run.checkpoint("joint"))[1]
    with monkeypatch.context() as patch:
        if what == "history":
            patch.setattr(directory, "append_line", line_that_is_cut(2))
        else:
            # Steps 3 and 4 of this epoch and its end are kept, the next epoch, then the weights.
            times = 4 if what == "checkpoint" else 3 + (STEPS + 1) + 1
            patch.setattr(Path, "write_bytes", fails_at(times, Path.write_bytes))
        with pytest.raises(
            DataError, match=r"^cannot write .*: the disk is full; nothing"
        ) as full:
            train()
    name = {"weights": "run/joint", "history": "history", "checkpoint": "checkpoints/joint"}[what]
    assert name in str(full.value)
    after = read_tensors(run.checkpoint("joint"))[1]["state"]
    assert (after["epoch"], after.get("step", 0)) > (before["state"]["epoch"], 2)
    left = [p.name for p in run.path.rglob(".*")]
    assert left == [".lock"]
    assert_equal(train(), expected)


def test_no_clock_that_can_be_set_is_asked(train, often, expected, monkeypatch):
    def backwards():
        pytest.fail("time.time was asked")

    monkeypatch.setattr(time, "time", backwards)
    assert_equal(train(), expected)


def test_large_checkpoints_are_written_less_often(tmp_path, small, monkeypatch):
    config = small.estimator(JNF, 2).config
    run, clock = RunDirectory.create(tmp_path / "run", config), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    keeper, written = fitting.CheckpointCallback(run, "key", NoOpCallback()), []

    def slow(stage, tensors, about):
        written.append(clock[0])
        clock[0] += seconds

    monkeypatch.setattr(RunDirectory, "save_checkpoint", lambda self, *args: slow(*args))
    for seconds, wait in (
        (0.01, fitting.CHECKPOINT_SECONDS),
        (3.0, 3.0 / fitting.CHECKPOINT_SHARE),
    ):
        keeper.due = clock[0]
        for step in range(4000):
            keeper.on_step(StepRecord("joint", 0, step, 4000, 1.0), lambda: Checkpoint({}, {}))
            clock[0] += 0.25
        waits = [b - a - seconds for a, b in zip(written, written[1:], strict=False)]
        assert all(wait - 1e-6 < w < wait + 0.5 for w in waits)
        assert len(waits) > 2
        written.clear()
    keeper.due = clock[0]
    broken = StepRecord("joint", 0, 1, 2, math.nan)
    keeper.on_step(broken, lambda: pytest.fail("a broken state was kept"))


def test_a_process_killed_between_weights_and_manifest_goes_on(run, train, expected):
    manifest = run.manifest()
    checkpoint = run.checkpoint("joint").read_bytes()
    train()
    write_json(run.path / "manifest.json", manifest)
    run.checkpoint("joint").write_bytes(checkpoint)
    assert run.status("joint", load(run.path).plan_) == "unfinished"
    callback = KillAt()
    assert_equal(train(callback=callback), expected)
    assert callback.first == ("joint", 1, 3)


def test_a_history_that_was_cut_off_is_made_whole(run, train, expected):
    with (run.path / "history.jsonl").open("a") as file:
        file.write('{"stage": "joint", "epo')
    assert_equal(train(), expected)
    lines = (run.path / "history.jsonl").read_text().splitlines()
    assert len(lines) == len(run.history()) == 6


def test_a_checkpoint_of_the_end_of_an_epoch_without_a_step_is_understood(run, train, expected):
    """As older versions wrote them."""
    with pytest.raises(Killed):
        train(callback=KillAt("joint", 2, 1))
    tensors, about = read_tensors(run.previous_checkpoint("joint"))
    assert "step" not in about["state"]
    write_tensors(run.checkpoint("joint"), tensors, about)
    assert_equal(train(), expected)


def _fit(train, answer):
    try:
        train()
        answer.put("trained")
    except StageError as error:
        answer.put(str(error))


def test_a_second_process_may_not_train_there(run, train):
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    with run.lock():
        process = context.Process(target=_fit, args=(train, answer))
        process.start()
        assert "another process is training in" in answer.get(timeout=600)
        process.join()
        train()  # the one that holds the lock may


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_nothing(tmp_path, monkeypatch):
    """A short run of the benchmark, which raises SystemExit where something is lost."""
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    kills, runs, _ = importlib.import_module("benchmarks.kill").measured(
        tmp_path, kills=5, seed=1, delay=0.004
    )
    assert len(kills) == 5
    assert runs >= 1
