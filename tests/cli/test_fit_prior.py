"""`mvflow fit-prior`: what changes for draws without an observation, and what is said."""

import json

import h5py
import numpy as np

from mvflow.estimators import load
from mvflow.runs import RunDirectory


def samples(mvflow, run, out, *words):
    assert mvflow("sample", run, "--n", 20, "--out", out, *words).code == 0
    with h5py.File(out) as file:
        return {name: np.array(x) for name, x in file["samples"].items()}


def test_samples_come_from_the_mixture_from_then_on(mvflow, copied, tmp_path):
    before = samples(mvflow, copied, tmp_path / "before.h5")
    found = mvflow("fit-prior", copied, "--set", "prior.components=3")
    assert found.code == 0
    *said, last = found.out.splitlines()
    assert set(said) == {
        "config.toml: prior.kind = 'mixture' (was 'standard')",
        "config.toml: prior.components = 3",
        "config.toml: prior.rows = 10000",
        "to train: prior",
    }
    assert last.startswith("prior: trained, ")
    assert RunDirectory.open(copied).status("prior", load(copied).plan_) == "done"
    fitted = samples(mvflow, copied, tmp_path / "fitted.h5")
    standard = samples(mvflow, copied, tmp_path / "standard.h5", "--prior", "standard")
    for name, value in before.items():
        np.testing.assert_array_equal(standard[name], value)
        assert not np.array_equal(fitted[name], value)
    assert mvflow("fit-prior", copied).out.splitlines() == ["prior: done already"]
    again = mvflow("fit-prior", copied, "--set", "prior.components=2").out
    assert "config.toml: prior.components = 2 (was 3)" in again
    assert "prior: stale" in again


def test_a_new_run_may_have_it_from_the_start(mvflow, make):
    path = make("a", "--prior", "mixture", settings=["prior.components=2"])
    found = json.loads(mvflow("train", path, "--json").out)
    assert list(found["stages"]) == ["joint", "flows", "prior"]


def test_both_priors_are_evaluated(mvflow, copied):
    assert mvflow("fit-prior", copied).code == 0
    result = json.loads(mvflow("evaluate", copied, "--json").out)
    assert {"joint", "joint_fitted"} <= result["coherence"].keys()
    for distances in result["frechet"].values():
        assert distances["joint_fitted"].keys() == distances["joint"].keys()
    assert "joint, fitted prior" in mvflow("evaluate", copied).out


def test_bad_input(refused, trained, make):
    line = refused("sample", trained, "--prior", "mixture", code=1)
    assert line.endswith(f"run 'mvflow train {trained} --stage prior' first")
    assert "unknown prior 'mixtur'" in refused("sample", trained, "--prior", "mixtur", code=2)
    path = make("new")
    for command in ("fit-prior", "choose-prior"):
        assert "--stage joint' first" in refused(command, path, code=1)


def test_the_best_on_held_out_rows_is_chosen_and_fitted(mvflow, refused, copied):
    found = mvflow("choose-prior", copied, "--prior", "standard", "--prior", "mixture", "--json")
    assert found.code == 0, found
    result = json.loads(found.out)
    gain = result["scores"]["mixture"]["difference"]
    assert result["prior"] == ("mixture" if gain > 0 else "standard")
    assert load(copied).priors() == ["standard", "mixture"][: 1 + (gain > 0)]
    table = mvflow("choose-prior", copied, "--prior", "standard")
    assert table.out.splitlines()[-1] == f"{copied}: prior standard"
    assert load(copied).priors() == ["standard"]
    assert "unknown prior" in refused("choose-prior", copied, "--prior", "mixtur", code=2)
