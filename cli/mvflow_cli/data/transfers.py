"""How downloads are shown: a bar on a terminal, plain lines elsewhere, nothing beside JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mvflow_cli.output import console, plain, say

if TYPE_CHECKING:
    from mvflow_datasets import Builder
    from mvflow_datasets.downloading import Download

__all__ = ["fetch_files"]

SPARSE = 10.0
"""Least seconds between two lines about one file."""


def fetch_files(builder: Builder, folder: Path, *, json: bool) -> None:
    """Fetch what a dataset is made of, and show it unless the result is JSON."""
    with _interruptible(), _Transfers(quiet=json) as transfers:
        builder.download(folder, transfers)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("mvflow: interrupted; what came is kept: run it again to go on", err=True)
        raise typer.Exit(1) from None


class _Transfers:
    """A watcher that shows the downloads; a context manager."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        terminal = console()
        self._bars = _bars(terminal) if terminal.is_terminal and not quiet else None
        self._name = ""
        self._said = 0.0

    def __enter__(self) -> _Transfers:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def on_start(self, download: Download, path: Path) -> None:
        """Name the file and where it comes from."""
        self._name, self._said = path.name, time.monotonic()
        if self._bars is not None:
            self._bars.add_task(f"{path.name} from {download.host}", total=download.size or None)
        else:
            self._say(f"fetching {download.url} into {path}")

    def on_bytes(self, done: int, total: int | None) -> None:
        """Move the bar, or print a line every now and then."""
        from mvflow_datasets.downloading import readable_size

        if self._bars is not None:
            self._bars.update(self._bars.task_ids[-1], completed=done, total=total)
        elif time.monotonic() - self._said > SPARSE:
            self._said = time.monotonic()
            of = f" of {readable_size(total)}" if total else ""
            self._say(f"{self._name}: {readable_size(done)}{of}")

    def on_end(self, path: Path) -> None:
        """Fill the bar, or say how large the file is."""
        from mvflow_datasets.downloading import readable_size

        size = path.stat().st_size
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[-1], completed=size, total=size)
        else:
            self._say(f"fetched {path} ({readable_size(size)})")

    def on_note(self, sentence: str) -> None:
        """Say what a human should know, also beside JSON."""
        if self._bars is not None:
            self._bars.console.print(plain(sentence), soft_wrap=True)
        else:
            say(f"mvflow: warning: {sentence}", err=True)

    def _say(self, line: str) -> None:
        if not self._quiet:
            say(line)


def _bars(terminal: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=terminal,
    )
