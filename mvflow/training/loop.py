"""The one training loop. It knows nothing of what it trains."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mvflow.core import DataError, NumericsError, generator
from mvflow.nn import seeded
from mvflow.training.schedules import SCHEDULES
from mvflow.training.stage import Checkpoint, EpochRecord, Listener, Silent, Stage
from mvflow.training.table import Table

__all__ = ["run_stage"]

HEARD_EVERY = 0.25
"""Seconds between reports of progress; each costs one synchronisation with the device."""


class _Sums:
    """Losses and terms, summed on the device so that no step waits for the host."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self.count = 0

    def add(self, total: Tensor, terms: Mapping[str, Tensor]) -> None:
        total = total.detach()
        self.total = total if self.total is None else self.total + total
        for name, term in terms.items():
            value = term.detach()
            self.terms[name] = self.terms[name] + value if name in self.terms else value
        self.count += 1

    def means(self) -> tuple[float, dict[str, float]]:
        assert self.total is not None
        stacked = torch.stack([self.total, *self.terms.values()]).double() / self.count
        first, *rest = stacked.tolist()
        return first, dict(zip(self.terms, rest, strict=True))


def run_stage(
    stage: Stage,
    *,
    seed: int = 0,
    resume: Checkpoint | None = None,
    listener: Listener | None = None,
) -> None:
    """Train `stage.trainable` in place.

    Every epoch's order of rows and noise follow from `seed`, the stage's name and the epoch's
    number alone; so going on from a checkpoint gives the same weights as never having stopped.
    With `settings.patience` the best weights by validation loss are the ones that remain.

    Args:
        stage: what to train, on what.
        seed: of the data order and all noise.
        resume: state to go on from.
        listener: hears of every epoch and, a few times a second, of steps.

    Raises:
        NumericsError: if a loss is not finite; the message names the epoch, step and rows, and
            the weights are those of the last good epoch.
        DataError: if there are fewer rows than one batch needs.
    """
    listener = listener or Silent()
    settings, module = stage.settings, stage.trainable
    size = max(1, min(settings.batch_size, len(stage.train)))
    full = len(stage.train) // size
    steps = min(settings.steps_per_epoch or full, full)
    if steps == 0:
        msg = f"stage {stage.name!r} has no rows to train on"
        raise DataError(msg)
    optimizer = torch.optim.Adam(
        [p for p in module.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        fused=True,
    )
    progress = _Progress(module, optimizer, settings.patience)
    if resume is not None:
        progress.restore(resume)
    device = stage.train.device
    for epoch in range(progress.epoch, settings.epochs):
        if progress.is_stalled():
            break
        begun = time.perf_counter()
        order = generator(seed, stage.name, "order", epoch).permutation(len(stage.train))
        rows = torch.from_numpy(order[: steps * size]).to(device).view(steps, size)
        with seeded(seed, stage.name, "noise", epoch, device=device):
            sums = _train_epoch(stage, optimizer, rows, epoch, listener)
        loss, terms = sums.means()
        if not math.isfinite(loss):
            step, bad = _first_bad_step(stage, progress, optimizer, rows, epoch, seed)
            raise NumericsError(_not_finite(stage, epoch, step, bad))
        validation = _validate(stage, seed)
        seconds = time.perf_counter() - begun
        progress.end_epoch(validation)
        record = EpochRecord(
            stage.name,
            epoch,
            loss,
            terms,
            None if validation is None else validation[1],
            optimizer.param_groups[0]["lr"],
            round(seconds, 4),
            round(steps * size / seconds, 1),
        )
        listener.on_epoch(record, progress.checkpoint)
    progress.finish()
    module.eval()


def _train_epoch(
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    epoch: int,
    listener: Listener | None = None,
    only: int | None = None,
) -> _Sums:
    """One epoch, or one step of it; sums of the losses."""
    settings = stage.settings
    schedule = SCHEDULES[settings.schedule]
    stage.trainable.train()
    sums, heard, steps = _Sums(), time.perf_counter(), len(rows)
    for step in range(steps) if only is None else (only,):
        done = (epoch + step / steps) / settings.epochs
        optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(done)
        total, terms = _losses(stage, stage.train.gather(rows[step]), done)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(stage.trainable.parameters(), settings.clip)
        optimizer.step()
        sums.add(total, terms)
        if listener is not None and time.perf_counter() - heard > HEARD_EVERY:
            heard = time.perf_counter()
            listener.on_step(stage, epoch, step + 1, steps, sums.means()[0])
    return sums


def _losses(stage: Stage, batch: Mapping[str, Tensor], progress: float) -> Any:
    if stage.settings.precision == "float32":
        return stage.loss(batch, progress)
    with torch.autocast(stage.train.device.type, torch.bfloat16):
        return stage.loss(batch, progress)


@torch.no_grad()
def _validate(stage: Stage, seed: int) -> tuple[float, dict[str, float]] | None:
    """Loss and terms on held-out rows, with the same noise after every epoch."""
    table: Table | None = stage.validation
    if table is None:
        return None
    stage.trainable.eval()
    sums = _Sums()
    size = min(stage.settings.batch_size, len(table))
    whole = torch.arange(len(table) // size * size, device=table.device).view(-1, size)
    with seeded(seed, stage.name, "validation", device=table.device):
        for at in whole:
            sums.add(*_losses(stage, table.gather(at), 1.0))
    loss, terms = sums.means()
    return loss, {"loss": loss, **terms}


class _Progress:
    """Weights, optimiser and best weights at the end of an epoch."""

    def __init__(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, patience: int | None
    ) -> None:
        self.module, self.optimizer, self.patience = module, optimizer, patience
        self.epoch = 0
        self.best_loss = math.inf
        self.best_epoch = -1
        self.best: dict[str, Tensor] | None = None
        self.last_good = self._copy()

    def _copy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        return weights, copy.deepcopy(self.optimizer.state_dict())

    def end_epoch(self, validation: tuple[float, dict[str, float]] | None) -> None:
        self.epoch += 1
        self.last_good = self._copy()
        if self.patience is None or validation is None:
            return
        if validation[0] < self.best_loss:
            self.best_loss, self.best_epoch = validation[0], self.epoch
            self.best = self.last_good[0]

    def is_stalled(self) -> bool:
        if self.patience is None or self.best is None:
            return False
        return self.epoch - self.best_epoch >= self.patience

    def finish(self) -> None:
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def rewind(self) -> None:
        weights, optimizer = self.last_good
        self.module.load_state_dict(weights)
        self.optimizer.load_state_dict(copy.deepcopy(optimizer))

    def checkpoint(self) -> Checkpoint:
        weights, optimizer = self.last_good
        tensors = {f"weights/{k}": v for k, v in weights.items()}
        tensors |= {f"best/{k}": v for k, v in (self.best or {}).items()}
        for i, state in optimizer["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        state = {
            "epoch": self.epoch,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "best_epoch": self.best_epoch,
            "groups": optimizer["param_groups"],
        }
        return Checkpoint(tensors, json.loads(json.dumps(state)))

    def restore(self, checkpoint: Checkpoint) -> None:
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}}
        for key, value in checkpoint.tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        self.module.load_state_dict(parts["weights"])
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            i, _, name = key.partition("/")
            states.setdefault(int(i), {})[name] = value
        state = checkpoint.state
        self.optimizer.load_state_dict({"state": states, "param_groups": state["groups"]})
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        device = next(self.module.parameters()).device
        self.best = {k: v.to(device) for k, v in parts["best"].items()} or None
        self.last_good = self._copy()


def _first_bad_step(
    stage: Stage,
    progress: _Progress,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    epoch: int,
    seed: int,
) -> tuple[int, list[int]]:
    """Repeat the epoch from the last good weights to find the batch that broke it."""
    progress.rewind()
    try:
        with seeded(seed, stage.name, "noise", epoch, device=rows.device):
            for step in range(len(rows)):
                sums = _train_epoch(stage, optimizer, rows, epoch, only=step)
                if not math.isfinite(sums.means()[0]):
                    return step, rows[step].tolist()
        return len(rows) - 1, rows[-1].tolist()
    finally:
        progress.rewind()


def _not_finite(stage: Stage, epoch: int, step: int, rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    return (
        f"the loss of stage {stage.name!r} is not finite at epoch {epoch + 1}, step {step + 1} "
        f"(training rows {shown}); the weights are those of the last good epoch. "
        f"Try a smaller {stage.name}.learning_rate or {stage.name}.clip=1.0"
    )
