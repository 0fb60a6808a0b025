"""`mvflow compare` and `mvflow train-classifiers`."""

import json
import shutil

import pytest

from mvflow.estimators import load
from mvflow.runs import RunDirectory, read_json, write_json
from mvflow_cli.measuring import SECTIONS, run_state
from mvflow_datasets import SplitData, find_builder, write_store

CLASSIFIERS = ("--set", "classifiers.epochs=2")


@pytest.fixture
def evaluated(mvflow, copied):
    shutil.rmtree(copied / "metrics", ignore_errors=True)
    found = mvflow("evaluate", copied)
    assert found.code == 0, found
    return copied


def test_what_is_measured_by_the_paper_s_protocol_stands_apart(mvflow, refused, evaluated):
    """With its own sampler and divisor; the run's own numbers are as they were."""
    line = refused("compare", evaluated, "--protocol", "paper", code=1)
    assert f"by protocol paper: run 'mvflow evaluate {evaluated} --protocol paper' first" in line
    own = (evaluated / "metrics" / "evaluation.json").read_bytes()
    assert mvflow("evaluate", evaluated, "--protocol", "paper").code == 0
    assert (evaluated / "metrics" / "evaluation.json").read_bytes() == own
    found = json.loads(mvflow("compare", evaluated, "--protocol", "paper", "--json").out)
    assert any(n.startswith("protocol paper; several given: product") for n in found["notes"])
    assert any("the prior |S|-1 times (Eq. 12), no ball" in n for n in found["notes"])
    metrics = read_json(evaluated / "metrics" / "evaluation-paper.json")
    assert metrics["settings"]["subset"] == {"kind": "product", "divisor": "prior", "ball": False}
    assert "did you mean 'paper'" in refused("evaluate", evaluated, "--protocol", "papr", code=2)


def test_a_run_whose_settings_changed_since_its_evaluation_is_refused(refused, evaluated):
    config = evaluated / "config.toml"
    config.write_text(config.read_text().replace('divisor = "aggregate"', 'divisor = "prior"'))
    line = refused("compare", evaluated, code=1)
    assert "config.toml was changed since its evaluation (subset.divisor)" in line


@pytest.mark.parametrize("edit", [("beta = 1.0", "beta = 5.0"), ("seed = 0", "seed = 1")])
def test_a_run_whose_settings_changed_since_its_training_is_refused(refused, evaluated, edit):
    """Its numbers are of the old settings; `sample` and `evaluate` refuse it, too."""
    config = evaluated / "config.toml"
    config.write_text(config.read_text().replace(*edit, 1))
    line = refused("compare", evaluated, code=1)
    assert f"{config} was changed since stage 'joint' was trained" in line
    assert f"run 'mvflow train {evaluated}', then 'mvflow evaluate {evaluated}' first" in line
    refused("sample", evaluated, code=1)


def test_parts_of_an_evaluation_by_another_rule_are_not_taken_over(copied):
    """Both rules have the same stages: only the settings tell them apart."""
    run, model = RunDirectory.open(copied), load(copied)
    both = (model, model.with_parts(subset="mixture"))
    first, second = (run_state(run, each, SECTIONS) for each in both)
    assert first["stages"] == second["stages"]
    assert first["settings"] != second["settings"]


def said_to_be_trained_with(path, old, new):
    """A run with another setting, whose keys are as if its stages were trained with that."""
    config, metrics = path / "config.toml", path / "metrics" / "evaluation.json"
    config.write_text(config.read_text().replace(old, new, 1))
    plan, manifest = load(path).plan_, read_json(path / "manifest.json")
    keys = plan.keys(next(iter(RunDirectory.open(path).records().values())).inputs)
    for name, record in manifest["stages"].items():
        record["key"] = keys[name]
    write_json(path / "manifest.json", manifest)
    write_json(metrics, {**read_json(metrics), "stages": {n: keys[n] for n in manifest["stages"]}})
    return path


@pytest.fixture
def other_seed(evaluated, tmp_path):
    """The same weights and measures, said to be of another seed."""
    path = shutil.copytree(evaluated, tmp_path / "other")
    return said_to_be_trained_with(path, "seed = 0", "seed = 1")


