"""Calibrated intervals are kept with a run, and are those of its present weights alone."""

import numpy as np
import pytest

from mvflow import JNF
from mvflow.core import DataError
from mvflow.metrics import CalibratedIntervals
from mvflow.runs import RunDirectory, read_intervals, write_intervals


@pytest.fixture
def run(fitted, tmp_path):
    fitted(JNF, 2).save(tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def test_intervals_come_back_as_they_were(run):
    assert read_intervals(run) is None
    margins = {"m0->m1": np.array([[0.1, np.inf], [0.2, -0.3]])}
    keys = {name: record.key for name, record in run.records().items()}
    write_intervals(run, CalibratedIntervals((0.5, 0.9), 100, margins), keys)
    found = read_intervals(run)
    assert (found.levels, found.draws) == ((0.5, 0.9), 100)
    np.testing.assert_array_equal(found.margins["m0->m1"], margins["m0->m1"])
    write_intervals(run, found, dict.fromkeys(keys, "other weights"))
    assert read_intervals(run) is None


@pytest.mark.bad_input
def test_a_damaged_file_is_a_sentence(run):
    path = run.path / "metrics" / "intervals.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"intervals.safetensors is missing or damaged"):
        read_intervals(run)
