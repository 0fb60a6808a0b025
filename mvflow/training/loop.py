"""The training loop, which is the same for every stage of every system."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from mvflow.core import DataError, NumericsError, UsageError, derive_seed, generator
from mvflow.nn import seeded
from mvflow.training.captured import Compile, TrainingStep, training_step
from mvflow.training.checkpoint import TrainingState
from mvflow.training.compiling import compiled
from mvflow.training.distributed import Processes
from mvflow.training.memory import peak_memory, watched_memory
from mvflow.training.schedules import rate_at
from mvflow.training.stage import Callback, Checkpoint, EpochRecord, NoOpCallback, Stage
from mvflow.training.step import Batch, Step, Sums, compute_losses, new_optimizer
from mvflow.training.table import Table

__all__ = ["run_stage"]

_log = logging.getLogger(__name__)

REPORT_INTERVAL = 0.25
"""Seconds between two calls of `Callback.on_step`; each synchronises with the device."""


def run_stage(
    stage: Stage,
    *,
    seed: int = 0,
    resume: Checkpoint | None = None,
    callback: Callback | None = None,
    compile: Compile = "auto",
    processes: Processes | None = None,
) -> None:
    """Train `stage.trainable` in place.

    The order of rows and the noise of an epoch are functions of `seed`, the stage's name and the
    epoch, and checkpoints within an epoch hold the states of the generators: a resumed training
    gives the same weights as one that was never interrupted. With `settings.patience` the weights
    with the best validation loss are kept.

    Args:
        stage: what to train, on what.
        seed: of the order of rows and all noise.
        resume: checkpoint to resume from; that of the main process counts.
        callback: called after every epoch and a few times a second.
        compile: "graph" replays each step as a CUDA graph, "torch" compiles the loss with
            `torch.compile`, "no" does neither; "auto" is "graph" on CUDA, else "no".
        processes: train data-parallel with these; the rows of a batch are divided among them.

    Raises:
        DataError: if there are no rows.
        LostError: if another process ends or does not answer.
        NumericsError: if a loss is not finite; the message names epoch, step and rows, and the
            weights are those of the last good epoch.
        StageError: if memory runs out, or the processes do not train the same stage.
        UsageError: if several processes are to train with a compiled step.
    """
    if not len(stage.train):
        msg = f"stage {stage.name!r} has no rows to train on"
        raise DataError(msg)
    if processes is not None:
        if compile in ("graph", "torch"):
            msg = f"compile={compile!r} is for one process: leave it out, or train with one"
            raise UsageError(msg)
        compile = "no"
        stage, resume = processes.distribute(stage), processes.broadcast(resume)
    stage = compiled(stage) if compile == "torch" else stage
    size = sum(t.nbytes for table in _tables(stage) for t in table.tensors())
    where = "streamed" if stage.train.is_streamed else f"resident on {stage.train.device}"
    _log.info("%s: %d rows, %s (%.1f MiB)", stage.name, len(stage.train), where, size / 2**20)
    watched = nullcontext() if processes is None else processes.watched()
    with watched, watched_memory(stage):
        _Loop(stage, seed, callback or NoOpCallback(), processes).run(resume, compile)
    if processes is not None:
        processes.synchronize(stage.trainable)  # buffers after the last step
    stage.trainable.eval()


def _tables(stage: Stage) -> list[Table]:
    tables = (stage.train, stage.validation, *stage.resident_tables)
    return [table for table in tables if table is not None]


class _Loop:
    def __init__(
        self, stage: Stage, seed: int, callback: Callback, processes: Processes | None
    ) -> None:
        self.stage, self.seed, self.callback, self.processes = stage, seed, callback, processes
        self.device, rows = stage.train.device, len(stage.train)
        self.batch_size = max(1, min(stage.settings.batch_size, rows))
        full = rows // self.batch_size
        self.steps = min(stage.settings.steps_per_epoch or full, full)
        optimizer = new_optimizer(stage)
        self.state = TrainingState(stage.trainable, optimizer, stage.settings.patience)
        self.eager = Step(stage, optimizer, self.state.sums)

    def run(self, resume: Checkpoint | None, compile: Compile) -> None:
        state, stage = self.state, self.stage
        if resume is not None:
            state.restore(resume)
        stage.trainable.train()
        step = training_step(self.eager, compile)
        started = state.epoch
        while state.epoch < stage.settings.epochs and not state.is_stalled():
            rows = self.shuffled(state.epoch)
            self.train_epoch(step, rows)
            loss, terms = state.sums.means()
            if not math.isfinite(loss):
                raise NumericsError(self.not_finite(rows))
            validation = self.validate()
            seconds = time.perf_counter() - state.begun
            record = self.record(loss, terms, validation, seconds)
            state.end_epoch(None if validation is None else validation["loss"])
            if record.epoch == started:
                peak = peak_memory(self.device) / 2**20
                _log.info("%s: peak memory %.0f MiB after one epoch", stage.name, peak)
            stop = bool(self.callback.on_epoch(record, state.checkpoint))
            if stop if self.processes is None else self.processes.broadcast(stop):
                break
        state.load_best()

    def shuffled(self, epoch: int) -> Tensor:
        """Row indices of each step of an epoch, (steps, rows of a step)."""
        order = generator(self.seed, self.stage.name, "order", epoch).permutation(
            len(self.stage.train)
        )
        rows = torch.from_numpy(order[: self.steps * self.batch_size]).to(self.device)
        return rows.view(self.steps, self.batch_size)

    def train_epoch(self, step: TrainingStep, rows: Tensor) -> None:
        """Train from `state.first_step` to the end of the epoch."""
        state, reported = self.state, time.perf_counter()
        self.stage.trainable.train()
        with seeded(self.seed, self.stage.name, "noise", state.epoch, device=self.device):
            state.begin_epoch(self.device)
            for i, batch in self.batches(rows, range(state.first_step, self.steps)):
                step(batch, (state.epoch + i / self.steps) / self.stage.settings.epochs)
                if time.perf_counter() - reported > REPORT_INTERVAL:
                    reported, mean = time.perf_counter(), state.sums.means()[0]
                    now = partial(state.checkpoint_within, self.device)
                    self.callback.on_step(self.stage, state.epoch, i + 1, self.steps, mean, now)

    def batches(self, rows: Tensor, steps: range) -> Iterator[tuple[int, Batch]]:
        """Number and batch of each step; of several processes, this one's share of it."""
        train, processes = self.stage.train, self.processes
        shard = rows if processes is None else processes.shard(rows)
        order = (shard[i] for i in steps)
        batches: Iterable[Batch] = train.each(order) if train.is_streamed else order
        for i, batch in zip(steps, batches, strict=True):
            if processes is not None:  # noise of its own for each process, in each step
                path = (self.stage.name, "noise", self.state.epoch, i, processes.rank)
                torch.manual_seed(derive_seed(self.seed, *path))
            yield i, batch

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Mean loss and terms of the held-out rows, with the same noise after every epoch."""
        table, sums = self.stage.validation, Sums()
        if table is None:
            return None
        self.stage.trainable.eval()
        size = min(self.stage.settings.batch_size, len(table))
        rows = torch.arange(len(table) // size * size, device=table.device).view(-1, size)
        path: tuple[str | int, ...] = (self.stage.name, "validation")
        if self.processes is not None:
            rows, path = self.processes.shard(rows), (*path, self.processes.rank)
        with seeded(self.seed, *path, device=table.device):
            for batch in table.each(rows):
                sums.add(compute_losses(self.stage, batch, 1.0))
                sums.count += 1
        loss, terms = sums.means()
        return {"loss": loss, **terms}

    def record(
        self,
        loss: float,
        terms: dict[str, float],
        validation: dict[str, float] | None,
        seconds: float,
    ) -> EpochRecord:
        """The line of the history for this epoch."""
        settings, epoch = self.stage.settings, self.state.epoch
        last = (epoch + (self.steps - 1) / self.steps) / settings.epochs
        speed = self.steps * self.batch_size / seconds
        return EpochRecord(
            *(self.stage.name, epoch, loss, terms, validation, rate_at(settings, last)),
            *(round(seconds, 4), round(speed, 1), settings.epochs),
        )

    def not_finite(self, rows: Tensor) -> str:
        """Rewind to the last good weights, and say which step of the epoch they fail in."""
        state, stage = self.state, self.stage
        step = self.first_bad_step(rows)
        names = rows[step].tolist()
        kept = "checkpoint resumed from" if state.first_step else "last good epoch"
        shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
        return (
            f"the loss of stage {stage.name!r} is not finite at epoch {state.epoch + 1}, "
            f"step {step + 1} (training rows {shown}); the weights are those of the {kept}. "
            f"Try a smaller {stage.name}.learning_rate or {stage.name}.clip=1.0"
        )

    def first_bad_step(self, rows: Tensor) -> int:
        """Repeat the epoch eagerly, looking at the loss of each step."""
        state, epoch = self.state, self.state.epoch
        state.rewind()
        try:
            with seeded(self.seed, self.stage.name, "noise", epoch, device=self.device):
                state.begin_epoch(self.device)
                for i, batch in self.batches(rows, range(state.first_step, self.steps)):
                    state.sums.clear()
                    progress = (epoch + i / self.steps) / self.stage.settings.epochs
                    self.eager(batch, progress)
                    if not math.isfinite(state.sums.means()[0]):
                        return i
            return self.steps - 1
        finally:
            state.rewind()
