"""Several processes for one command: started here, or found where a launcher started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvflow_cli.opening import set_up
from mvflow_cli.output import say
from mvflow_cli.subprocesses import MVFLOW

if TYPE_CHECKING:
    from mvflow.training import Processes

__all__ = ["ClusterOptions", "process_group"]

EVERY = 0.2
"""Seconds between two looks at the processes that are starting."""

_STORES: list[object] = []
"""Where processes meet; open as long as this process is there."""


@dataclass(frozen=True)
class ClusterOptions:
    """How many processes a command is to have."""

    devices: int | None = None
    nodes: int = 1
    timeout: float = 300.0


@contextmanager
def process_group(
    options: ClusterOptions, device: str, threads: int | None
) -> Iterator[Processes | None]:
    """The processes of this command, all of which do what follows; None if it is alone.

    The main process starts the others, unless torchrun, srun or another launcher has. The
    others print nothing on stdout, and end with the main process.

    Raises:
        LostError: if not all come together.
        UsageError: if there are too few devices, or no lightning-fabric.
    """
    devices, nodes = _asked(options)
    is_alone = devices * nodes == 1
    if not is_alone:  # before torch is imported: DDP warns where all parameters are used
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    set_up(device, threads if is_alone else None)
    if is_alone:
        yield None
        return
    from mvflow.training import check_devices, connect

    check_devices(devices, nodes, device)
    began = threading.Event()
    children = [] if nodes > 1 or _is_started() else _started(devices)
    threading.Thread(target=_watch, args=[children, began], daemon=True).start()
    try:
        processes = connect(devices, nodes=nodes, device=device, timeout=options.timeout)
        began.set()
        set_up(str(processes.device), threads)
        if not processes.is_main_process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                sys.stdout = nowhere
                yield processes
        else:
            yield processes
        processes.barrier()
    except BaseException:
        for child in children:
            child.kill()
        raise
    finally:
        sys.stdout = sys.__stdout__
        for child in children:
            child.wait()


def _asked(options: ClusterOptions) -> tuple[int, int]:
    """Processes on each machine, and machines; torchrun says both."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return options.devices or 1, options.nodes
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return options.devices or here, int(os.environ["WORLD_SIZE"]) // here


def _is_started() -> bool:
    """Whether something else has started all processes."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _started(count: int) -> Sequence[subprocess.Popen[bytes]]:
    """This command again, as processes 1 to `count` - 1 beside this one.

    They meet at a store that is open before they start, so that nobody else takes its port.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "NODE_RANK": "0"}
    os.environ.update(place, LOCAL_RANK="0", TORCHELASTIC_USE_AGENT_STORE="True")
    command = [*MVFLOW, *sys.argv[1:]]
    return [
        subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)})
        for rank in range(1, count)
    ]


def _watch(children: Sequence[subprocess.Popen[bytes]], began: threading.Event) -> None:
    """End this process if another ends before all have come together: it would wait in vain."""
    while not began.wait(EVERY):
        for rank, child in enumerate(children, 1):
            if child.poll() is not None and not began.is_set():
                say(f"mvflow: process {rank} ended before it began", err=True)
                for other in children:
                    other.kill()
                os._exit(1)
