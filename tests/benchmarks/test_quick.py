"""Each benchmark runs from next to nothing, and writes what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = {"coherence": ["toy"], "gpu": ["--device", "cpu", "--minutes", "5"]}
HELPERS = {
    "cases",
    "common",
    "noise",
    "profiling",
    "rival",
    "roofline",
    "simulated_cells",
    "thinned",
}
NO_TABLES = {"fuzz", "fuzz_stores", "mutations"}  # pass or fail; `tests/test_fuzz.py`, by hand
NEEDED = {"agreement": "multivae", "race": "multivae"}
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem[0] != "_")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in HELPERS | NO_TABLES])
def test_a_quick_one_writes_its_tables(name, tmp_path):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"{name} needs {NEEDED[name]}")
    out = tmp_path / ("out" if name == "gpu" else "out.json")
    words = [f"benchmarks.{name}", *ARGUMENTS.get(name, []), "--quick", "--out", str(out)]
    found = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    files = sorted(out.glob("*.json")) if out.is_dir() else [out]
    assert files
    for file in files:
        assert json.loads(file.read_text())["about"]["versions"]["mvflow"]
        assert out.is_dir() or file.with_suffix(".md").read_text().count("|") > 4
