"""The run directory: what is done, stale or unfinished, and training that goes on."""

import errno
import fcntl
import multiprocessing
import os
import queue
import tempfile
import threading

import pytest
import torch

from mvflow import JNF, JNFShared, load
from mvflow.config import stage_names
from mvflow.core import ConfigError, DataError, StageError, UsageError
from mvflow.estimators import fitting
from mvflow.runs import RunDirectory, read_tensors, write_json, write_tensors
from mvflow.training import NoOpCallback


@pytest.fixture
def config(small):
    return small.estimator(JNFShared, 2).config


@pytest.fixture
def run(tmp_path, config):
    return RunDirectory.create(tmp_path / "run", config)


def finish(run, config, *stages, data="data"):
    for stage in stages:
        run.finish(stage, {"w": torch.zeros(1)}, config, data, {"epochs": 1})


def changed(config, section, **values):
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def test_a_new_run_has_its_configuration_and_nothing_done(run, config):
    assert RunDirectory.open(run.path).config() == config
    assert [run.status(s, config) for s in stage_names(config)] == ["missing"] * 3
    assert run.history() == []
    assert "versions" in run.manifest()


def test_a_stage_goes_from_missing_to_unfinished_to_done(run, config):
    write_tensors(run.checkpoint("joint"), {"w": torch.zeros(1)}, {})
    assert run.status("joint", config) == "unfinished"
    finish(run, config, "joint")
    assert run.status("joint", config) == "done"
    assert run.status("joint", config, "data") == "done"
    assert not run.checkpoint("joint").exists()


def test_weights_without_their_manifest_are_not_done(run, config):
    """A process may be killed between the two; neither may then pass for the other."""
    finish(run, config, "joint")
    before, other = run.manifest(), changed(config, "joint", beta=2.0)
    finish(run, other, "joint")
    write_json(run.path / "manifest.json", before)
    assert run.status("joint", other, "data") == "unfinished"
    assert run.status("joint", config, "data") == "stale"
    write_json(run.path / "manifest.json", {})
    assert run.status("joint", other, "data") == run.status("joint", other) == "unfinished"


def test_the_checkpoint_before_the_newest_is_kept(run):
    for n in range(3):
        run.keep_checkpoint("joint", {"n": torch.tensor(n)}, {"key": f"{n}"})
    for path, n in ((run.checkpoint("joint"), 2), (run.previous_checkpoint("joint"), 1)):
        assert read_tensors(path)[0] == {"n": torch.tensor(n)}
        assert run.newest_checkpoint("joint", f"{n}") == read_tensors(path)
    assert run.newest_checkpoint("joint", "0") is None
    assert run.newest_checkpoint("flows", "0") is None


def test_without_the_newest_the_one_before_it_counts(run, config, caplog):
    """As between the two renamings."""
    run.keep_checkpoint("joint", {}, {"key": "k"})
    run.checkpoint("joint").replace(run.previous_checkpoint("joint"))
    assert run.status("joint", config) == "unfinished"
    assert run.newest_checkpoint("joint", "k") == ({}, {"key": "k"})
    assert not caplog.records
    run.forget("joint")
    assert run.status("joint", config) == "missing"


def test_stages_that_depend_on_a_change_are_stale_and_no_others(run, config):
    finish(run, config, *stage_names(config))

    def status(c, data=None):
        return [run.status(s, c, data) for s in stage_names(config)]

    assert status(config) == ["done"] * 3
    assert status(changed(config, "joint", beta=2.0)) == ["done", "stale", "stale"]
    assert status(changed(config, "projectors", dim=3)) == ["stale", "done", "stale"]
    assert status(changed(config, "flows", transforms=3)) == ["done", "done", "stale"]
    assert status(changed(config, "evaluation", rows=3)) == ["done"] * 3
    assert status(config, "other data") == ["stale"] * 3


