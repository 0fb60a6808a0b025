"""The run directory: what is done, stale, unfinished or another's, and training that goes on."""

import errno
import fcntl
import json
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import threading

import pytest
import torch
from safetensors.torch import save

from mvflow import JNF, JNFShared, load
from mvflow.core import ConfigError, DataError, StageError, UsageError
from mvflow.estimators import fitting
from mvflow.runs import (
    Inputs,
    Plan,
    RunDirectory,
    StageRecord,
    read_tensors,
    weights_hash,
    write_json,
    write_tensors,
)
from mvflow.systems import build_system, stages_of
from mvflow.training import NoOpCallback

STAGES = ("projectors", "joint", "flows")


@pytest.fixture
def config(small):
    return small.estimator(JNFShared, 2).config


@pytest.fixture
def run(tmp_path, config):
    return RunDirectory.create(tmp_path / "run", config)


@pytest.fixture
def plan(config):
    return plan_of(config)


def plan_of(config):
    return Plan(config, stages_of(build_system(config)))


def epoch_record(stage, epoch):
    values = {"loss": 1.0, "terms": {}, "validation": None, "seconds": 1}
    return {"stage": stage, "epoch": epoch, **values}


def finish(run, plan, *stages, data="data", value=0.0):
    """Make stages done, with weights of one number."""
    for stage in stages:
        tensors, before = {"w": torch.full((1,), value)}, run.records()
        needs = plan.spec(stage).needs
        key = plan.key(stage, Inputs(data), {n: before[n].key for n in needs})
        record = StageRecord(
            key, weights_hash(tensors), {n: before[n].weights for n in needs}, data, epochs=1
        )
        run.finish(stage, tensors, record)


def changed(config, section, **values):
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def statuses(run, plan, data=None):
    inputs = None if data is None else Inputs(data)
    return [run.status(s, plan, inputs) for s in plan.names]


def test_a_new_run_has_its_configuration_and_nothing_done(run, config, plan):
    assert RunDirectory.open(run.path).config() == config
    assert statuses(run, plan) == ["missing"] * 3
    assert run.history() == []
    assert "versions" in run.manifest()


def test_a_stage_goes_from_missing_to_unfinished_to_done(run, plan):
    write_tensors(run.checkpoint("joint"), {"w": torch.zeros(1)}, {})
    assert run.status("joint", plan) == "unfinished"
    finish(run, plan, "joint")
    assert run.status("joint", plan) == "done"
    assert run.status("joint", plan, Inputs("data")) == "done"
    assert not run.checkpoint("joint").exists()


