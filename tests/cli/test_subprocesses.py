"""Processes that mvflow starts are of the same mvflow, wherever it is called."""

import subprocess

import mvflow
from mvflow_cli.subprocesses import MVFLOW


def test_a_folder_of_the_same_name_is_not_imported(tmp_path):
    """As in a checkout of another version, beside which an installed one is called."""
    for package in ("mvflow", "mvflow_cli"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    found = subprocess.run(
        [*MVFLOW, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert mvflow.__version__ in found.stdout
