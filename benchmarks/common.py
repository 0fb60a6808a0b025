"""What benchmarks share: taking turns, tables in Markdown, and what was measured with what."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

Rows = list[dict[str, Any]]


def turn_by_turn(
    timed: dict[str, Callable[[], Any]],
    turns: int,
    clock: Callable[[], float] = time.process_time,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each in each turn; each turn begins with another, so all meet the same machine.

    By default CPU seconds of this process; `time.perf_counter` gives those on the wall. `before`
    is called at the begin of a turn and not timed.
    """
    found: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for turn in range(turns):
        before()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = clock()
            timed[name]()
            found[name].append(clock() - began)
    return found


def markdown(rows: Rows) -> str:
    """A table with the keys of the first row as its head."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[key]) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def about(*packages: str, device: str = "cpu") -> dict[str, Any]:
    """Commit, date, machine and versions; None for a package that is not installed."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for name in ("mvflow", "numpy", "torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "commit": commit,
        "date": date.today().isoformat(),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }
