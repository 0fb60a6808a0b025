"""Other people's code: installed kinds, `--plugin`, and code that nobody asked for."""

import json
import tomllib

import pytest
import tomli_w

from mvflow.runs import RunDirectory

DEEP = """
from mvflow.posteriors import MAF
from mvflow.posteriors.base import Family

class Deep(Family):
    "Several MAFs in a row."
    layers: int = 2

    def transform(self, latent):
        return MAF(transforms=self.layers, hidden=(4,)).transform(latent)
"""


@pytest.fixture
def plugged(mvflow, install, make):
    """An untrained run that names a class by its import path."""
    install("deep-flows", DEEP)
    path = make("a")
    raw = tomllib.loads((path / "config.toml").read_text("utf-8"))
    raw["posterior"] = {"kind": "deep_flows:Deep", "layers": 3}
    (path / "config.toml").write_text(tomli_w.dumps(raw), "utf-8")
    return path


def test_a_configuration_alone_runs_nobodys_code(refused, plugged):
    line = refused("train", plugged, code=2)
    assert "posterior 'deep_flows:Deep' is code outside mvflow that has not been imported" in line
    assert "'mvflow --plugin deep_flows'" in line


def test_a_plugin_is_trained_written_down_and_sampled_from(mvflow, plugged):
    found = mvflow("--plugin", "deep_flows", "train", plugged)
    assert found.code == 0, found
    assert RunDirectory.open(plugged).config().posterior.layers == 3
    found = mvflow("--plugin", "deep_flows", "sample", plugged, "--given", "square", "--json")
    assert json.loads(found.out)["diagnostics"]["method"] == "exact"


def test_a_new_run_may_have_a_plugin(mvflow, store, install, tmp_path):
    install("deep-flows", DEEP)
    words = ("new", tmp_path / "a", "--recipe", "toy", "--store", store)
    found = mvflow("--plugin", "deep_flows", *words, "--posterior", "deep_flows:Deep")
    assert found.code == 0, found
    assert type(RunDirectory.open(tmp_path / "a").config().posterior).__name__ == "Deep"
    assert f"'mvflow --plugin deep_flows train {tmp_path / 'a'}'" in found.out  # works as it is
    found = mvflow("--plugin", "deep_flows", "evaluate", tmp_path / "a")
    assert f"'mvflow --plugin deep_flows train {tmp_path / 'a'}" in found.err


@pytest.mark.slow  # processes of their own
def test_processes_of_a_sweep_have_the_plugin(mvflow, store, install, tmp_path, monkeypatch):
    install("deep-flows", DEEP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ("sweep", store, "--recipe", "toy", "--set", "posterior=deep_flows:Deep")
    short = ("--set", "joint.epochs=1", "--set", "flows.epochs=1", "--out", tmp_path / "swept")
    found = mvflow("--plugin", "deep_flows", *words, *short, "--seeds", "0")
    assert found.code == 0, found


def test_an_installed_kind_needs_no_plugin(mvflow, make, install):
    install("deep-flows", DEEP, posteriors={"deep": "deep_flows:Deep"})
    path = make("a", "--posterior", "deep", "--set", "posterior.layers=1")
    assert 'kind = "deep"' in (path / "config.toml").read_text("utf-8")
    assert mvflow("train", path).code == 0
    assert "deep: Several MAFs in a row. [layers = 2]" in mvflow("list", "posteriors").out


def test_plugins_that_cannot_be_imported_are_named(refused, install, trained):
    install("broken", "1 / 0")
    line = refused("--plugin", "broken", "sample", trained, code=2)
    assert "plugin 'broken' cannot be imported: ZeroDivisionError" in line
    line = refused("--plugin", "nowhere_at_all", "sample", trained, code=2)
    assert "No module named 'nowhere_at_all'" in line