def test_what_is_required_names_the_command(run, config):
    with pytest.raises(
        StageError, match="'joint' .*has not been trained: run 'mvflow train-joint"
    ):
        run.require(("joint",), config)
    finish(run, config, "joint")
    run.require(("joint",), config)
    other = changed(config, "joint", beta=2.0)
    with pytest.raises(StageError, match="was trained with other settings than config.toml"):
        run.require(("joint",), other)
    write_tensors(run.checkpoint("flows"), {}, {})
    with pytest.raises(StageError, match="'flows' .* is not finished"):
        run.require(("joint", "flows"), config)


def test_a_run_adopts_what_has_the_same_inputs(tmp_path, run, config):
    finish(run, config, *stage_names(config))
    for stage in ("joint", "flows"):
        run.append_history({"stage": stage, "epoch": 0})
    other = changed(config, "projectors", dim=3)
    new = RunDirectory.create(tmp_path / "new", other)
    assert new.adopt(run, "data") == ["joint"]
    assert [new.status(s, other) for s in stage_names(other)] == ["missing", "done", "missing"]
    assert [r["stage"] for r in new.history()] == ["joint"]
    assert read_tensors(new.weights("joint"))[0].keys() == {"w"}
    assert new.adopt(run, "other data") == []


def test_history_is_appended_and_rewound_for_one_stage(run):
    for stage in ("joint", "flows"):
        for epoch in range(3):
            run.append_history({"stage": stage, "epoch": epoch})
    run.rewind_history("joint", 1)
    kept = [(r["stage"], r["epoch"]) for r in run.history()]
    assert kept == [("joint", 0), ("flows", 0), ("flows", 1), ("flows", 2)]


def test_a_line_cut_off_by_a_crash_is_left_out(run):
    run.append_history({"stage": "joint", "epoch": 0})
    with (run.path / "history.jsonl").open("a") as file:
        file.write('{"stage": "joint", "ep')
    assert len(run.history()) == 1


def test_bytes_that_are_no_text_are_left_out_of_the_history(run):
    run.append_history({"stage": "joint", "epoch": 0})
    with (run.path / "history.jsonl").open("ab") as file:
        file.write(b"\0\0\xff{")
    assert len(run.history()) == 1


def _try_lock(path, answer):
    try:
        with RunDirectory.open(path).lock():
            answer.put("held")
    except StageError as error:
        answer.put(str(error))


def test_a_second_process_is_refused_and_may_go_on_afterwards(run):
    context = multiprocessing.get_context("fork")
    answer = context.Queue()

    def other():
        process = context.Process(target=_try_lock, args=(run.path, answer))
        process.start()
        said = answer.get(timeout=30)
        process.join()
        return said

    with run.lock():
        assert "another process is training in" in other()
        with run.lock(), RunDirectory(run.path / ".." / "run").lock():
            assert "another process is training in" in other()
        assert "another process is training in" in other()
    assert other() == "held"


def test_a_second_thread_is_refused(run):
    answer = queue.Queue()
    with run.lock():
        thread = threading.Thread(target=_try_lock, args=(run.path, answer))
        thread.start()
        thread.join()
    assert "another process is training in" in answer.get()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(run):
    run.keep_checkpoint("joint", {}, {})
    whole = {p for p in run.path.rglob("*") if p.is_file()} | {run.path / ".lock"}
    left = [".config.toml.a1", ".manifest.json.b2", ".history.jsonl.c3", ".joint.safetensors.d4"]
    for name in (*left, "checkpoints/.joint.safetensors.e5"):
        (run.path / name).write_text("half")
    others = {run.path / ".report.html.f6", run.path / "samples" / ".a.h5.g7"}  # without the lock
    for path in others:
        write_json(path, {})
    with run.lock():
        assert {p for p in run.path.rglob("*") if p.is_file()} == whole | others


