"""Training: stages in order, one at a time, stale ones, other stores, other processes."""

import fcntl
import json
import re
import shutil

import pytest

from mvflow.core import fingerprint
from mvflow.runs import RunDirectory, read_tensors
from mvflow_datasets import Store, find_builder


def test_a_finished_run_is_left_alone(mvflow, trained):
    before = RunDirectory.open(trained).weights("flows").stat().st_mtime_ns
    found = mvflow("train", trained)
    assert found.code == 0
    assert found.out.splitlines() == ["joint: done already", "flows: done already"]
    assert mvflow("train-joint", trained).out == "joint: done already\n"
    found = json.loads(mvflow("train", trained, "--json").out)
    assert not found["stages"]["joint"]["trained"]
    assert RunDirectory.open(trained).weights("flows").stat().st_mtime_ns == before


def test_stages_one_by_one_equal_all_at_once(mvflow, refused, make):
    whole, parts = make("whole", "--model", "jnf-shared"), make("parts", "--model", "jnf-shared")
    found = mvflow("train", whole, "--json")
    assert found.code == 0, found
    assert "joint epoch 1/1: loss" in found.err
    assert list(json.loads(found.out)["stages"]) == ["projectors", "joint", "flows"]
    line = refused("train-flows", parts, code=1)
    assert f"run 'mvflow train-projectors {parts}' first" in line
    assert mvflow("train-projectors", parts).code == 0
    assert f"run 'mvflow train-joint {parts}' first" in refused("train-flows", parts, code=1)
    found = mvflow("train-joint", parts)
    assert "joint epoch 1/1: loss" in found.out
    assert mvflow("train-flows", parts, "--threads", "1").code == 0
    for stage in ("projectors", "joint", "flows"):
        assert equal_weights(whole, parts, stage)


def test_again_trains_from_the_beginning(mvflow, trained, copied):
    found = mvflow("train-joint", copied, "--again", "--json")
    assert json.loads(found.out)["stages"]["joint"]["trained"]
    assert equal_weights(trained, copied, "joint")
    assert mvflow("train", copied).out.count("done already") == 2


def test_a_stale_stage_is_said_and_trained_anew(mvflow, refused, copied):
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("beta = 1.0", "beta = 2.0"))
    line = refused("sample", copied, code=1)
    assert "was trained with other settings" in line
    assert "mvflow train-joint" in refused("train-flows", copied, code=1)
    found = mvflow("train", copied)
    assert found.code == 0
    assert "joint: stale" in found.out
    assert "flows: stale" in found.out
    assert mvflow("sample", copied).code == 0


def test_a_stage_that_the_model_does_not_have(refused, trained):
    assert "has no stage 'projectors'" in refused("train-projectors", trained, code=2)


def test_not_a_run(refused, tmp_path):
    for command in ("train", "train-flows", "sample", "evaluate", "report"):
        assert "does not exist" in refused(command, tmp_path / "none", code=2)
        assert "is not a run directory" in refused(command, tmp_path, code=2)


