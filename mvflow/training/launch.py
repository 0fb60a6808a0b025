"""Set-up of the process group, whose processes we or a launcher such as torchrun started."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from importlib.util import find_spec

import torch

from mvflow.core import LostError, UsageError
from mvflow.training.distributed import Processes

__all__ = ["check_devices", "connect"]


def connect(
    devices: int,
    *,
    nodes: int = 1,
    device: str = "cpu",
    timeout: float = 300.0,
) -> Processes:
    """Join the process group of this run, and wait until all ranks are there.

    They are those that torchrun, `srun` or MPI have started, found by their environment.

    Args:
        devices: processes on each machine, each with a GPU of its own or on the CPU.
        nodes: machines.
        device: "cpu" or "cuda".
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        LostError: if not all came.
        UsageError: if lightning-fabric is missing, or there are too few devices.
    """
    check_devices(devices, nodes, device)
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            # A loss need not use all parameters in each step.
            strategy=DDPStrategy(timeout=timedelta(seconds=timeout), find_unused_parameters=True),
            plugins=[LightningEnvironment()] if _is_plain() else None,
        )
        fabric.launch()
    except ValueError as error:  # the launcher has started another number of processes
        raise UsageError(_first_line(error)) from error
    except RuntimeError as error:
        msg = f"not all {devices * nodes} processes came together: {_first_line(error)}"
        raise LostError(msg) from error
    return Processes(fabric)


def check_devices(devices: int, nodes: int, device: str) -> None:
    """Check the arguments of `connect`.

    Raises:
        UsageError: if lightning-fabric is missing, or there are too few devices.
    """
    if devices < 1 or nodes < 1:
        msg = f"devices={devices}, nodes={nodes}: expected 1 or more of each"
        raise UsageError(msg)
    if device not in ("cpu", "cuda"):
        msg = f"device {device!r}: several processes take 'cpu' or 'cuda', one GPU each"
        raise UsageError(msg)
    if device == "cuda" and torch.cuda.device_count() < devices:
        msg = f"devices={devices}, but this machine has {torch.cuda.device_count()} GPUs"
        raise UsageError(msg)
    if find_spec("lightning_fabric") is None:
        msg = "several processes need lightning-fabric: pip install 'mvflow[distributed]'"
        raise UsageError(msg)


def _is_plain() -> bool:
    """Whether processes were started with a rank each, but not by a known launcher."""
    is_known = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & {*os.environ}
    is_alone = int(os.environ.get("SLURM_NTASKS", "1")) == 1
    return "LOCAL_RANK" in os.environ and (not is_known or is_alone)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
