"""Stages and the loop that trains them."""

from mvflow.training.caching import ColumnCache
from mvflow.training.callbacks import (
    Callbacks,
    EarlyStopping,
    History,
    ModelCheckpoint,
    Progress,
    Record,
)
from mvflow.training.captured import Compile, check_compile
from mvflow.training.compiling import compiled
from mvflow.training.distributed import Processes
from mvflow.training.launch import check_devices, connect
from mvflow.training.loop import run_stage
from mvflow.training.memory import free_memory
from mvflow.training.stage import (
    Callback,
    Checkpoint,
    EpochRecord,
    NoOpCallback,
    Stage,
    StepRecord,
)
from mvflow.training.stages import build_stage, check_rows
from mvflow.training.table import MappedColumn, Table, TensorColumn, as_input

__all__ = [
    "Callback",
    "Callbacks",
    "Checkpoint",
    "ColumnCache",
    "Compile",
    "EarlyStopping",
    "EpochRecord",
    "History",
    "MappedColumn",
    "ModelCheckpoint",
    "NoOpCallback",
    "Processes",
    "Progress",
    "Record",
    "Stage",
    "StepRecord",
    "Table",
    "TensorColumn",
    "as_input",
    "build_stage",
    "check_compile",
    "check_devices",
    "check_rows",
    "compiled",
    "connect",
    "free_memory",
    "run_stage",
]
