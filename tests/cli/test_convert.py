"""`mvflow convert`."""

import json
import shutil
from pathlib import Path

import pytest

OLD = Path(__file__).parents[1] / "estimators" / "format-1"
STORE = Path(__file__).parents[1] / "datasets" / "format-1.h5"
TRAIN = "13c8c8cf2a3a042c2a71e3ef1f27cf17fe8b0957d6152b90d2577e7d918fc6d0"
"""What mvflow 0.1 recorded as the fingerprint of the training rows of that store."""


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD, tmp_path / "old")


def test_an_old_run_is_refused_with_the_command_that_converts_it(mvflow, refused, old):
    for command in ("train", "sample"):
        assert f"run 'mvflow convert {old}' once" in refused(command, old, code=2)
    found = mvflow("convert", old)
    assert found.out == f"converted {old}: stages projectors, joint, flows, prior\n"
    assert mvflow("sample", old, "--n", 3).code == 0


def test_the_result_is_json_on_request(mvflow, old):
    found = json.loads(mvflow("convert", old, "--json").out)
    assert found == {"run": str(old), "stages": ["projectors", "joint", "flows", "prior"]}


def test_wrong_use(refused, trained, old, tmp_path):
    assert "only runs of format 1 are converted" in refused("convert", trained, code=2)
    assert "is not a run directory" in refused("convert", tmp_path, code=2)
    (old / "flows.safetensors").write_bytes(b"")
    assert "flows.safetensors is missing or damaged" in refused("convert", old, code=1)


def trained_on_the_old_store(old):
    """As if this run had been trained on `format-1.h5`."""
    file = old / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    for entry in manifest["stages"].values():
        entry["fingerprint"] = TRAIN
    file.write_text(json.dumps(manifest), "utf-8")
    return old


@pytest.mark.parametrize("later", [False, True])
def test_a_run_goes_on_with_its_converted_store(mvflow, refused, old, tmp_path, later):
    trained_on_the_old_store(old)
    new = tmp_path / "new.h5"
    assert mvflow("data", "convert", STORE, new).out.startswith(f"wrote {new} (")
    if later:
        assert mvflow("convert", old).code == 0
        assert "was trained on other rows" in refused("train", old, "--store", new, code=1)
    found = mvflow("convert", old, "--store", new)
    assert found.out == f"converted {old}: stages projectors, joint, flows, prior\n"
    found = mvflow("train", old)
    assert (found.code, found.out.count("done already")) == (0, 4), found
    assert mvflow("convert", old, "--store", new).out == f"converted {old}: stages none\n"


def test_a_store_of_other_rows_is_refused_and_nothing_changed(mvflow, refused, old, tmp_path):
    new = tmp_path / "new.h5"
    mvflow("data", "convert", STORE, new)
    before = (old / "config.toml").read_bytes()
    assert "was trained on other rows" in refused("convert", old, "--store", new, code=1)
    assert (old / "config.toml").read_bytes() == before
    assert not (old / "format-1").exists()
