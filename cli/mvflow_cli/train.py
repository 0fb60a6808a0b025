"""`mvflow train`: all stages that are not done."""

from __future__ import annotations

from mvflow_cli.distributed import ClusterOptions
from mvflow_cli.options import (
    Compile,
    Device,
    Devices,
    Json,
    Nodes,
    Precision,
    RunPath,
    StorePath,
    SubsetKind,
    Threads,
    Timeout,
)
from mvflow_cli.training import How, train_command

__all__ = ["train"]


def train(
    run: RunPath,
    subset: SubsetKind = None,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    precision: Precision = None,
    compile: Compile = "auto",
    devices: Devices = None,
    nodes: Nodes = 1,
    timeout: Timeout = 300.0,
    json: Json = False,
) -> None:
    """Train all stages of a run that are not done, in order.

    A run that was stopped, with Ctrl-C or by a crash, goes on where it was.

    Example: mvflow train runs/toy
    """
    machines = ClusterOptions(devices, nodes, timeout)
    how = How(
        store,
        device,
        threads,
        json=json,
        subset=subset,
        precision=precision,
        compile=compile,
        machines=machines,
    )
    train_command(run, None, how)
