"""The training loop of several variants of a stage at once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mvflow.core import NumericsError, UsageError
from mvflow.nn import seeded
from mvflow.stacking.program import FINITE, StackedLoss, joined
from mvflow.training import Compile, EpochRecord, Stage
from mvflow.training.captured import training_step
from mvflow.training.loop import batching, epoch_record, not_finite, shuffled_rows
from mvflow.training.memory import watched_memory
from mvflow.training.step import Step, Sums, compute_losses, new_optimizer

__all__ = ["Variant", "run_stack"]

_log = logging.getLogger(__name__)

LINE_INTERVAL = 2.0
"""Least seconds between two lines of the log."""

NO_WEIGHTS = "beginning of the stage"


@dataclass(eq=False)
class Variant:
    """One of several trainings of a stage.

    Args:
        stage: as for `run_stage`.
        seed: of the order of rows.
        on_epoch: called with the record of each epoch.
        error: why it stopped, after `run_stack`.
        epochs: that it was trained for.
    """

    stage: Stage
    seed: int
    on_epoch: Callable[[EpochRecord], object] = lambda record: None
    error: NumericsError | None = None
    epochs: int = 0


def run_stack(variants: Sequence[Variant], *, compile: Compile = "auto") -> None:
    """Train the modules of all variants in place: one backward pass, one optimiser, one graph.

    Each has the initial weights and the order of rows that it has alone, early stopping of its
    own, and noise of its own, but not the noise that it has alone: that depends on the seeds of
    all. What stops early is computed on, unused, until the last one stops. An epoch has as many
    steps as that of the variant with the fewest rows.

    Args:
        variants: alike but for the values of their weights, rows and seeds.
        compile: as in `run_stage`; "torch" is as "no".

    Raises:
        StageError: if memory runs out.
        UsageError: if the variants do not fit into one stack. A loss that is not finite is an
            `error` of its variant, whose module keeps the weights that it began with.
    """
    stages = [v.stage for v in variants]
    _check(stages)
    with watched_memory(stages[0]):
        _Stack(variants).run(compile)
    for stage in stages:
        stage.trainable.eval()


def _check(stages: Sequence[Stage]) -> None:
    first = stages[0]
    tables = [t for s in stages for t in (s.train, s.validation) if t is not None]
    sizes = {
        (batching(s)[1], s.validation and min(s.settings.batch_size, len(s.validation)))
        for s in stages
    }
    if any(t.is_streamed for t in tables):
        msg = "rows that do not fit into memory are not stacked"
        raise UsageError(msg)
    if len(sizes) > 1 or any(s.settings != first.settings for s in stages):
        msg = f"stages {first.name!r} differ in their settings or the size of a batch"
        raise UsageError(msg)


class _Stack:
    def __init__(self, variants: Sequence[Variant]) -> None:
        self.variants, self.count = variants, len(variants)
        self.stages = [v.stage for v in variants]
        self.first, self.settings = self.stages[0], self.stages[0].settings
        self.steps = min(batching(stage)[0] for stage in self.stages)
        self.lengths = [len(stage.train) for stage in self.stages]
        self.loss = StackedLoss(self.stages)
        held = [s.validation for s in self.stages if s.validation is not None]
        update = {"batch_size": self.count * batching(self.first)[1], "clip": None}
        self.stage = Stage(
            self.first.name,
            self.loss,
            self.loss,
            self.settings.model_copy(update=update),
            joined([s.train for s in self.stages]),
            joined(held) if held else None,
        )
        self.sums, self.best = Sums(), [math.inf] * self.count
        self.best_epoch, self.active = [0] * self.count, list(range(self.count))

    def run(self, compile: Compile) -> None:
        seed, path = self.variants[0].seed, [v.seed for v in self.variants]
        device = self.stage.train.device
        optimizer = new_optimizer(self.stage)
        if (max_norm := self.settings.clip) is not None:  # each variant by itself
            optimizer.register_step_pre_hook(lambda *_: clip(self.loss, max_norm))
        self.first.trainable.train()
        step = training_step(Step(self.stage, optimizer, self.sums), compile)
        kept = {name: value.clone() for name, value in self.loss.now.items()}
        if self.settings.keep_best and self.settings.epochs:  # initial weights may be the best
            self.first.trainable.eval()
            with seeded(seed, self.first.name, "stack", *path, "validation", device=device):
                for i, each in enumerate(self.validations()):
                    self.best[i] = math.inf if each is None else each["loss"]
                    self.best_epoch[i] = -1
        reported = time.perf_counter()
        for epoch in range(self.settings.epochs):
            began, rows = time.perf_counter(), self.rows(epoch)
            self.sums.clear()
            self.loss.finite.fill_(1)
            self.first.trainable.train()
            with seeded(seed, self.first.name, "stack", *path, epoch, device=device):
                for i, batch in enumerate(rows):
                    step(batch, (epoch + i / self.steps) / self.settings.epochs)
            losses = self.means()
            self.first.trainable.eval()
            with seeded(seed, self.first.name, "stack", *path, "validation", device=device):
                validations = list(self.validations())
            seconds = time.perf_counter() - began
            self.end_epoch(epoch, rows, losses, validations, seconds, kept)
            if time.perf_counter() - reported > LINE_INTERVAL:
                reported, active = time.perf_counter(), len(self.active)
                about = (self.first.name, epoch + 1, self.settings.epochs, active, seconds)
                _log.info("%s: epoch %d of %d, %d runs, %.1f s", *about)
            if not self.active:
                break
        for i, variant in enumerate(self.variants):
            if variant.error is None:
                weights = kept if math.isfinite(self.best[i]) else self.loss.now
                self.loss.write(weights, i, variant.stage)

    def rows(self, epoch: int) -> Tensor:
        """Of each step, those of one variant after another's in the joined table."""
        each = [shuffled_rows(v.stage, v.seed, epoch)[: self.steps] for v in self.variants]
        return (torch.stack(each, 1) + _starts(self.lengths, each[0])).flatten(1)

    def end_epoch(
        self,
        epoch: int,
        rows: Tensor,
        losses: list[dict[str, float]],
        validations: list[dict[str, float] | None],
        seconds: float,
        kept: dict[str, Tensor],
    ) -> None:
        """Tell all that are still trained; keep their best weights, and part with some."""
        now, settings = self.loss.now, self.settings
        for i in list(self.active):
            variant, validation, terms = self.variants[i], validations[i], dict(losses[i])
            loss, share = terms.pop("loss"), terms.pop(FINITE)
            bad: tuple[Any, ...] = ()
            if not math.isfinite(loss):
                step = min(round(share * self.steps), self.steps - 1)
                own = rows.unflatten(1, (self.count, -1))[step, i] - sum(self.lengths[:i])
                bad = step, own, NO_WEIGHTS
            elif validation is not None and not math.isfinite(validation["loss"]):
                step = int(validation.pop(FINITE))
                size = min(self.settings.batch_size, len(variant.stage.validation or ()))
                bad = step, torch.arange(size * step, size * (step + 1)), NO_WEIGHTS, "validation"
            if bad:
                variant.error = NumericsError(not_finite(variant.stage, epoch, *bad))
                self.active.remove(i)
                continue
            variant.epochs = epoch + 1
            if validation is not None:
                validation.pop(FINITE)
            variant.on_epoch(epoch_record(variant.stage, epoch, loss, terms, validation, seconds))
            if not settings.keeps_best or validation is None:
                continue
            if validation["loss"] < self.best[i]:
                self.best[i], self.best_epoch[i] = validation["loss"], epoch
                for name, value in kept.items():
                    value[i].copy_(now[name][i])
            elif settings.patience and epoch - self.best_epoch[i] >= settings.patience:
                self.active.remove(i)

    def means(self) -> list[dict[str, float]]:
        """Mean loss and terms of each in this epoch; waits for the device."""
        values = torch.stack(self.sums.all()).double() / self.sums.count
        names = ["loss", *self.sums.terms]
        return [dict(zip(names, own, strict=True)) for own in values.T.tolist()]

    @torch.no_grad()
    def validations(self) -> Iterator[dict[str, float] | None]:
        """Mean loss and terms of the held-out rows of each, which may not be equally many.

        `FINITE` is the first step whose loss is not, if there is one.
        """
        table = self.stage.validation
        if table is None:
            yield from [None] * self.count
            return
        lengths = [len(s.validation) for s in self.stages if s.validation is not None]
        size = min(self.settings.batch_size, *lengths)
        steps = [length // size for length in lengths]
        last = torch.tensor(steps, device=table.device) - 1
        within = torch.arange(size, device=table.device)
        step_losses = []
        for k in range(max(steps)):
            rows = size * last.clamp(max=k)[:, None] + within
            batch = table.gather((rows + _starts(lengths, rows)).flatten())
            losses = compute_losses(self.stage, batch, 1.0)
            step_losses.append(torch.stack([losses.total, *losses.terms.values()]))
        every = torch.stack(step_losses).double()  # (steps, loss and terms, variants)
        names = ["loss", *losses.terms]
        for i, count in enumerate(steps):
            own = every[:count, :, i]
            first_bad = float(own[:, 0].isfinite().int().argmin())
            yield dict(zip(names, own.mean(0).tolist(), strict=True)) | {FINITE: first_bad}


def _starts(lengths: Sequence[int], like: Tensor) -> Tensor:
    """Where the rows of each begin in the joined table, (variants, 1)."""
    return torch.tensor([0, *lengths[:-1]], device=like.device).cumsum(0)[:, None]


def clip(module: nn.Module, max_norm: float) -> None:
    """Scale down the gradient of each variant whose norm is above `most`."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
    factor = (max_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor.view(-1, *[1] * (grad.ndim - 1)))
