"""`mvflow train`: all stages that are not done."""

from __future__ import annotations

from mvflow_cli.distributed import ClusterOptions
from mvflow_cli.options import (
    Again,
    Compile,
    Device,
    Devices,
    Json,
    Nodes,
    Precision,
    RunPath,
    Settings,
    StageNames,
    StorePath,
    SubsetKind,
    Threads,
    Timeout,
)
from mvflow_cli.training import TrainOptions, train_command

__all__ = ["train"]


def train(
    run: RunPath,
    stage: StageNames = None,
    again: Again = False,
    subset: SubsetKind = None,
    settings: Settings = None,
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
    """Train all stages of a run that are not done, in order, or only those named by --stage.

    A run that was stopped, with Ctrl-C or by a crash, goes on where it was.

    Example: mvflow train runs/toy
    """
    machines = ClusterOptions(devices, nodes, timeout)
    options = TrainOptions(
        store=store,
        device=device,
        threads=threads,
        again=again,
        json=json,
        subset=subset,
        settings=tuple(settings or ()),
        precision=precision,
        compile=compile,
        machines=machines,
    )
    train_command(run, stage or None, options)
