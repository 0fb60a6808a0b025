"""Training in a run directory: what is kept there is what is in memory, and nothing else fits."""

import shutil

import numpy as np
import pytest
import torch

from mvflow import JNF, JNFShared, load
from mvflow.core import ArraySource, DataError, StageError, UsageError, fingerprint
from mvflow.runs import Inputs, RunDirectory


@pytest.fixture
def made(small):
    return small.estimator(JNF, 2)


@pytest.fixture
def run(tmp_path, made):
    return RunDirectory.create(tmp_path / "run", made.config)


@pytest.fixture(scope="module")
def data(small):
    return small.data(2)[0]


@pytest.fixture(scope="module")
def other_data(small):
    return small.data(2, seed=1)[0]


def statuses(run, data=None):
    model = load(run.path)
    inputs = None if data is None else Inputs(fingerprint(ArraySource(data)))
    return {s: run.status(s, model.plan_, inputs) for s in model.stage_names}


def same(a, b):
    a, b = a.system_.state_dict(), b.system_.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_is_kept_is_what_is_in_memory(made, run, data):
    made.fit(data, seed=0, run=run)
    assert same(load(run.path), made)
    assert load(run.path).records_ == made.records_ == run.records()
    assert statuses(run, data) == {"joint": "done", "flows": "done"}


def test_equal_training_gives_equal_files_and_saving_writes_them(small, made, run, data, tmp_path):
    made.fit(data, seed=0, run=run)
    again = small.estimator(JNF, 2).fit(data, seed=0)
    again.save(tmp_path / "saved")
    for stage in made.stage_names:
        ours, theirs = (r.weights(stage) for r in (run, RunDirectory(tmp_path / "saved")))
        assert ours.read_bytes() == theirs.read_bytes()


def test_flows_on_a_joint_stage_of_other_data_are_stale(made, run, data, other_data):
    """They were `done`, and were loaded on a latent space that they did not know."""
    made.fit(data, seed=0, run=run)
    made.fit(other_data, stages=["joint"], run=run)
    assert made.trained_ == ("joint",)
    assert load(run.path).trained_ == ("joint",)
    assert statuses(run) == {"joint": "done", "flows": "stale"}
    with pytest.raises(
        StageError, match="'flows' .* earlier stages than there are now: run 'mvfl"
    ):
        run.require(["flows"], made.plan_)
    made.fit(other_data, stages=["flows"], run=run)
    assert statuses(run, other_data) == {"joint": "done", "flows": "done"}
    assert same(load(run.path), made)


def test_another_seed_for_some_of_the_stages_is_refused(made, run, data):
    """The new stage was filed under the new seed, on a joint stage of the old one."""
    made.fit(data, seed=0, run=run)
    before = {s: run.weights(s).read_bytes() for s in made.stage_names}
    config = (run.path / "config.toml").read_bytes()
    with pytest.raises(StageError, match="stage 'joint' was trained with seed 0"):
        made.fit(data, stages=["flows"], seed=1, run=run)
    assert made.config.seed == 0
    assert made.trained_ == ("joint", "flows")
    assert (run.path / "config.toml").read_bytes() == config
    assert {s: run.weights(s).read_bytes() for s in made.stage_names} == before
    assert statuses(run) == {"joint": "done", "flows": "done"}


def test_flows_of_another_seeds_joint_stage_are_not_adopted(small, made, run, data, tmp_path):
    """A clean run of seed 1 took what rested on seed 0."""
    made.fit(data, seed=0, run=run)
    clean = small.estimator(JNF, 2, seed=1)
    new = RunDirectory.create(tmp_path / "new", clean.config)
    clean.fit(data, stages=["joint"], run=new)
    inputs = Inputs(fingerprint(ArraySource(data)))
    assert new.adopt(run, clean.plan_, inputs) == []
    again = RunDirectory.create(tmp_path / "again", made.config)
    assert again.adopt(run, made.plan_, inputs) == ["joint", "flows"]
    assert same(load(again.path), made)


def test_a_run_of_another_configuration_is_refused(small, run, data):
    other = small.estimator(JNF, 2, joint={"epochs": 2, "batch_size": 32})
    with pytest.raises(
        UsageError, match=r"config.toml is of another configuration \(joint differ"
    ):
        other.fit(data, run=run)
    assert other.trained_ == ()
    assert run.records() == {}
    other = small.estimator(JNF, 2, data={"store": "elsewhere.h5"})  # where it lies is no matter
    assert other.fit(data, run=run).trained_ == ("joint", "flows")


def test_a_seed_given_to_fit_must_be_that_of_the_run(made, run, data):
    made.fit(data, seed=0, run=run)
    with pytest.raises(UsageError, match=r"config.toml is of another configuration \(seed differ"):
        made.fit(data, seed=7, run=run)
    assert (made.config.seed, made.trained_) == (0, ("joint", "flows"))  # it lost nothing


def test_rows_held_out_by_hand_are_recorded(made, data, other_data, tmp_path):
    """A run that was trained so and saved is done, and stays so without these rows."""
    made.fit(data, validation=other_data, seed=0)
    made.save(tmp_path / "saved")
    run = RunDirectory(tmp_path / "saved")
    assert statuses(run) == {"joint": "done", "flows": "done"}
    assert statuses(run, data) == {"joint": "done", "flows": "done"}
    assert statuses(run, other_data) == {"joint": "stale", "flows": "stale"}
    found = run.records()["joint"]
    assert found.inputs == Inputs(
        fingerprint(ArraySource(data)), fingerprint(ArraySource(other_data))
    )
    before = load(run.path).encode(data)[0]
    load(run.path).fit(data, stages=[], run=run)
    np.testing.assert_array_equal(load(run.path).encode(data)[0], before)


def test_weights_swapped_between_two_runs_of_one_shape_are_refused(
    small, run, made, data, tmp_path
):
    made.fit(data, seed=0, run=run)
    other = small.estimator(JNF, 2, seed=1).fit(data)
    other.save(tmp_path / "other")
    for stage in made.stage_names:
        path = run.weights(stage)
        whole = path.read_bytes()
        shutil.copyfile(RunDirectory(tmp_path / "other").weights(stage), path)
        with pytest.raises(DataError, match=f"{path} is not the file that manifest.json records"):
            load(run.path)
        path.write_bytes(whole)
    assert same(load(run.path), made)


def test_what_is_not_done_is_not_loaded(small, data, tmp_path):
    made = small.estimator(JNFShared, 2)
    run = RunDirectory.create(tmp_path / "run", made.config)
    made.fit(data, stages=["joint"], run=run)
    again = load(run.path)
    assert again.trained_ == ("joint",)
    again.fit(data, stages=["projectors", "flows"], run=run)
    whole = small.estimator(JNFShared, 2).fit(data)
    assert same(load(run.path), whole)
