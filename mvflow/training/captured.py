"""A training step as one CUDA graph: a single launch in place of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mvflow.core import UsageError, unknown_name
from mvflow.nn import WARM_UP, capture_stream
from mvflow.training.step import Batch, Step, generator_states, set_generator_states

__all__ = ["CapturedStep", "Compile", "TrainingStep", "check_compile", "training_step"]

_log = logging.getLogger(__name__)

Compile = Literal["auto", "graph", "torch", "no"]
"""How a step is computed; see `run_stage`."""

TrainingStep = Callable[[Batch, float], None]  # trains on a batch at a progress in [0, 1]


def check_compile(name: str) -> Compile:
    """The way to compute a step of this name.

    Raises:
        UsageError: if there is none.
    """
    ways: dict[str, Compile] = {way: way for way in get_args(Compile)}
    if name not in ways:
        raise UsageError(unknown_name("way to compile", name, ways))
    return ways[name]


def training_step(step: Step, compile: Compile) -> TrainingStep:
    """The step as a CUDA graph; the step itself where it is not to be, or cannot be, captured."""
    name, device = step.stage.name, step.stage.train.device.type
    if compile == "no" or (compile in ("auto", "torch") and device != "cuda"):
        return step
    reason = f"there are no CUDA graphs on {device!r}"
    if device == "cuda":
        try:
            with _undone(step):
                captured = CapturedStep(step)
            _log.info("%s: each step is one CUDA graph", name)
            return captured
        except Exception as error:  # whatever it is, the eager step will do or raise the same
            reason = str(error.__context__ or error).strip()  # why the capture ended, not how
    _log.info("%s: steps are not captured: %s", name, reason.partition("\n")[0])
    return step


class CapturedStep:
    """The whole step, from gathering rows to the sums of losses, as a `torch.cuda.CUDAGraph`.

    Rows, progress and learning rate are copied to where the graph reads them.
    """

    def __init__(self, step: Step) -> None:
        self.step, train = step, step.stage.train
        rows = torch.arange(min(step.stage.settings.batch_size, len(train)), device=train.device)
        self.batch: Any = train.gather(rows) if train.is_streamed else rows
        self.progress = torch.zeros((), dtype=torch.float64, device=train.device)
        self.graph, host = torch.cuda.CUDAGraph(), torch.get_rng_state()
        with capture_stream(train.device) as stream:
            for _ in range(WARM_UP):
                step.compute(self.batch, self.progress)
            step.optimizer.param_groups[0]["capturable"] = True
            with torch.cuda.graph(self.graph, stream=stream):
                step.compute(self.batch, self.progress)
        if not torch.equal(host, torch.get_rng_state()):
            msg = "its loss draws random numbers on the CPU, which a graph would not draw anew"
            raise RuntimeError(msg)

    def __call__(self, batch: Batch, progress: float) -> None:
        """Train on one batch at `progress` in [0, 1]."""
        if isinstance(batch, Tensor):
            self.batch.copy_(batch)
        else:
            for name, rows in batch.items():
                self.batch[name].copy_(rows)
        self.progress.fill_(progress)
        self.step.prepare(progress)
        self.graph.replay()


@contextmanager
def _undone(step: Step) -> Iterator[None]:
    """Warm up without a trace: weights, moments, sums and generators are restored in place."""
    stage, optimizer, device = step.stage, step.optimizer, step.stage.train.device

    def changing() -> Iterator[Tensor]:
        yield from (*stage.trainable.parameters(), *stage.trainable.buffers(), *step.sums.all())
        yield from (value for state in optimizer.state.values() for value in state.values())

    kept = {id(t): t.detach().clone() for t in changing()}
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)
        optimizer.param_groups[0]["capturable"] = False  # only the capture asks for it
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor in changing():  # moments and sums begin at zero
                tensor.copy_(kept[id(tensor)]) if id(tensor) in kept else tensor.zero_()
