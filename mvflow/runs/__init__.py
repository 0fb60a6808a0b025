"""Files of a run: configuration, weights, checkpoints, history, manifest. Nothing is computed."""

from mvflow.runs.directory import RunDirectory
from mvflow.runs.files import read_json, write_atomically, write_json
from mvflow.runs.intervals import read_intervals, write_intervals
from mvflow.runs.locking import is_locked, locked, waiting_lock
from mvflow.runs.plan import Inputs, Plan, StageRecord
from mvflow.runs.torch_files import StateDict, load_torch, read_state_dict
from mvflow.runs.weights import is_own_file, read_tensors, weights_hash, write_tensors

__all__ = [
    "Inputs",
    "Plan",
    "RunDirectory",
    "StageRecord",
    "StateDict",
    "is_locked",
    "is_own_file",
    "load_torch",
    "locked",
    "read_intervals",
    "read_json",
    "read_state_dict",
    "read_tensors",
    "waiting_lock",
    "weights_hash",
    "write_atomically",
    "write_intervals",
    "write_json",
    "write_tensors",
]
