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
from mvflow.training.stage import (
    Callback,
    Checkpoint,
    EpochRecord,
    NoOpCallback,
    Stage,
    StepRecord,
)
from mvflow.training.step import Batch, Step, Sums, compute_losses, new_optimizer
from mvflow.training.table import Table

__all__ = ["batching", "epoch_record", "not_finite", "run_stage", "shuffled_rows"]

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
    gives the same weights as one that was never interrupted. With `settings.patience` or
    `settings.keep_best` the weights with the best validation loss are kept.

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
        NumericsError: if a loss is not finite, in training or in validation; the message names
            epoch, step and rows, and the weights are those of the last good epoch.
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
        self.device = stage.train.device
        self.steps, _ = batching(stage)
        optimizer = new_optimizer(stage)
        self.state = TrainingState(stage.trainable, optimizer, stage.settings)
        self.eager = Step(stage, optimizer, self.state.sums)

    def run(self, resume: Checkpoint | None, compile: Compile) -> None:
        state, stage = self.state, self.stage
        if resume is not None:
            state.restore(resume)
        elif stage.settings.keep_best and stage.settings.epochs:
            initial = self.validate()
            state.compare(None if initial is None else initial["loss"])
        stage.trainable.train()
        step = training_step(self.eager, compile)
        started = state.epoch
        while state.epoch < stage.settings.epochs and not state.is_stalled():
            rows = shuffled_rows(stage, self.seed, state.epoch)
            self.train_epoch(step, rows)
            loss, terms = state.sums.means()
            if not math.isfinite(loss):
                raise NumericsError(self.not_finite(rows, self.first_bad_step(rows)))
            validation = self.validate()
            seconds = time.perf_counter() - state.begun
            record = epoch_record(stage, state.epoch, loss, terms, validation, seconds)
            state.end_epoch(None if validation is None else validation["loss"])
            if record.epoch == started:
                peak = peak_memory(self.device) / 2**20
                _log.info("%s: peak memory %.0f MiB after one epoch", stage.name, peak)
            stop = bool(self.callback.on_epoch(record, state.checkpoint))
            if stop if self.processes is None else self.processes.broadcast(stop):
                break
        if state.is_stalled() and state.epoch < stage.settings.epochs:
            _log.info(
                "%s: ended early, for the validation loss has not fallen for %d epochs; kept are "
                "the weights of epoch %d of %d, validation loss %.4g",
                stage.name,
                state.epoch - state.best_epoch,
                state.best_epoch,
                stage.settings.epochs,
                state.best_loss,
            )
        state.load_best()

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
                    self.callback.on_step(self.step_record(i + 1, mean), now)

    def step_record(self, step: int, loss: float) -> StepRecord:
        """Where training is after `step` steps of the epoch, whose mean loss is `loss`."""
        stage, epoch = self.stage, self.state.epoch
        return StepRecord(stage.name, epoch, step, self.steps, loss, stage.settings.epochs)

    def batches(self, rows: Tensor, steps: range) -> Iterator[tuple[int, Batch]]:
        """Index and batch of each step; with several processes, this rank's shard of it."""
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
        """Mean loss and terms of the held-out rows, with the same noise after every epoch.

        They are those at the end of the stage, whatever is annealed: epochs can be compared.
        """
        table, sums, totals = self.stage.validation, Sums(), []
        if table is None:
            return None
        self.stage.trainable.eval()
        size = min(self.stage.settings.batch_size, len(table))
        rows = torch.arange(len(table) // size * size, device=table.device).view(-1, size)
        shard = rows
        path: tuple[str | int, ...] = (self.stage.name, "validation")
        if self.processes is not None:
            shard, path = self.processes.shard(rows), (*path, self.processes.rank)
        with seeded(self.seed, *path, device=table.device):
            for batch in table.each(shard):
                losses = compute_losses(self.stage, batch, 1.0)
                totals.append(losses.total)
                sums.add(losses)
                sums.count += 1
        loss, terms = sums.means()
        if not math.isfinite(loss):
            first_bad = int(torch.stack(totals).isfinite().int().argmin())
            self.state.rewind()
            raise NumericsError(self.not_finite(rows, first_bad, "validation"))
        return {"loss": loss, **terms}

    def not_finite(self, rows: Tensor, step: int, what: str = "training") -> str:
        """Error message for a loss that is not finite, after `TrainingState.rewind`."""
        kept = "checkpoint resumed from" if self.state.first_step else "last good epoch"
        return not_finite(self.stage, self.state.epoch, step, rows[step], kept, what)

    def first_bad_step(self, rows: Tensor) -> int:
        """First step whose loss is not finite: repeats the epoch eagerly, rewinds the state."""
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


def batching(stage: Stage) -> tuple[int, int]:
    """Steps per epoch, and batch size."""
    rows = len(stage.train)
    size = max(1, min(stage.settings.batch_size, rows))
    return min(stage.settings.steps_per_epoch or rows // size, rows // size), size


def shuffled_rows(stage: Stage, seed: int, epoch: int) -> Tensor:
    """Shuffled row indices of an epoch, (steps, batch)."""
    steps, size = batching(stage)
    order = generator(seed, stage.name, "order", epoch).permutation(len(stage.train))
    return torch.from_numpy(order[: steps * size]).to(stage.train.device).view(steps, size)


def epoch_record(
    stage: Stage,
    epoch: int,
    loss: float,
    terms: dict[str, float],
    validation: dict[str, float] | None,
    seconds: float,
) -> EpochRecord:
    """History record of an epoch."""
    settings, (steps, size) = stage.settings, batching(stage)
    last = (epoch + (steps - 1) / steps) / settings.epochs
    return EpochRecord(
        *(stage.name, epoch, loss, terms, validation, rate_at(settings, last)),
        *(round(seconds, 4), round(steps * size / seconds, 1), settings.epochs),
    )


def not_finite(
    stage: Stage, epoch: int, step: int, rows: Tensor, kept: str, what: str = "training"
) -> str:
    """Error message for a loss that is not finite at a step, counted from 0, on these rows."""
    names = rows.tolist()
    shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
    loss = "loss" if what == "training" else f"{what} loss"
    return (
        f"the {loss} of stage {stage.name!r} is not finite at epoch {epoch + 1}, "
        f"step {step + 1} ({what} rows {shown}); the weights are those of the {kept}. "
        f"Try a smaller {stage.name}.learning_rate or {stage.name}.clip=1.0"
    )
