"""Stages and the one loop that trains them."""

from mvflow.training.caching import ColumnCache
from mvflow.training.captured import Compile, check_compile
from mvflow.training.compiling import compiled
from mvflow.training.distributed import LostError, Processes, check_devices, connect
from mvflow.training.loop import run_stage
from mvflow.training.memory import Memory, memory_line, predicted_memory
from mvflow.training.stage import Checkpoint, EpochRecord, Listener, Silent, Stage
from mvflow.training.stages import build_stage
from mvflow.training.table import MappedColumn, Table, TensorColumn, as_input, free_memory

__all__ = [
    "ColumnCache",
    "Checkpoint",
    "Compile",
    "EpochRecord",
    "Listener",
    "LostError",
    "MappedColumn",
    "Memory",
    "Processes",
    "Silent",
    "Stage",
    "Table",
    "TensorColumn",
    "as_input",
    "build_stage",
    "check_compile",
    "check_devices",
    "compiled",
    "connect",
    "free_memory",
    "memory_line",
    "predicted_memory",
    "run_stage",
]
