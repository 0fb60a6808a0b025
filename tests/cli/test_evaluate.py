"""`mvflow evaluate`, `mvflow report`, `mvflow demo`."""

import json
import os
import shutil

import numpy as np
import pytest

from mvflow.runs import RunDirectory, read_json
from mvflow_datasets import SplitData, Store, write_store

JUDGES = ("classifiers", "autoencoders")


def assignments(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def test_json_holds_every_measure(mvflow, trained, store):
    found = mvflow("evaluate", trained, "--json", "--seed", "3")
    assert found.code == 0, found
    result = json.loads(found.out, parse_constant=pytest.fail)
    assert 0 <= result["coherence"]["joint"]["mean"] <= 1
    assert result["coherence"]["joint"]["standard_error"] >= 0
    assert set(result["coherence"]["conditional"]) == {"circle->square", "square->circle"}
    assert set(result["classifiers"]) == {"circle", "square"}
    assert set(result["frechet"]) == {"autoencoder", "classifier"}
    assert set(result["frechet"]["autoencoder"]["mean"]) == {"joint", "conditional", "real"}
    assert set(result["reconstruction"]) == {"circle", "square"}
    assert set(result["diversity"]) == {"autoencoder", "classifier", "data"}
    assert set(result["log_likelihood"]) == {"joint", "circle->square", "square->circle"}
    assert {"acceptance", "rhat_worst", "divergences"} <= set(result["sampler"])
    assert (result["rows"], result["seed"], result["split"]) == (64, 3, "test")
    manifest = RunDirectory.open(trained).manifest()
    assert result["stages"] == {k: v["key"] for k, v in manifest["stages"].items()}
    assert read_json(trained / "metrics" / "evaluation.json") == result
    assert (store.parent / "toy.classifiers.safetensors").is_file()
    assert (store.parent / "toy.autoencoders.safetensors").is_file()
    again = mvflow("evaluate", trained, "--json", "--seed", "3")
    assert again.out == found.out
    assert "epoch" not in again.err  # all networks are kept beside the store


def test_table(mvflow, trained):
    found = mvflow("evaluate", trained, "--split", "train")
    assert found.code == 0, found
    for text in (
        "coherence",
        "square->circle",
        "Fréchet",
        "MFD",
        "diversity",
        "log-likelihood",
        "acceptance",
        "'train'",
    ):
        assert text in found.out


def test_judges_of_ones_own(mvflow, copied, store, monkeypatch, tmp_path):
    """Weights of Inception-v3, and networks kept beside another store: named with their hash."""
    from mvflow.evaluation import InceptionFeatures

    class Pixels(InceptionFeatures):
        def features(self, name, x):
            return np.asarray(x, np.float32).reshape(len(x), -1)[:, ::7]

    weights = tmp_path / "weights.pth"
    monkeypatch.setattr(
        InceptionFeatures, "read", lambda path, device: Pixels(None, f"weights of {path.name}")
    )
    shutil.copyfile(store, tmp_path / "other.h5")
    mvflow("train-classifiers", tmp_path / "other.h5", *assignments("classifiers.epochs=8"))
    files = {kind: tmp_path / f"other.{kind}.safetensors" for kind in JUDGES}
    judges = [word for kind, file in files.items() for word in (f"--{kind}", file)]
    found = mvflow("evaluate", copied, "--inception", weights, *judges)
    assert found.code == 0, found
    assert "weights of weights.pth" in found.out
    assert "Inception-v3: first the features of" in found.out
    assert found.out.index("Inception-v3: first") < found.out.index("evaluates 2 subsets")
    assert "FID" in found.out
    result = read_json(copied / "metrics" / "evaluation.json")
    assert result["networks"].pop("inception-v3") == "weights of weights.pth"
    for kind in JUDGES:
        assert f"other.{kind}.safetensors, SHA-256" in result["networks"][kind[:-1]]
    assert set(result["frechet"]["inception-v3"]["joint"]) == {"circle", "square"}
    compared = mvflow("compare", copied)
    assert "FID, circle → square" in compared.out
    assert "features of inception-v3: weights of weights.pth" in compared.out


def test_wrong_use(refused, trained, make, store):
    assert "did you mean 'test'?" in refused("evaluate", trained, "--split", "tets", code=2)
    path = make("new")
    wrong = path / "config.toml"
    for words in (["evaluate", trained], ["reproduce", "figure2", "--store", store]):
        assert "config.toml is truncated" in refused(*words, "--inception", wrong, code=1)
    words = ["evaluate", trained, "--folds", "2", "--frechet-infinity"]
    assert "leave out --frechet-infinity" in refused(*words, code=2)
    missing = f"run 'mvflow train {path} --stage joint' first"
    assert missing in refused("evaluate", path, code=1)
    assert missing in refused("report", trained, path, code=1)


def test_it_says_what_it_will_do_and_goes_on_after_an_interruption(mvflow, copied, monkeypatch):
    from mvflow.evaluation.generation import Generation

    expected = mvflow("evaluate", copied, "--json")
    assert "evaluates 2 subsets of modalities (2 of 1)" in expected.err
    assert "on 64 rows; about 0:00:" in expected.err

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Generation, "diversity", interrupt)
        assert mvflow("evaluate", copied, "--json").code != 0
    kept = [*(copied / "metrics" / "parts").rglob("*.json")]
    assert kept
    resumed = mvflow("evaluate", copied, "--json", "--subsets", "7")
    assert f"{len(kept)} of " in resumed.err
    assert " parts are kept" in resumed.err
    assert json.loads(resumed.out)["coherence"] == json.loads(expected.out)["coherence"]
    assert not (copied / "metrics" / "parts").exists()


