"""`mvflow train`: all stages that are not done."""

from __future__ import annotations

from mvflow_cli.options import Device, Json, RunPath, StorePath, SubsetKind, Threads
from mvflow_cli.training import How, train_command

__all__ = ["train"]


def train(
    run: RunPath,
    subset: SubsetKind = None,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train all stages of a run that are not done, in order.

    A run that was stopped, with Ctrl-C or by a crash, goes on where it was.

    Example: mvflow train runs/toy
    """
    train_command(run, None, How(store, device, threads, json=json, subset=subset))
