"""`mvflow new`."""

import json

import pytest

from mvflow.core import Modality
from mvflow.runs import RunDirectory
from mvflow_datasets import SplitData, write_store


def test_writes_a_complete_configuration(mvflow, store, tmp_path, monkeypatch):
    monkeypatch.chdir(store.parent)
    found = mvflow(
        *("new", tmp_path / "a", "--recipe", "toy", "--store", "toy.h5", "--seed", "5"),
        *("--posterior", "nsf", "--set", "joint.beta=2.5", "--set", "flows.hidden=[8, 8]"),
    )
    assert found.code == 0, found
    assert "mvflow train" in found.out
    config = RunDirectory.open(tmp_path / "a").config()
    assert config.data.store == str(store)
    assert (config.seed, config.joint.beta, config.flows.hidden) == (5, 2.5, (8, 8))
    assert (config.model, config.flows.posterior) == ("jnf", "nsf")


def test_choosing_a_projector_chooses_the_model_that_has_one(make):
    config = RunDirectory.open(make("a", "--projector", "contrastive")).config()
    assert (config.model, config.projectors.kind) == ("jnf-shared", "contrastive")


def test_takes_what_is_the_same_from_another_run(mvflow, store, trained, make, tmp_path):
    path = make("a", "--posterior", "gaussian", "--from", str(trained), "--json")
    history = RunDirectory.open(path).history()
    assert [r["stage"] for r in history] == ["joint"]
    assert RunDirectory.open(path).weights("joint").read_bytes() == (
        RunDirectory.open(trained).weights("joint").read_bytes()
    )
    words = ("--recipe", "toy", "--store", store, "--from", trained)
    found = mvflow("new", tmp_path / "b", *words)
    assert found.code == 0
    assert "took nothing" in found.out
    found = json.loads(mvflow("new", tmp_path / "c", *words, "--json").out)
    assert found["adopted"] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--recipe", "toi"), "unknown recipe 'toi': did you mean 'toy'?"),
        (("--model", "jnf-share"), "did you mean 'jnf-shared'?"),
        (("--projector", "dca"), "unknown projector 'dca': did you mean 'dcca'?"),
        (("--posterior", "gausian"), "did you mean 'gaussian'?"),
        (("--set", "joint.epoch=3"), "did you mean 'epochs'?"),
        (("--set", "modalities.sqare.scale=3"), "did you mean 'square'?"),
        (("--set", "modalities.square.scal=3"), "did you mean 'scale'?"),
        (("--set", "joint.epochs"), "expected section.key=value"),
        (("--set", "joint.epochs=many"), "joint.epochs"),
        (("--set", "joint.epochs=-1"), "joint.epochs"),
        (("--set", "data.test=tests"), "unknown split 'tests': did you mean 'test'?"),
        (("--model", "jnf", "--projector", "dcca"), "has no projectors"),
        (("--projector", "dcca", "--set", "projectors.dim=60"), "batch_size=512 is too small"),
        (("--projector", "dcca", "--set", "projectors.batch_size=4"), "use at least 10"),
        (("--seed", "-1"), "--seed"),
        (("--from", "nowhere"), "nowhere does not exist"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(refused, store, tmp_path, words, hint):
    line = refused("new", tmp_path / "a", "--recipe", "toy", "--store", store, *words, code=2)
    assert hint in line
    assert not (tmp_path / "a").exists()


def test_an_existing_run_is_left_alone(refused, trained, store):
    before = (trained / "config.toml").read_bytes()
    line = refused("new", trained, "--recipe", "toy", "--store", store, code=2)
    assert "exists already" in line
    assert (trained / "config.toml").read_bytes() == before


def test_data_of_other_modalities_or_shapes_are_refused(refused, store, tmp_path):
    line = refused("new", tmp_path / "a", "--recipe", "mnist-svhn", "--store", store, code=1)
    assert "no modality 'mnist'" in line
    small = {"square": (1, 16, 16), "circle": (1, 32, 32)}
    rows = {name: [[[[0.0] * s[2]] * s[1]]] * 3 for name, s in small.items()}
    other = write_store(
        tmp_path / "small.h5",
        name="small",
        modalities=[Modality(n, s, "bernoulli") for n, s in small.items()],
        splits={split: SplitData(rows) for split in ("train", "test")},
    )
    line = refused("new", tmp_path / "a", "--recipe", "toy", "--store", other, code=1)
    assert "'square' of the data has shape (1, 16, 16), but the model expects (1, 32, 32)" in line
    assert not (tmp_path / "a").exists()
