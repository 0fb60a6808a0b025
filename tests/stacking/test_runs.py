"""Runs trained as stacks: the same files as an ordinary training, each stage trained once."""

import fcntl
import json
import logging
from collections import Counter

import numpy as np
import pytest

from mvflow import JNF, MVAE, JNFShared, load
from mvflow.core import LockedError, NumericsError, as_source, fingerprint
from mvflow.runs import Inputs, RunDirectory
from mvflow.stacking import runs as stacking
from mvflow.stacking import train_stacked

KINDS = {"jnf": JNF, "jnf-shared": JNFShared, "mvae": MVAE}


@pytest.fixture
def sweep(small, tmp_path):
    """Runs of small estimators by name, untrained, and their data."""

    def make(**configs):
        made = {}
        for name, (kind, changes) in configs.items():
            config = small.estimator(KINDS[kind], 2, **changes).config
            made[name] = RunDirectory.create(tmp_path / name, config)
        return made, as_source(small.data(2)[0], config.specifications())

    return make


def keys(path):
    manifest = json.loads((path / "manifest.json").read_text())
    return {name: (set(e), e["key"], e["needs"].keys()) for name, e in manifest["stages"].items()}


def test_stacked_runs_have_the_files_of_ordinary_ones(sweep, small, tmp_path, caplog):
    rows, _ = small.data(2)
    caplog.set_level(logging.INFO, "mvflow.stacking")
    runs, source = sweep(**{f"s{i}": ("jnf", {"seed": i}) for i in range(3)})
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert [m for m in caplog.messages if "runs" in m] == [
        "joint: 3 runs as one program",
        "flows: 3 runs as one program",
    ]
    for seed, (name, run) in enumerate(runs.items()):
        alone = RunDirectory.create(tmp_path / f"alone-{name}", run.config())
        load(alone.path).fit(source, run=alone)
        assert keys(run.path) == keys(alone.path)
        model = load(run.path)
        inputs = Inputs(fingerprint(source))
        assert {run.status(n, model.plan_, inputs) for n in model.stage_names} == {"done"}
        lines = [[r["stage"], r["epoch"], sorted(r), sorted(r["terms"])] for r in run.history()]
        expected = [
            [r["stage"], r["epoch"], sorted(r), sorted(r["terms"])] for r in alone.history()
        ]
        assert lines == expected
        assert run.records()["flows"].seed == seed
        assert run.records()["joint"].epochs == alone.records()["joint"].epochs
        assert sorted(p.name for p in run.path.iterdir() if p.is_file()) == sorted(
            p.name for p in alone.path.iterdir() if p.is_file()
        )
        assert np.isfinite(model.encode(rows)[0]).all()


def test_equal_stages_are_trained_once_and_others_in_turn(sweep, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "mvflow.stacking")
    trained = Counter()
    for name in ("_stack", "run_stack"):
        monkeypatch.setattr(stacking, name, counted(trained, name, getattr(stacking, name)))
    runs, source = sweep(
        a=("jnf", {"seed": 0}),
        b=("jnf", {"seed": 1}),
        c=("jnf-shared", {"seed": 0}),
        d=("jnf-shared", {"seed": 1}),
        e=("mvae", {"seed": 0}),
    )
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert trained["run_stack"] == 4  # projectors, joint, and flows of either system
    files = {name: run.records()["joint"].weights for name, run in runs.items()}
    assert (files["a"], files["b"]) == (files["c"], files["d"])
    assert len(set(files.values())) == 3
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert trained["run_stack"] == 4


def test_what_differs_before_a_stage_does_not_keep_it_from_stacking(sweep, caplog):
    caplog.set_level(logging.INFO, "mvflow.stacking")
    joint = {"epochs": 1, "batch_size": 32, "merge": [8]}
    configs = {
        f"s{seed}b{beta}": ("jnf", {"seed": seed, "joint": joint | {"beta": beta}})
        for beta in (0.5, 2.0)
        for seed in (0, 1)
    }
    runs, source = sweep(**configs)
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert [m for m in caplog.messages if "runs" in m] == [
        "joint: 2 runs as one program",
        "joint: 2 runs as one program",
        "flows: 4 runs as one program",
    ]


def counted(counter, name, function):
    def call(*args, **kwargs):
        counter[name] += 1
        return function(*args, **kwargs)

    return call


def test_where_a_stack_fails_runs_are_trained_in_turn(sweep, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "mvflow.stacking")

    def refuse(variants, compile):
        raise RuntimeError("vmap: no rule for it\nand more")

    monkeypatch.setattr(stacking, "run_stack", refuse)
    runs, source = sweep(a=("mvae", {"seed": 0}), b=("mvae", {"seed": 1}))
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert caplog.messages[-1] == "joint: 2 runs are trained in turn: vmap: no rule for it"
    for run in runs.values():
        alone = load(run.path)
        assert alone.trained_ == ("joint",)
        assert [r["epoch"] for r in run.history()] == [0, 1, 2]


def test_a_failed_run_fails_those_that_share_its_stage(sweep, monkeypatch):
    run_stack = stacking.run_stack

    def spoil(variants, compile):
        run_stack(variants, compile=compile)
        if variants[0].stage.name == "joint":
            variants[1].error = NumericsError("the loss is not finite")

    monkeypatch.setattr(stacking, "run_stack", spoil)
    runs, source = sweep(
        a=("jnf", {"seed": 0}),
        b=("jnf", {"seed": 1}),
        c=("jnf", {"seed": 1, "flows": {"epochs": 1, "batch_size": 32}}),
    )
    failed = train_stacked([run.path for run in runs.values()], source)
    assert {path: str(error) for path, error in failed.items()} == {
        runs["b"].path: "the loss is not finite",
        runs["c"].path: "the loss is not finite",
    }
    assert set(runs["a"].records()) == {"joint", "flows"}
    assert not runs["b"].records()


def test_what_was_begun_alone_goes_on_alone(sweep, caplog):
    caplog.set_level(logging.INFO, "mvflow.stacking")
    runs, source = sweep(**{f"s{i}": ("mvae", {"seed": i}) for i in range(3)})
    model = load(runs["s1"].path)
    key = model.plan_.key("joint", Inputs(fingerprint(source)), {})
    begun = {}

    class Stop:
        def on_step(self, *_):
            pass

        def on_epoch(self, record, checkpoint):
            begun["at"] = checkpoint()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(source, run=runs["s1"], callback=Stop())
    assert runs["s1"].newest_checkpoint("joint", key) is not None
    assert train_stacked([run.path for run in runs.values()], source) == {}
    assert "joint: 2 runs as one program" in caplog.messages
    assert [r["epoch"] for r in runs["s1"].history()] == [0, 1, 2]


def test_a_run_that_another_process_trains_is_left_to_it(sweep):
    runs, source = sweep(a=("jnf", {"seed": 0}), b=("jnf", {"seed": 1}), c=("jnf", {"seed": 2}))
    with (runs["a"].path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        failed = train_stacked([run.path for run in runs.values()], source)
    assert list(failed) == [runs["a"].path]
    assert isinstance(failed[runs["a"].path], LockedError)
    assert not runs["a"].records()
    assert set(runs["b"].records()) == set(runs["c"].records()) == {"joint", "flows"}
