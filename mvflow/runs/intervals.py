"""Calibrated intervals of a run: kept beside its evaluation, read where rows are imputed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mvflow.core import DataError
from mvflow.metrics import CalibratedIntervals
from mvflow.runs.directory import RunDirectory
from mvflow.runs.weights import read_tensors, write_tensors

__all__ = ["read_intervals", "write_intervals"]

FILE = Path("metrics") / "intervals.safetensors"


def write_intervals(
    run: RunDirectory, intervals: CalibratedIntervals, stages: Mapping[str, str]
) -> Path:
    """Keep calibrated intervals with a run, and return the path of the file.

    Args:
        run: the run.
        intervals: what to keep.
        stages: name -> key of the weights that they were measured with.
    """
    tensors = {name: torch.from_numpy(x) for name, x in intervals.to_arrays().items()}
    path = run.path / FILE
    write_tensors(path, tensors, {"kind": "intervals", "stages": dict(stages)})
    return path


def read_intervals(run: RunDirectory) -> CalibratedIntervals | None:
    """The calibrated intervals of a run; None if it has none of its present weights.

    Raises:
        DataError: if their file is damaged.
    """
    path = run.path / FILE
    if not path.is_file():
        return None
    tensors, about = read_tensors(path)
    if about.get("kind") != "intervals" or not isinstance(about.get("stages"), dict):
        msg = f"{path} holds no calibrated intervals: run 'mvflow evaluate' again"
        raise DataError(msg)
    keys = {name: record.key for name, record in run.records().items()}
    if any(keys.get(name) != key for name, key in about["stages"].items()):
        return None
    arrays = {name: x.double().numpy() for name, x in tensors.items()}
    return CalibratedIntervals.from_arrays(arrays, str(path))
