"""Runs of a list that another process is at work on."""

import fcntl
import json
import sys
import threading

import pytest

from mvflow.runs import RunDirectory
from mvflow_cli import jobs as module
from mvflow_cli.jobs import AWAITED, Job, run_jobs
from mvflow_cli.making import make_runs
from mvflow_cli.subprocesses import LOCKED

TAKE = f"""
import fcntl, sys, time
from pathlib import Path
command, path = sys.argv[1], Path(sys.argv[2])
folder = path if command == "train" else path / "metrics"
with (folder / ".lock").open("a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit({LOCKED})
print('{{"stages": {{}}}}')
"""
"""In place of a command: it is refused as that is, and else does nothing."""


class Elsewhere:
    """A lock as another process holds it."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.file = (folder / ".lock").open("a")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.is_held = True

    def release(self):
        self.is_held = False
        self.file.close()


@pytest.fixture
def runs(store, tmp_path, monkeypatch):
    """Make jobs of commands that do nothing; what is started is listed in `runs.started`."""
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(module, "START_INTERVAL", 0.02)
    monkeypatch.setattr(module, "MVFLOW", (sys.executable, "-S", "-E", "-c", TAKE))
    start = Job.start

    def make(*settings, evaluate=False):
        make_runs({f"run-{s}": [s] for s in settings}, tmp_path / "runs", store, "toy")
        return [
            Job(f"run-{s}", tmp_path / "runs" / f"run-{s}", evaluate=evaluate) for s in settings
        ]

    def noted(job, options):
        make.started.append(job.name)
        make.before(job)
        start(job, options)

    make.started, make.before = [], lambda job: None
    monkeypatch.setattr(Job, "start", noted)
    return make


def test_a_run_that_another_process_trains_is_waited_for_while_others_are_trained(runs, capsys):
    todo = runs("seed=0", "seed=1")
    lock = Elsewhere(todo[0].path)
    runs.before = lambda job: lock.release() if job is todo[1] else None
    run_jobs(todo, 1, "cpu", 1)
    assert runs.started == ["run-seed=1", "run-seed=0"]
    assert [job.error for job in todo] == [None, None]
    said = capsys.readouterr().out.splitlines()
    assert said.count(f"run-seed=0: {AWAITED}") == 1


def test_one_that_another_process_takes_just_before_is_put_back(runs):
    todo = runs("seed=0", "seed=1")
    locks = []

    def before(job):
        if runs.started == ["run-seed=0"]:
            locks.append(Elsewhere(job.path))  # the other is faster
        if job is todo[1]:
            locks[0].release()

    runs.before = before
    run_jobs(todo, 1, "cpu", 1)
    assert runs.started == ["run-seed=0", "run-seed=1", "run-seed=0"]
    assert [job.state for job in todo] == ["done before"] * 2


def test_a_stage_that_another_process_makes_is_waited_for_by_all_that_share_it(runs):
    todo = runs("flows.epochs=1", "flows.epochs=2", "joint.epochs=2")
    lock = Elsewhere(todo[0].path)
    seen = []
    runs.before = lambda job: seen.append((job.name, lock.is_held))
    threading.Timer(0.3, lock.release).start()
    run_jobs(todo, 3, "cpu", 1)
    assert sorted(seen) == [
        ("run-flows.epochs=1", False),
        ("run-flows.epochs=2", False),
        ("run-joint.epochs=2", True),
    ]


def test_an_evaluation_that_another_process_makes_is_waited_for(runs):
    todo = runs("seed=0", "seed=1", evaluate=True)
    lock = Elsewhere(todo[0].path / "metrics")
    (todo[1].path / "metrics").mkdir()
    runs.before = lambda job: lock.release() if job is todo[1] and len(job.todo) == 1 else None
    run_jobs(todo, 1, "cpu", 1)
    assert runs.started == [f"run-seed={i}" for i in (0, 1, 1, 0)]
    assert [job.state for job in todo] == ["evaluated"] * 2


def test_what_was_done_before_is_not_said_to_be_trained_and_evaluated_again(runs, capsys):
    old, new = todo = runs("seed=0", "seed=1", evaluate=True)
    old.missing = dict
    for job in todo:
        (job.path / "metrics").mkdir()
    (old.path / "metrics" / "evaluation.json").touch()
    capsys.readouterr()
    run_jobs(todo, 1, "cpu", 1)
    said = capsys.readouterr().out.splitlines()
    assert not {f"{old.name}: training", f"{old.name}: evaluating"} & {*said}
    assert f"{old.name}: done before" in said
    assert {f"{new.name}: training", f"{new.name}: evaluating"} <= {*said}
    assert (old.state, new.state) == ("done before", "evaluated")


def test_only_the_evaluation_that_trains_what_measures_is_waited_for(runs, tmp_path):
    first, second = todo = runs("seed=0", "seed=1", evaluate=True)
    first.state, second.todo, second.store = "evaluating", ["evaluate"], tmp_path / "store.h5"
    assert not module._is_free(second, [first], todo)
    (tmp_path / "store.autoencoders.safetensors").touch()
    assert module._is_free(second, [first], todo)


def test_a_second_process_that_evaluates_a_run_is_told_to_try_again(mvflow, refused, copied):
    lock = Elsewhere(copied / "metrics")
    line = refused("evaluate", copied, code=LOCKED)
    assert f"another process is evaluating in {copied / 'metrics'}: wait for it" in line
    lock.release()
    assert mvflow("evaluate", copied).code == 0
    lock = Elsewhere(copied / "metrics")
    assert mvflow("evaluate", copied, "--keep").code == 0
    lock.release()


@pytest.mark.bad_input
def test_a_run_whose_history_is_damaged_meanwhile_fails_alone(runs, monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_INTERVAL", -1.0)
    todo = runs("seed=0", "seed=1")
    fails = "time.sleep(0.5); print('mvflow: it is damaged', file=sys.stderr); sys.exit(1)"
    script = f"{TAKE}\nif path.name == 'run-seed=0': {fails}"
    monkeypatch.setattr(module, "MVFLOW", (sys.executable, "-S", "-E", "-c", script))
    runs.before = lambda job: (todo[0].path / "history.jsonl").write_text('{"stage": 3}\n')
    run_jobs(todo, 1, "cpu", 1)
    assert [job.error for job in todo] == ["it is damaged", None]
    assert "run-seed=0: first epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_two_reproductions_at_once_make_the_same_table_and_each_stage_once(
    started, store, tmp_path
):
    settings = (
        *("joint.epochs=3", "joint.steps_per_epoch=40", "flows.epochs=1"),
        *("flows.steps_per_epoch=1", "evaluation.rows=64", "evaluation.prior_draws=64"),
        *("evaluation.importance_rows=4", "evaluation.importance_draws=20"),
        *("sampler.warmup=2", "sampler.draws=2", "classifiers.epochs=2"),
    )
    words = ("reproduce", "figure2", "--store", store, "--out", tmp_path, "--seeds", "0,1")
    words += ("--system", "JNF, Gaussian", "--system", "JNF", "--json")
    words += tuple(word for setting in settings for word in ("--set", setting))
    processes = [started(*words), started(*words)]
    results = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    first, second = (json.loads(out) for out, _ in results)
    assert first == second
    assert any(AWAITED in err for _, err in results)
    assert not any("failed" in err for _, err in results)
    for path in first["runs"]:
        history = RunDirectory.open(path).history()
        assert [(r["stage"], r["epoch"]) for r in history] == [
            *(("joint", epoch) for epoch in range(3)),
            ("flows", 0),
        ]
