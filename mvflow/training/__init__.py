"""Stages and the one loop that trains them."""

from mvflow.training.loop import run_stage
from mvflow.training.stage import Checkpoint, EpochRecord, Listener, Silent, Stage
from mvflow.training.stages import build_stage, finish_stage
from mvflow.training.table import Table, TensorColumn, as_input

__all__ = [
    "Checkpoint",
    "EpochRecord",
    "Listener",
    "Silent",
    "Stage",
    "Table",
    "TensorColumn",
    "as_input",
    "build_stage",
    "finish_stage",
    "run_stage",
]
