"""The one training loop. It knows nothing of what it trains."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mvflow.core import DataError, NumericsError, generator
from mvflow.nn import seeded
from mvflow.training.captured import Compile, TrainingStep, training_step
from mvflow.training.compiling import compiled
from mvflow.training.memory import memory_line
from mvflow.training.schedules import rate_at
from mvflow.training.stage import Checkpoint, EpochRecord, Listener, Silent, Stage
from mvflow.training.step import (
    Rows,
    Step,
    Sums,
    generator_states,
    losses,
    new_optimizer,
    set_generator_states,
)
from mvflow.training.table import Table

__all__ = ["Progress", "batching", "record_of", "rows_of", "run_stage", "validate"]

_log = logging.getLogger(__name__)

HEARD_EVERY = 0.25
"""Seconds between reports of progress; each costs one synchronisation with the device."""


def run_stage(
    stage: Stage,
    *,
    seed: int = 0,
    resume: Checkpoint | None = None,
    listener: Listener | None = None,
    compile: Compile = "auto",
) -> None:
    """Train `stage.trainable` in place.

    Every epoch's order of rows and noise follow from `seed`, the stage's name and the epoch's
    number alone, and a checkpoint made within an epoch holds the states of the generators; so
    going on from a checkpoint gives the same weights as never having stopped.
    With `settings.patience` the best weights by validation loss are the ones that remain.

    Args:
        stage: what to train, on what.
        seed: of the data order and all noise.
        resume: state to go on from.
        listener: hears of every epoch and, a few times a second, of steps.
        compile: how steps are computed, with the same result: "graph" replays a CUDA graph of the
            whole step, "torch" lets torch compile the loss, "no" does neither; "auto" takes on
            CUDA what was faster in a few steps of either kind, graph or not.

    Raises:
        NumericsError: if a loss is not finite; the message names the epoch, step and rows, and
            the weights are those of the last good epoch.
        DataError: if there are fewer rows than one batch needs.
    """
    listener = listener or Silent()
    settings, module = stage.settings, stage.trainable
    steps, size = batching(stage)
    if _log.isEnabledFor(logging.INFO):
        _log.info(memory_line(stage))
    stage = compiled(stage) if compile == "torch" else stage
    progress = Progress(module, new_optimizer(stage), settings.patience)
    step = training_step(Step(stage, progress.optimizer, progress.sums), compile)
    if resume is not None:
        progress.restore(resume)
    device = stage.train.device
    for epoch in range(progress.epoch, settings.epochs):
        if progress.is_stalled():
            break
        rows = rows_of(stage, seed, epoch)
        with seeded(seed, stage.name, "noise", epoch, device=device):
            progress.begin_epoch(device)
            _train_epoch(stage, step, progress, rows, epoch, listener)
        loss, terms = progress.sums.means()
        if not math.isfinite(loss):
            at, bad = _first_bad_step(stage, progress, rows, epoch, seed)
            raise NumericsError(_not_finite(stage, epoch, at, bad, progress.first))
        validation = validate(stage, seed)
        seconds = time.perf_counter() - progress.begun
        progress.end_epoch(validation)
        record = record_of(stage, epoch, loss, terms, validation, seconds)
        listener.on_epoch(record, progress.checkpoint)
    progress.finish()
    module.eval()


def batching(stage: Stage) -> tuple[int, int]:
    """Steps of an epoch, and rows of a step.

    Raises:
        DataError: if there are no rows.
    """
    settings, rows = stage.settings, len(stage.train)
    size = max(1, min(settings.batch_size, rows))
    steps = min(settings.steps_per_epoch or rows // size, rows // size)
    if steps == 0:
        msg = f"stage {stage.name!r} has no rows to train on"
        raise DataError(msg)
    return steps, size


def rows_of(stage: Stage, seed: int, epoch: int) -> Tensor:
    """Numbers of the rows of each step of an epoch (steps, rows of a step)."""
    steps, size = batching(stage)
    order = generator(seed, stage.name, "order", epoch).permutation(len(stage.train))
    return torch.from_numpy(order[: steps * size]).to(stage.train.device).view(steps, size)


def record_of(
    stage: Stage,
    epoch: int,
    loss: float,
    terms: dict[str, float],
    validation: tuple[float, dict[str, float]] | None,
    seconds: float,
) -> EpochRecord:
    """The line of the history for an epoch."""
    steps, size = batching(stage)
    return EpochRecord(
        stage.name,
        epoch,
        loss,
        terms,
        None if validation is None else validation[1],
        rate_at(stage.settings, (epoch + (steps - 1) / steps) / stage.settings.epochs),
        round(seconds, 4),
        round(steps * size / seconds, 1),
        stage.settings.epochs,
    )


def _train_epoch(
    stage: Stage,
    step: TrainingStep,
    progress: Progress,
    rows: Tensor,
    epoch: int,
    listener: Listener | None = None,
    only: int | None = None,
) -> None:
    """The rest of one epoch, or one step of it; `progress.sums` gathers the losses."""
    stage.trainable.train()
    heard, steps = time.perf_counter(), len(rows)
    todo = range(progress.first, steps) if only is None else (only,)
    order = (rows[i] for i in todo)
    batches: Iterable[Rows] = stage.train.each(order) if stage.train.is_streamed else order
    for i, batch in zip(todo, batches, strict=True):
        step(batch, (epoch + i / steps) / stage.settings.epochs)
        if listener is not None and time.perf_counter() - heard > HEARD_EVERY:
            heard = time.perf_counter()
            within = partial(progress.checkpoint_within, rows.device)
            listener.on_step(stage, epoch, i + 1, steps, progress.sums.means()[0], within)


@torch.no_grad()
def validate(stage: Stage, seed: int) -> tuple[float, dict[str, float]] | None:
    """Loss and terms on held-out rows, with the same noise after every epoch."""
    table: Table | None = stage.validation
    if table is None:
        return None
    stage.trainable.eval()
    sums = Sums()
    size = min(stage.settings.batch_size, len(table))
    whole = torch.arange(len(table) // size * size, device=table.device).view(-1, size)
    with seeded(seed, stage.name, "validation", device=table.device):
        for batch in table.each(whole):
            sums.add(*losses(stage, batch, 1.0))
            sums.count += 1
    loss, terms = sums.means()
    return loss, {"loss": loss, **terms}


class Progress:
    """Weights, optimiser and best weights at the end of an epoch, and how far the next one is.

    `first` is the step at which this process took the epoch up, `generators` their states there.
    """

    def __init__(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, patience: int | None
    ) -> None:
        self.module, self.optimizer, self.patience = module, optimizer, patience
        self.epoch = 0
        self.best_loss = math.inf
        self.best_epoch = -1
        self.best: dict[str, Tensor] | None = None
        self.last_good = self._copy()
        self.begun = self.seconds = 0.0
        self.sums = Sums()
        self._next_epoch()

    def _next_epoch(self) -> None:
        self.first, self.seconds = 0, 0.0
        self.generators: dict[str, Tensor] = {}
        self.sums.clear()

    def _copy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        moments = optimizer["state"].items()  # may be slices of tensors that others share
        state = {i: {k: v.clone() for k, v in each.items()} for i, each in moments}
        return weights, {"state": state, "param_groups": copy.deepcopy(optimizer["param_groups"])}

    def begin_epoch(self, device: torch.device) -> None:
        """Take up the epoch: its clock, and generators that were within it."""
        self.begun = time.perf_counter() - self.seconds
        set_generator_states(self.generators, device)

    def end_epoch(self, validation: tuple[float, dict[str, float]] | None) -> None:
        """Note the state at the end of an epoch, and whether it is the best."""
        self.epoch += 1
        self.last_good = self._copy()
        self._next_epoch()
        if self.patience is None or validation is None:
            return
        if validation[0] < self.best_loss:
            self.best_loss, self.best_epoch = validation[0], self.epoch
            self.best = self.last_good[0]

    def is_stalled(self) -> bool:
        """Whether the patience is at its end."""
        if self.patience is None or self.best is None:
            return False
        return self.epoch - self.best_epoch >= self.patience

    def finish(self) -> None:
        """Take the best weights."""
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def rewind(self) -> None:
        """Take the state at the end of the last epoch."""
        weights, optimizer = self.last_good
        self.module.load_state_dict(weights)
        self._load(copy.deepcopy(optimizer))

    def _load(self, optimizer: dict[str, Any]) -> None:
        """Take another state of the optimiser; its learning rate stays the tensor that it was."""
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(optimizer)
        self.optimizer.param_groups[0]["lr"] = rate

    def checkpoint(self) -> Checkpoint:
        """The state at the end of the last epoch."""
        return self._packed(*self.last_good)

    def checkpoint_within(self, device: torch.device) -> Checkpoint:
        """The state now, between two steps of an epoch."""
        tensors, state = self._packed(*self._copy())
        tensors |= {f"random/{k}": v for k, v in generator_states(device).items()}
        tensors |= {f"sums/{i}": v.clone() for i, v in enumerate(self.sums.all())}
        state["step"] = self.sums.count
        state["terms"] = list(self.sums.terms)
        state["seconds"] = time.perf_counter() - self.begun
        return Checkpoint(tensors, state)

    def _packed(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> Checkpoint:
        tensors = {f"weights/{k}": v for k, v in weights.items()}
        tensors |= {f"best/{k}": v for k, v in (self.best or {}).items()}
        for i, state in optimizer["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        groups = [{**group, "lr": float(group["lr"])} for group in optimizer["param_groups"]]
        state = {
            "epoch": self.epoch,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "best_epoch": self.best_epoch,
            "groups": groups,
        }
        return Checkpoint(tensors, json.loads(json.dumps(state)))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint."""
        names = ("weights", "best", "optimizer", "random", "sums")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key, value in checkpoint.tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        self.module.load_state_dict(parts["weights"])
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            i, _, name = key.partition("/")
            states.setdefault(int(i), {})[name] = value
        state = checkpoint.state
        self._load({"state": states, "param_groups": state["groups"]})
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        device = next(self.module.parameters()).device
        self.best = {k: v.to(device) for k, v in parts["best"].items()} or None
        self.last_good = self._copy()
        self._next_epoch()
        if "step" in state:
            values = [parts["sums"][str(i)].to(device) for i in range(len(parts["sums"]))]
            self.sums.set(values, state["terms"], state["step"])
            self.first = state["step"]
            self.generators, self.seconds = parts["random"], state["seconds"]


def _first_bad_step(
    stage: Stage,
    progress: Progress,
    rows: Tensor,
    epoch: int,
    seed: int,
) -> tuple[int, list[int]]:
    """Repeat the epoch from the last good weights to find the step that broke it, and its rows."""
    progress.rewind()
    eager = Step(stage, progress.optimizer, progress.sums)
    try:
        with seeded(seed, stage.name, "noise", epoch, device=rows.device):
            set_generator_states(progress.generators, rows.device)
            for step in range(progress.first, len(rows)):
                progress.sums.clear()
                _train_epoch(stage, eager, progress, rows, epoch, only=step)
                if not math.isfinite(progress.sums.means()[0]):
                    return step, rows[step].tolist()
        return len(rows) - 1, rows[-1].tolist()
    finally:
        progress.rewind()


def _not_finite(stage: Stage, epoch: int, step: int, rows: list[int], first: int) -> str:
    kept = "checkpoint gone on from" if first else "last good epoch"
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    return (
        f"the loss of stage {stage.name!r} is not finite at epoch {epoch + 1}, step {step + 1} "
        f"(training rows {shown}); the weights are those of the {kept}. "
        f"Try a smaller {stage.name}.learning_rate or {stage.name}.clip=1.0"
    )