def test_equal_weights_give_equal_files(tmp_path, run, config, plan):
    other = RunDirectory.create(tmp_path / "other", config)
    for each in (run, other):
        finish(each, plan, *STAGES)
    for stage in STAGES:
        assert run.weights(stage).read_bytes() == other.weights(stage).read_bytes()
    turned = {k: torch.arange(3.0) for k in "ba"}
    write_tensors(tmp_path / "one", turned, {"y": 1, "x": 2})
    write_tensors(tmp_path / "two", dict(sorted(turned.items())), {"x": 2, "y": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_hash_of_weights_sees_names_types_shapes_and_values():
    w = torch.arange(4.0)
    found = [
        {"a": w},
        {"b": w},
        {"a": w + 1},
        {"a": w.double()},
        {"a": w.view(torch.int32)},
        {"a": w.reshape(2, 2)},
        {"a": w, "b": w},
        {"a": torch.tensor([0.0, 1, 2, 3.0000002])},
        {},
    ]
    assert len({weights_hash(each) for each in found}) == len(found)
    strided = torch.arange(8.0)[::2] / 2
    assert weights_hash({"a": strided}) == weights_hash({"a": w})


def test_weights_of_another_trained_model_are_refused_by_the_name_of_their_file(
    tmp_path, run, config, plan
):
    """Of one shape, one configuration and one key, and yet not those on which the rest rests."""
    other = RunDirectory.create(tmp_path / "other", config)
    finish(run, plan, *STAGES)
    finish(other, plan, *STAGES, value=1.0)
    assert other.records()["joint"].key == run.records()["joint"].key
    for stage in STAGES:
        shutil.copyfile(other.weights(stage), run.weights(stage))
    assert run.status("joint", plan) == "replaced"
    for call in (lambda: run.read_weights("joint"), lambda: run.require(["joint"], plan)):
        with pytest.raises(
            DataError,
            match=f"{run.weights('joint')} is not the file that manifest.json records: put that "
            f"one back, or train anew with 'mvflow train {run.path} --stage joint --again'",
        ):
            call()


def test_stages_on_other_weights_of_an_earlier_one_are_stale(run, plan):
    """Though the joint stage was trained anew with the same settings on the same data."""
    finish(run, plan, *STAGES)
    finish(run, plan, "joint", value=1.0)
    assert statuses(run, plan) == ["done", "done", "stale"]
    finish(run, plan, "joint", value=0.0)  # the same weights again: what rests on them fits
    assert statuses(run, plan) == ["done"] * 3


def test_bytes_that_were_altered_are_refused(run, plan):
    finish(run, plan, "joint")
    path = run.weights("joint")
    whole = path.read_bytes()
    at = len(whole) - 2  # within the last number
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(DataError, match="joint.safetensors is missing or damaged .*its hash"):
        run.read_weights("joint")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="joint.safetensors is missing or damaged"):
        run.read_weights("joint")
    path.write_bytes(whole)
    assert run.read_weights("joint").keys() == {"w"}


def test_weights_without_their_manifest_are_not_done(run, plan, config):
    """A process may be killed between the two; neither may then pass for the other."""
    finish(run, plan, "joint")
    before, other = run.manifest(), plan_of(changed(config, "joint", beta=2.0))
    run.save_checkpoint("joint", {}, {"key": "another"})
    kept = run.checkpoint("joint").read_bytes()
    finish(run, other, "joint", value=1.0)
    run.checkpoint("joint").write_bytes(kept)  # which is removed after the manifest is written
    write_json(run.path / "manifest.json", before)
    assert run.status("joint", other, Inputs("data")) == "unfinished"
    write_json(run.path / "manifest.json", {})
    assert run.status("joint", other, Inputs("data")) == run.status("joint", other) == "unfinished"


def test_the_checkpoint_before_the_newest_is_kept(run):
    for n in range(3):
        run.save_checkpoint("joint", {"n": torch.tensor(n)}, {"key": f"{n}"})
    for path, n in ((run.checkpoint("joint"), 2), (run.previous_checkpoint("joint"), 1)):
        assert read_tensors(path)[0] == {"n": torch.tensor(n)}
        assert run.newest_checkpoint("joint", f"{n}") == read_tensors(path)
    assert run.newest_checkpoint("joint", "0") is None
    assert run.newest_checkpoint("flows", "0") is None


def test_without_the_newest_the_one_before_it_counts(run, plan, caplog):
    """As between the two renamings."""
    run.save_checkpoint("joint", {}, {"key": "k"})
    run.checkpoint("joint").replace(run.previous_checkpoint("joint"))
    assert run.status("joint", plan) == "unfinished"
    tensors, about = run.newest_checkpoint("joint", "k")
    assert (tensors, about["key"]) == ({}, "k")
    assert not caplog.records
    run.forget("joint")
    assert run.status("joint", plan) == "missing"


def test_stages_that_depend_on_a_change_are_stale_and_no_others(run, config, plan):
    finish(run, plan, *STAGES)
    assert statuses(run, plan) == ["done"] * 3
    assert statuses(run, plan, "data") == ["done"] * 3
    assert statuses(run, plan, "other data") == ["stale"] * 3
    for section, values, expected in (
        ("joint", {"beta": 2.0}, ["done", "stale", "stale"]),
        ("projector", {"dim": 3}, ["stale", "done", "stale"]),
        ("posterior", {"transforms": 3}, ["done", "done", "stale"]),
        ("evaluation", {"rows": 3}, ["done"] * 3),
    ):
        assert statuses(run, plan_of(changed(config, section, **values))) == expected


def test_what_is_required_names_the_command(run, config, plan):
    with pytest.raises(
        StageError,
        match=f"'joint' .*has not been trained: run 'mvflow train {run.path} --stage joint' first",
    ):
        run.require(["joint"], plan)
    finish(run, plan, "joint")
    run.require(["joint"], plan)
    with pytest.raises(StageError, match="was trained with other settings, data or earlier"):
        run.require(["joint"], plan_of(changed(config, "joint", beta=2.0)))
    write_tensors(run.checkpoint("flows"), {}, {})
    with pytest.raises(StageError, match="'flows' .* is not finished"):
        run.require(["joint", "flows"], plan)


def test_a_run_adopts_what_has_the_same_inputs(tmp_path, run, config, plan):
    finish(run, plan, *STAGES)
    for stage in ("joint", "flows"):
        run.append_history(epoch_record(stage, 0))
    other = changed(config, "projector", dim=3)
    new = RunDirectory.create(tmp_path / "new", other)
    assert new.adopt(run, plan_of(other), Inputs("data")) == ["joint"]
    assert statuses(new, plan_of(other)) == ["missing", "done", "missing"]
    assert [r["stage"] for r in new.history()] == ["joint"]
    assert read_tensors(new.weights("joint"))[0].keys() == {"w"}
    assert new.adopt(run, plan_of(other), Inputs("other data")) == []


def test_what_rests_on_other_weights_is_not_adopted(tmp_path, run, config, plan):
    """The same keys throughout, but the flows there were trained on another joint stage."""
    finish(run, plan, *STAGES)
    new = RunDirectory.create(tmp_path / "new", config)
    finish(new, plan, "joint", value=1.0)
    assert new.adopt(run, plan, Inputs("data")) == ["projectors"]
    assert statuses(new, plan) == ["done", "done", "missing"]


def test_damaged_weights_are_not_adopted(tmp_path, run, config, plan):
    finish(run, plan, *STAGES)
    write_tensors(run.weights("joint"), {"w": torch.ones(1)}, {"key": "other"})
    new = RunDirectory.create(tmp_path / "new", config)
    assert new.adopt(run, plan, Inputs("data")) == ["projectors"]


def test_history_is_appended_and_rewound_for_one_stage(run):
    for stage in ("joint", "flows"):
        for epoch in range(3):
            run.append_history(epoch_record(stage, epoch))
    run.rewind_history("joint", 1)
    kept = [(r["stage"], r["epoch"]) for r in run.history()]
    assert kept == [("joint", 0), ("flows", 0), ("flows", 1), ("flows", 2)]


def test_a_line_cut_off_by_a_crash_is_left_out(run):
    run.append_history(epoch_record("joint", 0))
    with (run.path / "history.jsonl").open("a") as file:
        file.write('{"stage": "joint", "ep')
    assert len(run.history()) == 1


def test_bytes_that_are_no_text_are_left_out_of_the_history(run):
    run.append_history(epoch_record("joint", 0))
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
        said = answer.get(timeout=600)
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
    run.save_checkpoint("joint", {}, {})
    whole = {p for p in run.path.rglob("*") if p.is_file()} | {run.path / ".lock"}
    left = [".config.toml.a1", ".manifest.json.b2", ".history.jsonl.c3", ".joint.safetensors.d4"]
    for name in (*left, "checkpoints/.joint.safetensors.e5"):
        (run.path / name).write_text("half")
    others = {run.path / ".report.html.f6", run.path / "samples" / ".a.h5.g7"}  # without the lock
    for path in others:
        write_json(path, {})
    with run.lock():
        assert {p for p in run.path.rglob("*") if p.is_file()} == whole | others


def test_checkpoints_of_a_finished_stage_are_removed_and_no_others(run, plan):
    """A process may be killed after it wrote the manifest."""
    finish(run, plan, *STAGES)
    for stage, key in (("joint", run.records()["joint"].key), ("flows", "other")):
        for _ in range(2):
            run.save_checkpoint(stage, {}, {"key": key})
    with run.lock():
        assert not run.checkpoint("joint").exists()
        assert not run.previous_checkpoint("joint").exists()
        assert run.checkpoint("flows").exists()
        assert run.previous_checkpoint("flows").exists()
    assert run.status("joint", plan, Inputs("data")) == "done"


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
        run.records()
    (run.path / "manifest.json").write_text('{"stages": []}')
    with pytest.raises(DataError, match="manifest.json is damaged: 'stages' is a list"):
        run.records()


# Training in a run directory


class Killed(Exception):
    pass


class KillAfter(NoOpCallback):
    def __init__(self, stage, epoch):
        self.at = (stage, epoch)

    def on_epoch(self, record, checkpoint):
        if (record.stage, record.epoch) == self.at:
            raise Killed


def train(small, path, kind, callback=None):
    made = small.estimator(kind, 2)
    run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, made.config)
    plan = plan_of(made.config)
    todo = [s for s in plan.names if run.status(s, plan) != "done"]
    return load(path).fit(small.data(2)[0], stages=todo, run=run, callback=callback)


