"""Several trainings side by side, each by the one loop, their losses computed as one program."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mvflow.models import Losses
from mvflow.training.stacked import Answer, Request, StackedLoss
from mvflow.training.stage import Stage

__all__ = ["Prepare", "Task", "Together", "with_gradients"]

Prepare = Callable[[Stage], Stage]

Task = Callable[[Prepare], None]
"""Trains one variant: prepares its stage with what it is given, then hands it to `run_stage`."""


@dataclass(eq=False)
class _Worker:
    """One training: its thread, what it asks for, and what it was answered."""

    task: Task
    numbers: Mapping[str, float]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    has_yielded: bool = False
    has_ended: bool = False
    error: BaseException | None = None
    at: tuple[float, int] = (-math.inf, 0)
    kind: Any = None
    request: Request | None = None
    answer: Answer | None = None


class Together:
    """Trainings that wait for each other at every loss, so that one call computes all of them.

    Each is the ordinary training, with its own order of rows, random numbers, optimiser, early
    stopping, checkpoints and history, in a thread of its own; one thread runs at a time. Where
    it asks for a loss it waits until the others that are no further on ask too. So what has
    ended, stalled or failed is no longer waited for, and what goes on from a later checkpoint
    waits until the others have caught up.

    Args:
        program: makes the stacked loss from the first stage that is prepared.

    Attributes:
        reason: why losses were computed one by one after all, or None.
        calls: how often losses were computed together.
    """

    def __init__(self, program: Callable[[Stage], StackedLoss] = StackedLoss) -> None:
        self._make = program
        self._program: StackedLoss | None = None
        self._back = threading.Semaphore(0)
        self._is_interrupted = False
        self.reason: str | None = None
        self.calls = 0

    def run(
        self, tasks: Sequence[Task], numbers: Sequence[Mapping[str, float]] | None = None
    ) -> list[BaseException | None]:
        """Run all to their end.

        Args:
            tasks: the trainings, all on one device.
            numbers: for each, the settings of its own that the loss reads (see `StackedLoss`).

        Returns:
            What each failed with, or None.

        Raises:
            KeyboardInterrupt: after every training was interrupted where it was.
        """
        each = [{}] * len(tasks) if numbers is None else numbers
        workers = [_Worker(t, n) for t, n in zip(tasks, each, strict=True)]
        for worker in workers:
            threading.Thread(target=self._work, args=[worker], daemon=True).start()
        with torch.random.fork_rng():
            self._run(workers)
        if self._is_interrupted:
            raise KeyboardInterrupt
        return [w.error for w in workers]

    def _run(self, workers: Sequence[_Worker]) -> None:
        running = ready = workers
        while running:
            for worker in ready:
                self._resume(worker)
            running = [w for w in running if not w.has_ended]
            ready = self._answered(running) if running else []

    def _resume(self, worker: _Worker) -> None:
        """Let one training run until it waits or ends; Ctrl-C is kept for when it does."""
        worker.has_yielded = False
        worker.go.release()
        while not worker.has_yielded:
            try:
                self._back.acquire()
            except KeyboardInterrupt:
                self._is_interrupted = True

    def _answered(self, waiting: Sequence[_Worker]) -> Sequence[_Worker]:
        """Answer those that are least far on; they are what can go on now."""
        for worker in waiting:
            worker.answer = None
        if self._is_interrupted or self.reason is not None:
            return waiting
        first = min(waiting, key=lambda w: w.at)
        asking = [w for w in waiting if w.at == first.at and w.kind == first.kind]
        if len(asking) == 1:
            return asking  # alone, its own loss will do
        assert self._program is not None
        try:
            requests = [w.request for w in asking if w.request is not None]
            answers = self._program(requests, *first.kind[:2])
        except KeyboardInterrupt:
            self._is_interrupted = True
            return waiting
        except Exception as error:
            self.reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return waiting
        self.calls += 1
        for worker, answer in zip(asking, answers, strict=True):
            worker.answer = answer
        return asking

    # In the thread of a training

    def _work(self, worker: _Worker) -> None:
        worker.go.acquire()
        try:
            worker.task(partial(self._prepared, worker))
        except BaseException as error:
            worker.error = error
        worker.has_ended = worker.has_yielded = True
        self._back.release()

    def _prepared(self, worker: _Worker, stage: Stage) -> Stage:
        if self._program is None:
            self._program = self._make(stage)
        loss = partial(self._loss, worker, stage)
        loss.plain = stage.loss  # type: ignore[attr-defined]  # as it is when it is computed alone
        return replace(stage, loss=loss)

    def _loss(
        self, worker: _Worker, stage: Stage, batch: Mapping[str, Tensor], progress: float
    ) -> Losses:
        """The loss of one variant: its own, or its part of what is computed for all."""
        program, module = self._program, stage.trainable
        if self.reason is not None or program is None:
            return stage.loss(batch, progress)
        before = _generators(stage.train.device)
        noise = program.noise(stage, batch, progress, module.training)
        after = _generators(stage.train.device)
        worker.request = Request(module, batch, noise, worker.numbers)
        worker.kind = progress, module.training, program.kind(batch)
        worker.at = (progress, 0) if module.training else (worker.at[0], 1)
        self._wait(worker)
        _set_generators(before if worker.answer is None else after, stage.train.device)
        if worker.answer is None:
            return stage.loss(batch, progress)
        losses, gradients = worker.answer
        if not module.training:
            return losses
        trained = [p for p in module.parameters() if p.requires_grad]
        return Losses(with_gradients(losses.total, gradients, *trained), losses.terms)

    def _wait(self, worker: _Worker) -> None:
        worker.has_yielded = True
        self._back.release()
        worker.go.acquire()
        if self._is_interrupted:
            raise KeyboardInterrupt


def with_gradients(total: Tensor, gradients: Sequence[Tensor], *trained: Tensor) -> Tensor:
    """`total`, whose gradients by `trained` are those given."""
    found: Tensor = _WithGradients.apply(total, gradients, *trained)
    return found


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: Sequence[Tensor], *trained: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *by_total: Tensor) -> tuple[Any, ...]:
        return None, None, *_times(ctx.gradients, by_total[0])


def _times(tensors: Sequence[Tensor], factor: Tensor) -> Sequence[Tensor]:
    """All tensors times a scalar, in one kernel where they are of its type."""
    if all(t.dtype == factor.dtype for t in tensors):
        found: Sequence[Tensor] = torch._foreach_mul(list(tensors), factor)
        return found
    return [factor.to(t.dtype) * t for t in tensors]


def _generators(device: torch.device) -> list[Tensor]:
    """States of torch's generators on the host and on the device."""
    others = [] if device.type == "cpu" else [torch.get_device_module(device)]
    return [torch.get_rng_state(), *(m.get_rng_state(device) for m in others)]


def _set_generators(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)
