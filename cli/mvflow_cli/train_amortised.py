"""`mvflow train-amortised`: one stage."""

from __future__ import annotations

from mvflow_cli.options import Again, Compile, Device, Json, Precision, RunPath, StorePath, Threads
from mvflow_cli.training import How, train_command

__all__ = ["train_amortised"]


def train_amortised(
    run: RunPath,
    again: Again = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    precision: Precision = None,
    compile: Compile = "auto",
    json: Json = False,
) -> None:
    """Train only the one posterior of all subsets of the modalities.

    Example: mvflow train-amortised runs/toy
    """
    train_command(
        run,
        "amortised",
        How(store, device, threads, again, json, precision=precision, compile=compile),
    )