def test_tables_and_plots(mvflow, evaluated, other_seed, tmp_path):
    out = tmp_path / "tables" / "toy"
    found = mvflow("compare", evaluated, other_seed, "--out", out)
    assert found.code == 0, found
    assert "coherence" in found.out
    for suffix in ("md", "tex", "csv", "json", "png", "svg"):
        assert out.with_suffix(f".{suffix}").stat().st_size > 100
    assert "| JNF | 2 |" in out.with_suffix(".md").read_text("utf-8")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    metrics = read_json(evaluated / "metrics" / "evaluation.json")
    measures = read_json(out.with_suffix(".json"))["systems"]["JNF"]["measures"]
    assert measures["coherence/joint"]["values"] == 2 * [metrics["coherence"]["joint"]["mean"]]
    again = mvflow("compare", evaluated, other_seed, "--out", f"{out}.md", "--json")
    result = json.loads(again.out, parse_constant=pytest.fail)
    assert f"{out}.tex" in result["written"]
    assert result["systems"]["JNF"]["seeds"] == [0, 1]


def test_a_narrow_terminal_shows_all_numbers(mvflow, evaluated, tmp_path, monkeypatch):
    paths = [evaluated]
    for beta in ("2.0", "3.0", "4.0"):
        path = shutil.copytree(evaluated, tmp_path / beta)
        paths.append(said_to_be_trained_with(path, "beta = 1.0", f"beta = {beta}"))
    monkeypatch.setenv("COLUMNS", "80")
    out = mvflow("compare", *paths).out
    assert "…" not in out
    mean = read_json(evaluated / "metrics" / "evaluation.json")["coherence"]["joint"]["mean"]
    (*lines,) = (line for line in out.splitlines() if "coherence, joint" in line)
    assert sum(line.count(f"{mean:.3f}") for line in lines) == 4


def test_wrong_use(refused, evaluated, make, tmp_path):
    path = make("new")
    line = refused("compare", evaluated, path, code=1)
    assert f"{path} has not been evaluated: run 'mvflow evaluate {path}' first" in line
    assert "same settings and seed 0" in refused("compare", evaluated, evaluated, code=2)
    assert "the paper has no figures" in refused("compare", evaluated, "--paper", code=2)
    assert "is not a run directory" in refused("compare", tmp_path, code=2)
    assert "Missing argument" in refused("compare", code=2)
    metrics = evaluated / "metrics" / "evaluation.json"
    known = read_json(metrics)
    write_json(metrics, {**known, "stages": {**known["stages"], "flows": "before"}})
    assert "was trained anew since its evaluation" in refused("compare", evaluated, code=1)
    write_json(metrics, {**known, "rows": "many"})
    line = refused("compare", evaluated, code=1)
    assert f"{metrics} does not hold what this mvflow writes: 'rows' is 'many'" in line
    metrics.write_text("{")
    assert "is damaged and cannot be read" in refused("compare", evaluated, code=1)


def test_classifiers_are_trained_once_and_used_by_evaluate(mvflow, copied, tmp_path):
    store = tmp_path / "toy.h5"
    find_builder("toy").build(store, rows=2000, test_rows=200)
    found = mvflow("train-classifiers", store, *CLASSIFIERS, "--json")
    assert found.code == 0, found
    result = json.loads(found.out)
    assert set(result["classifiers"]["accuracy"]) == {"circle", "square"}
    assert result["classifiers"]["trained"]
    assert result["autoencoders"]["trained"]
    kept = tmp_path / "toy.classifiers.safetensors"
    assert result["classifiers"]["path"] == str(kept)
    again = mvflow("train-classifiers", store, *CLASSIFIERS)
    assert "classifiers: kept already" in again.out
    assert "epoch" not in again.out
    assert "square: accuracy" in again.out
    measured = mvflow("evaluate", copied, "--store", store, "--json")
    assert measured.code == 0, measured
    assert "epoch" not in measured.err
    assert json.loads(measured.out)["classifiers"] == result["classifiers"]["accuracy"]
    changed = mvflow("train-classifiers", store, "--set", "classifiers.epochs=1", "--json")
    assert json.loads(changed.out)["classifiers"]["trained"]
    afresh = mvflow("train-classifiers", store, "--set", "classifiers.epochs=1", "--again")
    assert "classifiers: trained" in afresh.out


def test_wrong_use_of_train_classifiers(refused, store, tmp_path, small):
    assert "there is no store at" in refused("train-classifiers", tmp_path / "no.h5", code=1)
    line = refused("train-classifiers", store, "--set", "classifiers.epoch=1", code=2)
    assert "did you mean 'epochs'" in line
    assert "unknown recipe" in refused("train-classifiers", store, "--recipe", "tay", code=2)
    data, _ = small.data(2, rows=30)
    from mvflow.core import Modality

    modalities = [Modality(name, x.shape[1:]) for name, x in data.items()]
    splits = {name: SplitData(data) for name in ("train", "test")}
    path = write_store(tmp_path / "bare.h5", name="bare", modalities=modalities, splits=splits)
    assert "has no labels: classifiers need a class" in refused("train-classifiers", path, code=1)
    assert not (tmp_path / "bare.classifiers.safetensors").exists()
