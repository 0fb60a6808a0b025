"""`mvflow sweep --stacked`: one program for runs that are alike."""

import json

import pytest

from mvflow.runs import RunDirectory

SHORT = (
    *("--set", "joint.epochs=1", "--set", "joint.steps_per_epoch=3"),
    *("--set", "flows.epochs=1", "--set", "flows.steps_per_epoch=1"),
)


@pytest.mark.slow
def test_alike_runs_are_stacked_and_are_ordinary_runs(mvflow, store, tmp_path):
    out = tmp_path / "a"
    words = ("sweep", store, "--recipe", "toy", *SHORT, "--out", out, "--seeds", "0,3")
    found = mvflow(*words, "--stacked", "--json")
    assert found.code == 0, found
    assert "joint: 2 runs as one program" in found.err
    runs = json.loads(found.out)["runs"]
    hows = [stage["how"] for run in runs for stage in run["stages"].values()]
    assert hows == ["trained"] * 4
    assert all(stage["loss"] for run in runs for stage in run["stages"].values())
    first, other = (RunDirectory.open(run["run"]).records() for run in runs)
    assert first["joint"].weights != other["joint"].weights
    assert mvflow("train", runs[0]["run"]).out.count("done already") == 2
    again = mvflow(*words)
    assert again.code == 0
    assert "2 of 2 runs are trained" in again.out


@pytest.mark.bad_input
def test_several_processes_or_data_are_refused(refused, store, tmp_path, monkeypatch):
    words = ("sweep", store, "--recipe", "toy", *SHORT, "--stacked")
    line = refused(*words, "--set", "data.train=train,test", "--out", tmp_path / "a", code=2)
    assert "--stacked needs the same rows for all runs" in line
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused(*words, "--seeds", "0,1", "--out", tmp_path / "b", code=2)
    assert "--stacked trains on one device" in line
