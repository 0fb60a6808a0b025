"""Some hundred cases of `benchmarks/fuzz.py`, and whether it sees what it looks for."""

import importlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mvflow.runs import directory

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield importlib.import_module("benchmarks.fuzz")


@pytest.fixture(scope="module")
def folder(fuzz, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    fuzz.prepare(path)
    return path


@pytest.mark.slow
def test_no_damaged_file_or_command_line_crashes_hangs_surprises_or_lies(fuzz, folder):
    assert not fuzz.tried(range(280), folder)


@pytest.mark.slow
def test_the_harness_sees_what_it_looks_for(fuzz, folder, monkeypatch):
    """Without the shapes it finds surprises; without the hashes, other weights."""

    def unchecked(path):
        entries = json.loads((path.parent / "manifest.json").read_text())["stages"]
        return load_file(path), {"sha256": entries[path.stem]["weights"]}

    def none(*_):
        pass

    monkeypatch.setattr(directory, "check_shape", none)
    found = " ".join(fuzz.tried(range(3, 210, 7), folder).values())
    assert "history: " in found
    monkeypatch.setattr(directory, "read_tensors", unchecked)
    found = " ".join(fuzz.tried(range(0, 210, 7), folder).values())
    assert "weights: other weights were loaded" in found
