"""`mvflow train-flows`: one stage."""

from __future__ import annotations

from mvflow_cli.options import Again, Compile, Device, Json, Precision, RunPath, StorePath, Threads
from mvflow_cli.training import How, train_command

__all__ = ["train_flows"]


def train_flows(
    run: RunPath,
    again: Again = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    precision: Precision = None,
    compile: Compile = "auto",
    json: Json = False,
) -> None:
    """Train only the posteriors of single modalities.

    Example: mvflow train-flows runs/toy
    """
    train_command(
        run,
        "flows",
        How(store, device, threads, again, json, precision=precision, compile=compile),
    )
