"""The Python part of the README runs, on small data."""

import re
from pathlib import Path

import numpy as np
import pytest

from mvflow import JNF, load

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_python_part_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    rng = np.random.default_rng(0)
    names = {name: rng.integers(0, 256, (40, 1, 32, 32)).astype(np.uint8) for name in "ab"}
    short = {"epochs": 1, "batch_size": 20}
    few = {"warmup": 2, "draws": 4}
    made = "posterior=NSF(bins=8)"
    assert made in code  # what is made shorter here
    code = code.replace(made, f"{made}, joint={short}, flows={short}, sampler={few}")
    shapes = {}
    for line in code.splitlines():
        found = re.match(r"(model\..*?)\s+# .*?(\([\d, ]+\))$", line)
        if found:
            shapes[found[1]] = eval(found[2])
    exec(code, names)
    assert len(shapes) == 3
    for call, shape in shapes.items():
        assert eval(call, names).shape == shape, call
    assert isinstance(load("runs/mine"), JNF)
