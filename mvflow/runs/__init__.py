"""Files of a run: configuration, weights, checkpoints, history, manifest. Nothing is computed."""

from mvflow.runs.directory import RunDirectory, read_tensors, write_tensors
from mvflow.runs.files import read_json, write_atomically, write_json

__all__ = [
    "RunDirectory",
    "read_json",
    "read_tensors",
    "write_atomically",
    "write_json",
    "write_tensors",
]