def test_damaged_files_of_a_run(refused, copied):
    weights = copied / "joint.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    assert "joint.safetensors is missing or damaged" in refused("sample", copied, code=1)
    weights.write_bytes(data)
    (copied / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in refused("sample", copied, code=1)
    config = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(config.replace("format = 1", "format = 2"))
    assert "upgrade mvflow" in refused("train", copied, code=2)
    (copied / "config.toml").write_text(config.replace("epochs", "epoch", 1))
    assert "did you mean 'epochs'?" in refused("train", copied, code=2)


def test_a_store_that_moved(mvflow, refused, copied, store, tmp_path, make):
    moved = shutil.copy(store, tmp_path / "moved.h5")
    config = copied / "config.toml"
    config.write_text(config.read_text().replace(str(store), str(tmp_path / "gone.h5")))
    for command in ("train", "evaluate", "report"):
        line = refused(command, copied, code=1)
        assert "gone.h5: if it has moved, add --store" in line
    words = ("--given", "square", "--rows", "test:0:2")
    assert "--store" in refused("sample", copied, *words, code=1)
    assert mvflow("sample", copied, *words, "--store", moved).code == 0
    assert mvflow("sample", copied).code == 0  # from the prior: no store is needed
    assert mvflow("train", copied, "--store", moved).code == 0
    assert RunDirectory.open(copied).config().data.store == str(moved)
    assert mvflow("sample", copied, *words).code == 0


def test_a_store_of_other_rows(refused, copied, tmp_path):
    other = find_builder("toy").build(tmp_path / "other.h5", rows=100, test_rows=50, seed=9)
    for command in ("train", "evaluate", "report"):
        line = refused(command, copied, "--store", other, code=1)
        assert "was trained on other rows" in line
        assert "mvflow new" in line


def test_a_second_process_is_refused(refused, copied):
    with (copied / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process holds it
        assert "another process is training" in refused("train", copied, code=1)


@pytest.mark.parametrize("fault", ["too few rows", "not finite"])
def test_training_that_cannot_go_on(refused, make, store, tmp_path, fault):
    if fault == "not finite":
        path = make("a", settings=["joint.learning_rate=1e30", "joint.schedule=constant"])
        assert "not finite at epoch 1" in refused("train", path, code=1)
    else:
        path = make(
            "a", "--projector", "dcca", settings=["projectors.dim=30", "data.validation=.1"]
        )
        assert "too few for projectors" in refused("train-projectors", path, code=1)
    with Store.open(store) as opened:
        data = fingerprint(opened["train"])
    run = RunDirectory.open(path)
    assert run.status("joint", run.config(), data) == "missing"


def equal_weights(a, b, stage):
    """Whether two runs have the same weights, to the bit."""
    ours, theirs = (read_tensors(RunDirectory(p).weights(stage))[0] for p in (a, b))
    same = [ours[k].numpy().tobytes() == theirs[k].numpy().tobytes() for k in ours.keys() | theirs]
    return all(same) and ours.keys() == theirs.keys()


def test_a_bar_on_a_terminal_and_no_result_among_it(mvflow, make, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    found = mvflow("train", make("a"), "--json")
    assert set(json.loads(found.out)["stages"]) == {"joint", "flows"}
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.err)
    for stage in ("joint", "flows"):
        assert re.search(rf"{stage} ━+ epoch 1/1 0:00:00 +[\d,]+/s +loss -?[\d.]+", plain), plain


def test_both_kinds_of_subset_posterior_in_one_run(mvflow, refused, copied):
    assert "amortised" in refused("train", copied, "--subset", "amortized", code=2)
    line = refused("sample", copied, "--given", "square", "--subset", "amortised", code=1)
    assert f"mvflow train-amortised {copied}" in line
    before = RunDirectory.open(copied).weights("flows").read_bytes()
    found = mvflow("train", copied, "--subset", "amortised")
    assert found.code == 0, found
    assert "config.toml: subset = 'amortised' (was 'product')" in found.out
    assert RunDirectory.open(copied).weights("flows").read_bytes() == before
    assert mvflow("sample", copied, "--given", "square").code == 0  # as config.toml now says
    found = mvflow("sample", copied, "--given", "circle", "--subset", "product", "--json")
    assert json.loads(found.out)["subset"] == "product"
    assert set(json.loads(found.out)["stages"]) == {"joint", "flows"}
    assert mvflow("evaluate", copied, "--subset", "product").code == 0
    assert mvflow("evaluate", copied).code == 0
    kept = copied / "metrics"
    facts = json.loads((kept / "evaluation-product.json").read_text())["facts"]
    assert facts["subset rule"] == "product of experts"
    found = json.loads((kept / "evaluation.json").read_text())
    assert (found["facts"]["subset rule"], found["sampler"]["method"]) == ("amortised", "exact")
    assert mvflow("report", copied).code == 0
    assert "done already" in mvflow("train-flows", copied).out
    assert RunDirectory.open(copied).config().subset == "product"
