"""A training step as a CUDA graph: one launch where there were hundreds.

What is captured is one plain function on tensors that stay where they are in memory: the numbers
of a batch's rows, the learning rate, the progress, weights, moments, sums. It gathers the rows,
computes the loss and its gradient, clips, moves the weights and draws its random numbers. A graph
is a recording of it; on a CPU, which has no graphs, it is called again. So all but the recording
itself is the same everywhere, and a step can be replaced by the other kind at any time.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mvflow.core import UsageError, unknown_name
from mvflow.training.stage import Stage
from mvflow.training.step import Rows, Step

__all__ = ["Compile", "TrainingStep", "check_compile", "training_step"]

_log = logging.getLogger(__name__)

Compile = Literal["auto", "graph", "torch", "no"]
"""Ways to compute a step; see `run_stage`."""

WARM_UP = 3
"""Steps ahead of the capture, on a stream of their own: libraries set themselves up there."""

MEASURED = 10
"""Steps of each kind that are timed to find the faster one."""

CLOSE = 0.05
"""How far a replay may be from an eager step, as a part of how far the step goes.

Two steps from the same state differ by the order of sums, which Adam magnifies where a gradient is
all but zero. Another batch, other noise or another learning rate differ by more than this.
"""

CLOSE_SUMS = 1e-3
"""The same for losses and terms, which no optimiser magnifies: bfloat16 has 8 bits."""


class TrainingStep(Protocol):
    """What the loop calls for each batch."""

    def __call__(self, rows: Rows, progress: float) -> None:
        """Train on one batch, at `progress` in [0, 1] of the stage."""
        ...


def check_compile(name: str) -> Compile:
    """One of the ways to compute a step, by its name.

    Raises:
        UsageError: if there is no such way.
    """
    ways: tuple[Compile, ...] = get_args(Compile)
    for way in ways:
        if name == way:
            return way
    raise UsageError(unknown_name("way to compile", name, ways))


def training_step(step: Step, compile: Compile) -> TrainingStep:
    """The step itself, or what captures it after a few calls; the results are the same."""
    device = step.stage.train.device.type
    if compile in ("torch", "no") or (compile == "auto" and device != "cuda"):
        return step
    reason = _why_eager(step.stage)
    if reason is not None:
        level = logging.WARNING if compile == "graph" else logging.INFO
        _log.log(level, "stage %s is not captured: %s", step.stage.name, reason)
        return step
    return _Capturing(step, is_measured=compile == "auto")


def _why_eager(stage: Stage) -> str | None:
    """Why a stage cannot be captured, as far as that can be told beforehand."""
    if stage.train.is_streamed:
        return "its rows are streamed"
    if hasattr(stage.loss, "plain"):
        return "its loss is compiled, or shared with other processes"
    if stage.train.device.type not in ("cuda", "cpu"):
        return f"there are no graphs on {stage.train.device.type!r}"
    return None


class _Static:
    """A step on tensors that stay where they are.

    Args:
        step: what to do.
        rows: numbers of the rows of any batch: all have as many.
    """

    def __init__(self, step: Step, rows: Tensor) -> None:
        self.step = step
        self.rows = torch.empty_like(rows)
        # Losses take it for a number: 0-dimensional, and as exact as Python's.
        self.progress: Any = torch.zeros((), dtype=torch.float64, device=rows.device)
        self.replay: Callable[[], None] = self.run

    def run(self) -> None:
        """All that a graph holds."""
        self.step.advance(self.step.stage.train.gather(self.rows), self.progress)

    def __call__(self, rows: Rows, progress: float) -> None:
        assert isinstance(rows, Tensor)
        self.rows.copy_(rows)
        self.progress.fill_(progress)
        self.step.prepare(progress)
        self.replay()


class _Capturing:
    """Steps that warm up, are captured and compared, and from then on are replayed.

    Each call trains on its batch, whatever comes of the capture. Where it cannot be made, or is
    not what the step does, the log says so and all further steps are eager.

    Args:
        step: what to capture.
        is_measured: go on with the faster of the two, not with the graph in any case.
    """

    def __init__(self, step: Step, *, is_measured: bool) -> None:
        self._step, self._is_measured = step, is_measured
        self._static: _Static | None = None
        device = step.stage.train.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._each = self._course()

    def __call__(self, rows: Rows, progress: float) -> None:
        next(self._each)(rows, progress)

    def _course(self) -> Iterator[TrainingStep]:
        """What each step does, from the first to the last."""
        yield self._rehearse
        yield from itertools.repeat(self._warm, WARM_UP - 1)
        yield self._check
        assert self._static is not None
        step, static = self._step, self._static
        name, device = step.stage.name, step.stage.train.device
        if not self._is_measured:
            _log.info("stage %s: steps are captured", name)
            yield from itertools.repeat(static)
        eager = _Clock(step, device)
        yield from itertools.repeat(eager, MEASURED)
        eager.stop()
        graph = _Clock(static, device)
        yield from itertools.repeat(graph, MEASURED)
        graph.stop()
        is_faster = graph.seconds < eager.seconds
        _log.info(
            "stage %s: a step takes %.2f ms captured, %.2f ms eager: goes on %s",
            *(name, 1e3 * graph.seconds / MEASURED, 1e3 * eager.seconds / MEASURED),
            "captured" if is_faster else "eager",
        )
        if not is_faster:
            del graph, static
            self._static = None  # and with it the memory that the graph holds
        yield from itertools.repeat(self._static or step)

    def _rehearse(self, rows: Rows, progress: float) -> None:
        """The first step, in which values cannot be read on the host, as when capturing."""
        assert isinstance(rows, Tensor)
        self._static = _Static(self._step, rows)
        before = _State(self._step)
        try:
            with _unreadable(rows.device):
                self._warm(rows, progress)
        except Exception as error:
            before.restore()
            self._stay_eager(error, logging.INFO if self._is_measured else logging.WARNING)
            self._step(rows, progress)

    def _warm(self, rows: Rows, progress: float) -> None:
        assert self._static is not None
        with _beside(self._stream):
            self._static(rows, progress)

    def _check(self, rows: Rows, progress: float) -> None:
        """Capture; then one batch both ways, from the same state. The eager result stays."""
        assert self._static is not None
        before = _State(self._step)
        try:
            self._static.replay = recorded(self._static.run, self._step, self._stream)
            self._static(rows, progress)
            replayed = _State(self._step)
        except Exception as error:
            before.restore()
            self._stay_eager(error)
            self._step(rows, progress)
            return
        before.restore()
        self._step(rows, progress)
        found = _difference(before, replayed, self._step)
        if found is not None:
            self._stay_eager(f"a replay is not what the step does, seen by its {found}")

    def _stay_eager(self, reason: object, level: int = logging.WARNING) -> None:
        reason = getattr(reason, "__context__", None) or reason  # ahead of the end of a capture
        said = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        _log.log(level, "stage %s is not captured: %s", self._step.stage.name, said)
        self._static = None
        self._each = itertools.repeat(self._step)


# Recording


def recorded(
    run: Callable[[], None], step: Step, stream: torch.cuda.Stream | None
) -> Callable[[], None]:
    """What does all that `run` does on the device, without asking the host.

    The random numbers of torch's generator are drawn anew, from the state in which it is then.

    Args:
        run: is called once and only recorded.
        step: whose optimiser `run` moves.
        stream: where `run` has warmed up; None on a CPU, where `run` itself is what is replayed.
    """
    if stream is None:
        return run
    optimizer, graph = step.optimizer, torch.cuda.CUDAGraph()
    current = torch.cuda.current_stream(stream.device)
    generators = [torch.cuda.default_generators[stream.device.index or 0], *step.generators]
    kept = [generator.clone_state() for generator in generators]
    for generator in step.generators:
        graph.register_generator_state(generator)
    optimizer.zero_grad(set_to_none=True)  # so that gradients are made in the graph's memory
    is_recorded = False
    try:
        _set_capturable(optimizer, True)
        with torch.cuda.graph(graph, stream=stream):
            run()
        is_recorded = True
    finally:
        _set_capturable(optimizer, False)
        if not is_recorded:  # torch leaves all as they were in the middle of the capture
            torch.cuda.set_stream(current)
            for generator, state in zip(generators, kept, strict=True):
                generator.graphsafe_set_state(state)
            optimizer.zero_grad(set_to_none=True)
    return graph.replay


def _set_capturable(optimizer: torch.optim.Optimizer, value: bool) -> None:
    """Say that steps are captured: the fused optimiser computes the same either way."""
    for group in optimizer.param_groups:
        group["capturable"] = value


@contextmanager
def _beside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """On another stream: after all that has been asked for, and ahead of all that will be."""
    if stream is None:
        yield
        return
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        current.wait_stream(stream)


@contextmanager
def _unreadable(device: torch.device) -> Iterator[None]:
    """Refuse whatever reads a value on the host: a capture that meets it leaves CUDA in pieces."""
    with _Unreadable():
        if device.type != "cuda":
            yield
            return
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that not every such call is found
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _Unreadable(TorchDispatchMode):
    """Refuses operations whose result, or its shape, the host must know."""

    READING = frozenset(
        {
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten._linalg_check_errors.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.masked_select.default,
            torch.ops.aten.nonzero.default,
        }
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.READING:
            msg = f"its loss reads a value on the host ({func})"
            raise RuntimeError(msg)
        return func(*args, **(kwargs or {}))


# Comparing


class _State:
    """A copy of all that a step changes: weights, buffers, moments, sums, generators."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.parts = {kind: [t.clone() for t in each] for kind, each in _parts(step).items()}
        self.count = step.sums.count
        self.random = step.random()

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies to where they were taken from; graphs keep their addresses."""
        step = self._step
        if "exp_avg" not in self.parts:
            step.optimizer.state.clear()
        if not self.parts["sums"]:
            step.sums.total, step.sums.terms = None, {}
        for kind, tensors in _parts(step).items():
            for tensor, kept in zip(tensors, self.parts[kind], strict=True):
                tensor.copy_(kept)
        step.sums.count = self.count
        step.set_random(self.random)


def _parts(step: Step) -> dict[str, list[Tensor]]:
    """What a step changes, by kind."""
    module = step.stage.trainable
    found = {
        "weights": [p.detach() for p in module.parameters() if p.requires_grad],
        "buffers": list(module.buffers()),
        "sums": step.sums.all(),
    }
    for state in step.optimizer.state.values():
        for kind, value in state.items():
            found.setdefault(kind, []).append(value)
    return found


def _difference(before: _State, replayed: _State, step: Step) -> str | None:
    """The kind of what a replay has left otherwise than the step now has, but for rounding."""
    for kind, expected in _parts(step).items():
        apart = _distance(replayed.parts[kind], expected)
        gone = _distance(before.parts[kind], expected)
        if not apart <= (CLOSE_SUMS if kind == "sums" else CLOSE) * gone:
            return kind
    random = step.random()
    same = all(torch.equal(replayed.random[place], random[place]) for place in random)
    return None if same else "random numbers"


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    squares = [
        torch.where(x == y, 0.0, x.double() - y.double()).square().sum()  # infinities too
        for x, y in zip(a, b, strict=True)
    ]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


class _Clock:
    """Steps of one kind, and the seconds that they take on a device."""

    def __init__(self, step: TrainingStep, device: torch.device) -> None:
        self._step, self._device = step, device
        self._wait()
        self.seconds = 0.0

    def __call__(self, rows: Rows, progress: float) -> None:
        began = time.perf_counter()
        self._step(rows, progress)
        self.seconds += time.perf_counter() - began

    def stop(self) -> None:
        """Wait until the device has done them: the only time that it is waited for."""
        began = time.perf_counter()
        self._wait()
        self.seconds += time.perf_counter() - began

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize(self._device)