@pytest.mark.parametrize("every", [-1.0, 1e9], ids=["checkpoints", "no checkpoints"])
@pytest.mark.parametrize("kind", [JNF, JNFShared])
def test_a_run_killed_anywhere_ends_the_same(small, fitted, tmp_path, kind, every, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", every)
    expected = fitted(kind, 2).system_.state_dict()
    path = tmp_path / "run"
    names = small.estimator(kind, 2).stage_names
    for at in [(s, e) for s in names for e in (0, 1)]:
        with pytest.raises(Killed):
            train(small, path, kind, KillAfter(*at))
    found = train(small, path, kind).system_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    records = [(r["stage"], r["epoch"]) for r in RunDirectory.open(path).history()]
    assert records == [(s, e) for s in names for e in range(3)]
    loaded = load(path).system_.state_dict()
    assert all(torch.equal(loaded[k], expected[k]) for k in expected)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(small, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(small, path, JNF, KillAfter("joint", 1))
    run = RunDirectory.open(path)
    other = changed(run.config(), "joint", beta=3.0)
    run.write_config(other)
    found = load(path).fit(small.data(2)[0], run=run).system_.state_dict()
    expected = JNF.from_config(other).fit(small.data(2)[0]).system_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_damaged_and_foreign_weights_are_named_on_loading(fitted, tmp_path):
    fitted(JNF, 2).save(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    path, record = run.weights("joint"), run.records()["joint"]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match="joint.safetensors is not the file that manifest.json"):
        load(tmp_path / "run")
    write_tensors(path, {"other": torch.zeros(1)}, {})
    with pytest.raises(DataError, match="joint.safetensors is not the file that manifest.json"):
        load(tmp_path / "run")
    forged = {"other": torch.zeros(1)}
    run.finish("joint", forged, StageRecord(record.key, weights_hash(forged), {}, ""))
    manifest = run.manifest()  # with the key of the plan: only the networks do not fit
    manifest["stages"]["joint"] |= {"fingerprint": record.fingerprint}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="does not fit the networks of config.toml"):
        load(tmp_path / "run")


def test_a_stale_stage_is_not_loaded(fitted, tmp_path):
    fitted(JNF, 2).save(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    run.write_config(changed(run.config(), "posterior", transforms=1))
    assert load(tmp_path / "run").trained_ == ("joint",)


def test_a_saved_estimator_is_done_throughout(fitted, tmp_path):
    for kind in (JNF, JNFShared):
        fitted(kind, 2).save(tmp_path / kind.__name__)
        run = RunDirectory.open(tmp_path / kind.__name__)
        assert set(statuses(run, plan_of(run.config()))) == {"done"}


@pytest.mark.parametrize(
    "header", ["[]", "5", "{}", '{"about": [], "sha256": ""}', "[" * 9000, '{"about": {}}']
)
def test_weights_whose_header_has_another_shape_are_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}, {"mvflow": header}))
    with pytest.raises(DataError, match=r"a.safetensors is missing or damaged .its header"):
        read_tensors(path)


def test_a_lock_is_not_taken_through_a_link(run, tmp_path):
    other = tmp_path / "other"
    (run.path / ".lock").symlink_to(other)
    with pytest.raises(DataError, match="cannot write"), run.lock():
        pass
    assert not other.exists()


def test_a_run_is_locked_where_there_are_no_file_locks(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with run.lock():
        assert (run.path / ".lock").is_file()


def test_a_line_that_a_crash_cut_off_is_left_out_and_one_of_another_shape_is_refused(run):
    run.append_history(epoch_record("a", 0))
    with (run.path / "history.jsonl").open("a") as file:
        file.write('{"stage": "a", "ep')
    assert [r["epoch"] for r in run.history()] == [0]
    (run.path / "history.jsonl").write_text(
        json.dumps({**epoch_record("a", 0), "seconds": "x"}) + "\n"
    )
    with pytest.raises(DataError, match=r"line 1 of .*history.jsonl is damaged: 'seconds' is 'x'"):
        run.history()