def test_classifiers_go_into_the_run_if_the_stores_folder_cannot_be_written(
    mvflow, copied, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert mvflow("evaluate", copied).code == 0
    assert (copied / "toy.classifiers.safetensors").is_file()


def test_a_store_without_labels(mvflow, copied, store, tmp_path):
    with Store.open(store) as opened:
        splits = {}
        for name in opened.splits:
            columns = opened[name].columns()
            arrays = {k: c.values for k, c in columns.items()}
            pairs = {k: c.index for k, c in columns.items()}
            splits[name] = SplitData(arrays, pairs=pairs)
        path = write_store(
            tmp_path / "bare.h5", name="bare", modalities=opened.modalities, splits=splits
        )
    found = mvflow("evaluate", copied, "--store", path)
    assert found.code == 0, found
    assert "without coherence" in found.out
    kept = read_json(copied / "metrics" / "evaluation.json")
    assert "coherence" not in kept
    assert set(kept["frechet"]) == {"autoencoder"}  # which needs no classes


@pytest.fixture
def pages(monkeypatch):
    """Reports that are asked for, in place of written ones."""
    import mvflow.report

    asked = []

    def write(path, entries, **options):
        asked.append((path, list(entries), options))
        return path

    monkeypatch.setattr(mvflow.report, "write_report", write)
    return asked


def test_report_evaluates_only_what_has_changed(mvflow, copied, pages):
    shutil.rmtree(copied / "metrics", ignore_errors=True)
    found = mvflow("report", copied, "--json")
    assert found.code == 0, found
    assert json.loads(found.out)["evaluated"] == [str(copied)]
    assert mvflow("report", copied).out == f"wrote {copied / 'report.html'}\n"
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("importance_draws = 20", "importance_draws = 21"))
    assert json.loads(mvflow("report", copied, "--json").out)["evaluated"]
    path, (entry,), _ = pages[-1]
    assert path == copied / "report.html"
    assert entry.name == "copy"
    assert entry.metrics.coherence
    assert entry.store["name"] == "toy"
    assert [r["stage"] for r in entry.history] == ["joint", "flows"]