def test_checkpoints_of_a_finished_stage_are_removed_and_no_others(run, config):
    """A process may be killed after it wrote the manifest."""
    finish(run, config, "joint", "flows")
    for stage, key in (("joint", run.manifest()["stages"]["joint"]["key"]), ("flows", "other")):
        for _ in range(2):
            run.keep_checkpoint(stage, {}, {"key": key})
    with run.lock():
        assert not run.checkpoint("joint").exists()
        assert not run.previous_checkpoint("joint").exists()
        assert run.checkpoint("flows").exists()
        assert run.previous_checkpoint("flows").exists()
    assert run.status("joint", config, "data") == "done"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_named(run, number, monkeypatch):
    def refuse(**options):
        raise OSError(number, os.strerror(number), str(options["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said = "the disk is full" if number == errno.ENOSPC else os.strerror(number).lower()
    with pytest.raises(DataError, match=f"^cannot write {run.path}: {said}"), run.lock():
        pytest.fail("the lock was held")
    monkeypatch.undo()
    with run.lock():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(run):
    run.path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="cannot write .*: permission denied"), run.lock():
            pytest.fail("the lock was held")
    finally:
        run.path.chmod(0o700)


def test_where_files_cannot_be_locked_no_other_process_is_blamed(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError, match="no locks available"), run.lock():
        pytest.fail("the lock was held")


@pytest.mark.bad_input
def test_places_that_are_no_run_or_taken_are_named(tmp_path, run, config):
    with pytest.raises(UsageError, match="exists already: choose another name"):
        RunDirectory.create(run.path, config)
    with pytest.raises(UsageError, match="does not exist: make one with 'mvflow new"):
        RunDirectory.open(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is not a run directory"):
        RunDirectory.open(tmp_path)
    (run.path / "config.toml").write_text("= nonsense")
    with pytest.raises(ConfigError, match="config.toml is not valid TOML"):
        run.config()
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest.json is damaged"):
        run.status("joint", config, None) if run.weights("joint").exists() else run.manifest()


# Training in a run directory


class Killed(Exception):
    pass


class KillAfter(NoOpCallback):
    def __init__(self, stage, epoch):
        self.at = (stage, epoch)

    def on_epoch(self, record, checkpoint):
        if (record.stage, record.epoch) == self.at:
            raise Killed


def train(small, path, kind, listener=None):
    made = small.estimator(kind, 2)
    run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, made.config)
    return load(path).fit(
        small.data(2)[0], stages=todo(run, made.config), run=run, listener=listener
    )


def todo(run, config):
    return [s for s in stage_names(config) if run.status(s, config) != "done"]


@pytest.mark.parametrize("every", [-1.0, 1e9], ids=["checkpoints", "no checkpoints"])
@pytest.mark.parametrize("kind", [JNF, JNFShared])
def test_a_run_killed_anywhere_ends_the_same(small, fitted, tmp_path, kind, every, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", every)
    expected = fitted(kind, 2).model_.state_dict()
    path = tmp_path / "run"
    names = stage_names(small.estimator(kind, 2).config)
    for at in [(s, e) for s in names for e in (0, 1)]:
        with pytest.raises(Killed):
            train(small, path, kind, KillAfter(*at))
    found = train(small, path, kind).model_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    records = [(r["stage"], r["epoch"]) for r in RunDirectory.open(path).history()]
    assert records == [(s, e) for s in names for e in range(3)]
    loaded = load(path).model_.state_dict()
    assert all(torch.equal(loaded[k], expected[k]) for k in expected)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(small, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", -1.0)
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(small, path, JNF, KillAfter("joint", 1))
    run = RunDirectory.open(path)
    other = changed(run.config(), "joint", beta=3.0)
    run.write_config(other)
    found = load(path).fit(small.data(2)[0], run=run).model_.state_dict()
    expected = JNF.from_config(other).fit(small.data(2)[0]).model_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_damaged_and_foreign_weights_are_named_on_loading(fitted, tmp_path):
    fitted(JNF, 2).save(tmp_path / "run")
    path = RunDirectory.open(tmp_path / "run").weights("joint")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match="joint.safetensors is missing or damaged"):
        load(tmp_path / "run")
    write_tensors(path, {"other": torch.zeros(1)}, {})
    with pytest.raises(DataError, match="does not hold the weights that config.toml describes"):
        load(tmp_path / "run")


def test_a_stale_stage_is_not_loaded(fitted, tmp_path):
    fitted(JNF, 2).save(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    run.write_config(changed(run.config(), "flows", transforms=1))
    assert load(tmp_path / "run").trained_ == ("joint",)
