"""`mvflow train-joint`: one stage."""

from __future__ import annotations

from mvflow_cli.options import Again, Compile, Device, Json, Precision, RunPath, StorePath, Threads
from mvflow_cli.training import How, train_command

__all__ = ["train_joint"]


def train_joint(
    run: RunPath,
    again: Again = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    precision: Precision = None,
    compile: Compile = "auto",
    json: Json = False,
) -> None:
    """Train only the joint VAE.

    Example: mvflow train-joint runs/toy
    """
    train_command(
        run,
        "joint",
        How(store, device, threads, again, json, precision=precision, compile=compile),
    )