def test_report_shows_flat_rows_as_images(mvflow, refused, copied, pages):
    found = mvflow("report", copied, "--image-shape", "circle=16x64")
    assert found.code == 0, found
    assert pages[-1][1][0].image_shapes == {"circle": (16, 64)}
    for text, message in {
        "circle": "expected NAME=HEIGHTxWIDTH",
        "circle=16": "expected NAME=HEIGHTxWIDTH",
        "circl=16x64": "did you mean 'circle'?",
        "circle=16x16": "has 256 values, but rows of modality 'circle' have 1024",
    }.items():
        assert message in refused("report", copied, "--image-shape", text, code=2)


def test_report_on_several_runs(mvflow, trained, copied, pages, tmp_path):
    assert mvflow("report", trained, copied, "--out", tmp_path / "all.html").code == 0
    path, entries, _ = pages[0]
    assert path == tmp_path / "all.html"
    assert [e.name for e in entries] == ["toy", "copy"]


def test_the_written_report(mvflow, trained, tmp_path):
    path = tmp_path / "page.html"
    found = mvflow("report", trained, "--out", path)
    assert found.code == 0, found
    assert "<html" in path.read_text("utf-8").lower()


@pytest.fixture
def short_demo(monkeypatch, pages):
    """A demo on few rows and few steps."""
    from mvflow_cli import demo

    short = [
        *("joint.epochs=1", "joint.steps_per_epoch=20", "flows.epochs=1", "projectors.epochs=1"),
        *("flows.steps_per_epoch=5", "evaluation.rows=16", "evaluation.prior_draws=16"),
        *("evaluation.importance_rows=2", "evaluation.importance_draws=8", "sampler.warmup=2"),
        *("evaluation.sampler_rows=2", "sampler.draws=4", "classifiers.epochs=1"),
    ]
    monkeypatch.setattr(demo, "SETTINGS", short)


def test_demo(mvflow, refused, short_demo, pages, tmp_path):
    out = tmp_path / "demo"
    found = mvflow("demo", out, "--seed", "1")
    assert found.code == 0, found
    summary = read_json(out / "summary.json")
    assert summary["seconds"] > 0
    assert summary["peak_memory_mib"] > 0
    for name in ("jnf", "jnf-gaussian", "jnf-shared"):
        assert set(summary[name]["coherence"]["conditional"]) == {
            "circle->square",
            "square->circle",
        }
        run = RunDirectory.open(out / name)
        assert run.config().seed == 1
        assert {p.name for p in (run.path / "samples").iterdir()} == {
            "prior.h5",
            "circle.h5",
            "square.h5",
        }
    assert "joint epoch" not in found.out.partition("jnf-gaussian: training")[2]  # adopted
    path, entries, _ = pages[-1]
    assert path == out / "report.html"
    assert [e.name for e in entries] == ["jnf", "jnf-gaussian", "jnf-shared"]
    assert "holds a demo with seed 1" in refused("demo", out, "--seed", "2", code=2)


def test_demo_goes_on_where_it_was(mvflow, short_demo, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    from mvflow_cli import demo

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(demo, "_sample", interrupted)
        found = mvflow("demo", out)
    assert found.code == 1
    assert found.err.splitlines() == [f"mvflow: interrupted; go on with 'mvflow demo {out}'"]
    found = mvflow("demo", out, "--json")
    assert found.code == 0, found
    assert "epoch" not in found.err.replace("classifier-", "").split("jnf: evaluating")[0]
    assert {"jnf", "jnf-gaussian", "jnf-shared", "seconds"} <= set(json.loads(found.out))
    again = mvflow("demo", out)
    assert again.code == 0
    assert "epoch" not in again.out
    assert "evaluating" not in again.out


def test_demo_leaves_other_folders_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "is not a demo" in refused("demo", tmp_path, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
