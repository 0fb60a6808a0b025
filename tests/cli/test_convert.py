"""`mvflow convert`."""

import json
import shutil
from pathlib import Path

import pytest

OLD = Path(__file__).parents[1] / "estimators" / "format-1"


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
