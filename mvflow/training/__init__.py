"""Stages and the loop that trains them."""

from mvflow.training.caching import Cache
from mvflow.training.captured import Compile, check_compile
from mvflow.training.compiling import compiled
from mvflow.training.distributed import Processes, all_gather
from mvflow.training.launch import check_devices, connect
from mvflow.training.loop import run_stage
from mvflow.training.memory import free_memory
from mvflow.training.stage import Callback, Checkpoint, EpochRecord, NoOpCallback, Stage
from mvflow.training.stages import build_stage, finish_stage, fit_prior
from mvflow.training.table import MappedColumn, Table, TensorColumn, as_input

__all__ = [
    "Cache",
    "Callback",
    "Checkpoint",
    "Compile",
    "EpochRecord",
    "MappedColumn",
    "NoOpCallback",
    "Processes",
    "Stage",
    "Table",
    "TensorColumn",
    "all_gather",
    "as_input",
    "build_stage",
    "check_compile",
    "check_devices",
    "compiled",
    "connect",
    "finish_stage",
    "fit_prior",
    "free_memory",
    "run_stage",
]
