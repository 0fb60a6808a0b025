"""The tutorial on tables: its Python and its commands are run, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mvflow_cli.main import run

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


@pytest.mark.slow
def test_the_tutorial_ends_with_a_filled_table_that_holds_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        if language == "python":
            exec(block, names)
            continue
        for line in block.splitlines():
            assert run(shlex.split(line)[1:]) == 0, line
    filled, true = names["filled"], names["true"]
    assert filled.index.tolist() == true.index.tolist()
    assert not filled["unlike training"].all()
    # signal to noise bounds R² near .9; a mean of 40 rows strays by about .05 from it
    assert names["r2"].mean() > 0.6
    # 160 values of 40 people: the share inside a 90 % interval has a standard error of about .04
    assert 0.78 < np.mean(names["inside"]) <= 1
    assert (tmp_path / "people" / "report.html").stat().st_size > 10_000
