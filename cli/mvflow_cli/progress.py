"""Progress of training: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column

from mvflow_cli.output import console, say

if TYPE_CHECKING:
    from mvflow.evaluation import EvaluationPlan
    from mvflow.training import Checkpoint, EpochRecord, StepRecord

__all__ = ["LINE_INTERVAL", "TrainingProgress", "clock", "counting", "say_plan", "time_left"]

LINE_INTERVAL = 2.0
"""Least seconds between two lines where there is no terminal; a stage's last epoch has one."""


FIELDS = ("epoch", "speed", "loss")


class TrainingProgress:
    """Callback that shows the progress of training; a context manager.

    Args:
        err: show it on stderr, so that stdout holds nothing but a result.
    """

    def __init__(self, *, err: bool = False) -> None:
        self._err = err
        terminal = console(err=err)
        self._bars = _bars(terminal) if terminal.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._seconds: dict[str, list[float]] = {}
        self._printed = 0.0

    def __enter__(self) -> TrainingProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def on_step(self, record: StepRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Move the bar within an epoch."""
        if self._bars is None:
            return
        self._bars.update(
            self._task(record.stage, record.epoch, record.epochs),
            completed=record.epoch + record.step / record.steps,
            epoch=f"epoch {record.epoch + 1}/{record.epochs}",
            loss=f"loss {record.loss:.4g}",
        )

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Move the bar to the end of an epoch, or print its line."""
        self._seconds.setdefault(record.stage, []).append(record.seconds)
        epochs = record.epochs
        if self._bars is not None:
            self._bars.update(
                self._task(record.stage, record.epoch, epochs),
                completed=record.epoch + 1,
                epoch=f"epoch {record.epoch + 1}/{epochs}",
                loss=f"loss {record.loss:.4g}",
                terms=_terms(record),
                speed=f"{record.samples_per_second:,.0f}/s",
            )
            return
        is_last = record.epoch + 1 == epochs
        if is_last or time.monotonic() - self._printed > LINE_INTERVAL:
            self._printed = time.monotonic()
            say(self._line(record, epochs), err=self._err)

    def _line(self, record: EpochRecord, epochs: int) -> str:
        seconds = self._seconds[record.stage]
        left = (epochs - record.epoch - 1) * sum(seconds) / len(seconds)
        return (
            f"{record.stage} epoch {record.epoch + 1}/{epochs}: "
            f"{', '.join(filter(None, [f'loss {record.loss:.4g}', _terms(record)]))}, "
            f"{record.samples_per_second:,.0f} samples/s, {clock(left)} left"
        )

    def _task(self, stage: str, epoch: int, epochs: int) -> TaskID:
        assert self._bars is not None
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(
                stage,
                total=epochs,
                completed=epoch,
                epoch="",
                loss="",
                terms="",
                speed="",
            )
        return self._tasks[stage]


@contextmanager
def counting(what: str, *, err: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A function of (done, in all, name of the next) that moves a bar, or prints a line.

    Args:
        what: is counted.
        err: show it on stderr.
    """
    terminal = console(err=err)
    if not terminal.is_terminal:
        yield lambda done, total, name: say(f"{what} {done + 1}/{total}: {name}", err=err)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(12))
    with Bars(*columns, MofNCompleteColumn(), TimeRemainingColumn(), console=terminal) as bars:
        task = bars.add_task(what)

        def update(done: int, total: int, name: str) -> None:
            bars.update(task, description=f"{what}: {name}", completed=done, total=total)

        yield update
        bars.update(task, completed=bars.tasks[task].total)


def say_plan(plan: EvaluationPlan, *, err: bool = False) -> None:
    """What an evaluation will do and about how long that takes, in two lines or three."""
    sizes = ", ".join(f"{count} of {size}" for size, count in plan.subsets.items())
    subsets = sum(plan.subsets.values())
    line = f"evaluates {subsets} subsets of modalities" + (f" ({sizes})" if subsets else "")
    if plan.skipped:
        line += f", {sum(plan.skipped.values()):,} others left out (--subsets takes more)"
    say(line, err=err)
    few = {size: rows for size, rows in plan.rows_by_observed.items() if rows < plan.rows}
    rows = f"{plan.rows:,} rows"
    if few:
        rows += f", {min(few.values()):,} where {min(few)} or more are observed"
    draws = f", {plan.draws} draws of each" if plan.draws > 1 else ""
    kept = f", {plan.finished} of {plan.parts} parts are kept" if plan.finished else ""
    if plan.likelihood_draws is not None:
        few_draws = f"{plan.likelihood_draws:,} draws of each row"
        say(f"densities are solved for: likelihoods given a modality take {few_draws}", err=err)
    say(f"on {rows}{draws}{kept}; about {clock(plan.seconds)}", err=err)


@contextmanager
def time_left(*, err: bool = False) -> Iterator[Callable[[int, int, str, float], None]]:
    """A function of (done, in all, name of the next, seconds left) that shows them.

    Args:
        err: show it on stderr.
    """
    terminal = console(err=err)
    printed = [0.0]
    if not terminal.is_terminal:

        def line(done: int, total: int, name: str, seconds: float) -> None:
            if time.monotonic() - printed[0] > LINE_INTERVAL:
                printed[0] = time.monotonic()
                say(f"part {done + 1}/{total}: {name}, {clock(seconds)} left", err=err)

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Bars(*columns, console=terminal, transient=True) as bars:
        task = bars.add_task("evaluation", left="", total=None)

        def update(done: int, total: int, name: str, seconds: float) -> None:
            left = f"{clock(seconds)} left"
            bars.update(task, description=name, completed=done, total=total, left=left)

        yield update


def _bars(terminal: Console) -> Bars:
    """One line per stage; where the terminal is narrow, the terms of the loss are cut short."""
    name, epoch, speed, loss = (
        TextColumn(text, markup=False, table_column=Column(no_wrap=True))
        for text in ("{task.description}", *(f"{{task.fields[{f}]}}" for f in FIELDS))
    )
    shortened = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    terms = TextColumn("{task.fields[terms]}", markup=False, table_column=shortened)
    left = TimeRemainingColumn(table_column=Column(no_wrap=True))
    columns = (name, BarColumn(12), epoch, left, speed, loss, terms)
    return Bars(*columns, console=terminal, expand=True)


def _terms(record: EpochRecord) -> str:
    """The loss of held-out rows, and the terms of the loss unless the only one is itself."""
    terms = {name: value for name, value in record.terms.items() if value != record.loss}
    if record.validation is not None:
        terms = {"validation loss": record.validation["loss"], **terms}
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
