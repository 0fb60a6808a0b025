"""`mvflow diagnose`, and how it gets into the report."""

import io
import json
import shutil

import pytest

from mvflow.runs import RunDirectory, read_json

FEW = ("--rows", 30, "--draws", 19)


def test_json_is_the_file(mvflow, copied):
    found = mvflow("diagnose", copied, *FEW, "--seed", "3", "--json")
    assert found.code == 0, found
    result = json.loads(found.out, parse_constant=pytest.fail)
    assert set(result["subsets"]) == {"circle", "square", "circle+square"}
    assert (result["rows"], result["draws"], result["seed"]) == (30, 19, 3)
    assert result["against"] == "model"
    manifest = RunDirectory.open(copied).manifest()
    assert result["stages"] == {k: v["key"] for k, v in manifest["stages"].items()}
    assert read_json(copied / "metrics" / "diagnose.json") == result
    assert mvflow("diagnose", copied, *FEW, "--seed", "3", "--json").out == found.out


def test_table_and_words(mvflow, copied):
    found = mvflow("diagnose", copied, *FEW, "--against", "data")
    assert found.code == 0, found
    result = read_json(copied / "metrics" / "diagnose.json")
    assert result["against"] == "data"
    assert set(result["subsets"]) == {"circle", "square"}
    for text in ("30 rows", "against the data", "in 80 %", "verdict", result["meaning"]):
        assert " ".join(text.split()) in " ".join(found.out.split())  # tables fold long paths
    for name, one in result["subsets"].items():
        assert (f"{name}: {one['advice']}" in found.out) == (one["verdict"] != "good")


def test_a_narrow_terminal_shows_subsets_and_verdicts_whole(small):
    from rich.console import Console

    from mvflow import JNF, check_calibration
    from mvflow_cli.diagnose import _tables

    known = check_calibration(small.estimator(JNF, 2).fit(small.data(2)[0]), rows=20, draws=9)
    sampler = {"rows_above_1_05": 0.5, "ess_median": 99.0, "acceptance": 0.8, "divergences": 1}
    sampler |= {"verdict": "look closer", "advice": "Draw longer."}
    subset = known.subsets["m0"]
    found = subset.model_copy(
        update={
            "coverage": {"0.5": [0.4], "0.8": [0.7], "0.95": [0.9]},
            "p_value": 1e-9,
            "verdict": "do not trust",
            "sampler": subset.sampler.model_copy(update=sampler),
        }
    )
    result = known.model_copy(update={"rows": 30, "subsets": {"mnist+svhn": found}})
    console = Console(width=80, file=io.StringIO())
    for table in _tables("runs/a", result):
        console.print(table)
    text = console.file.getvalue()
    for word in ("mnist+svhn", "do not trust", "look closer", "50%", "70 %", "1e-09"):
        assert word in text


def test_data_are_looked_for_only_if_they_are_needed(mvflow, refused, copied, tmp_path):
    gone = tmp_path / "gone.h5"
    assert mvflow("diagnose", copied, *FEW, "--store", gone).code == 0
    line = refused("diagnose", copied, *FEW, "--store", gone, "--against", "data", code=1)
    assert f"there is no store at {gone}" in line


def test_wrong_use(refused, trained, make, tmp_path):
    assert "did you mean 'model'?" in refused("diagnose", trained, "--against", "modle", code=2)
    assert "at least 20" in refused("diagnose", trained, "--rows", 3, code=2)
    assert "at least 9" in refused("diagnose", trained, "--draws", 3, code=2)
    assert "is not a run" in refused("diagnose", tmp_path, code=2)
    path = make("new")
    assert f"run 'mvflow train {path} --stage joint' first" in refused("diagnose", path, code=1)


def test_help(mvflow):
    found = mvflow("diagnose", "--help")
    assert found.code == 0
    assert "--against" in found.out


@pytest.fixture
def pages(monkeypatch):
    """Entries of reports that are asked for, in place of written ones."""
    import mvflow.report

    asked = []

    def write(path, entries, **options):
        asked.append(list(entries))
        return path

    monkeypatch.setattr(mvflow.report, "write_report", write)
    return asked


def test_the_report_has_a_diagnosis_only_while_it_is_that_of_the_run(mvflow, copied, pages):
    shutil.rmtree(copied / "metrics", ignore_errors=True)
    assert mvflow("report", copied).code == 0
    assert pages[-1][0].calibration is None
    assert mvflow("diagnose", copied, *FEW).code == 0
    assert mvflow("report", copied).code == 0
    found = pages[-1][0].calibration
    assert found.to_dict() == read_json(copied / "metrics" / "diagnose.json")
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("warmup = 5", "warmup = 6"))
    assert mvflow("report", copied).code == 0
    assert pages[-1][0].calibration is None
