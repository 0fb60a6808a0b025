"""Some hundred cases of `benchmarks.fuzz` and `fuzz_stores`; do these see what is wrong?"""

import importlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mvflow.runs import directory, history

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fuzz():
    """A function of a harness and numbers: number -> what is wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        run_cases = importlib.import_module("benchmarks.cases").run_cases
        harness = importlib.import_module("benchmarks.fuzz")
        stores = importlib.import_module("benchmarks.fuzz_stores")
        yield {
            "runs": lambda numbers: run_cases(harness.prepared, numbers),
            "stores": lambda numbers: run_cases(stores.prepared, numbers),
        }


@pytest.mark.slow
def test_no_damaged_file_or_command_line_crashes_hangs_surprises_or_lies(fuzz):
    assert not fuzz["runs"](range(280))


@pytest.mark.slow
def test_the_harness_of_runs_sees_what_it_looks_for(fuzz, monkeypatch):
    """Without the shapes it finds surprises; without the hashes, other weights."""

    def unchecked(path):
        entries = json.loads((path.parent / "manifest.json").read_text())["stages"]
        return load_file(path), {"sha256": entries[path.stem]["weights"]}

    def none(*_):
        pass

    monkeypatch.setattr(history, "check_shape", none)
    found = " ".join(fuzz["runs"](range(3, 210, 7)).values())
    assert "history: " in found
    monkeypatch.setattr(directory, "read_tensors", unchecked)
    found = " ".join(fuzz["runs"](range(0, 210, 7)).values())
    assert "weights: other weights were loaded" in found


@pytest.mark.parametrize("first", [0, 10_000])
def test_no_damaged_or_forged_store_crashes_hangs_surprises_or_lies(fuzz, first):
    assert not fuzz["stores"](range(first, first + 200))


def test_the_harness_of_stores_sees_what_it_looks_for(fuzz, monkeypatch):
    """Without the hashes it finds other values, without the bounds a crash or a surprise."""
    monkeypatch.setattr("mvflow_datasets.stored.StoredArray._wrong", lambda *_: "")
    monkeypatch.setattr("mvflow_datasets.manifest.Manifest._check", lambda *_: None)
    reasons = " ".join(fuzz["stores"](range(200)).values())
    assert "other values were read" in reasons
    assert "Error(" in reasons
