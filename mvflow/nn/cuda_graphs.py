"""Work captured as CUDA graphs, whose independent parts run side by side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TypeVar, cast

import torch
from torch import Tensor

__all__ = ["WARM_UP", "CapturedFunction", "capture_stream", "captured", "concurrently"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[[Tensor], tuple[Tensor, ...]])

WARM_UP = 3
"""Calls before a capture, in which libraries initialise."""


class _Branching(threading.local):
    is_on = False


_branching = _Branching()
_capture = threading.RLock()  # one thread at a time captures: they share the stream


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """Streams are kept: cuBLAS has a workspace for each."""
    return torch.cuda.Stream(device)


@contextmanager
def capture_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Within this block work goes to a stream of its own, on which a CUDA graph can be captured.

    What `concurrently` is given goes to further streams; warm up within the block too, so that
    libraries initialise on all of them.

    Args:
        device: a CUDA device.
    """
    with _capture:
        stream, current = _stream(device, 0), torch.cuda.current_stream(device)
        generator = torch.cuda.default_generators[stream.device.index]
        spare = generator.clone_state()
        stream.wait_stream(current)
        was_on, _branching.is_on = _branching.is_on, True
        try:
            with torch.cuda.stream(stream):
                yield stream
        except Exception:
            generator.graphsafe_set_state(spare)  # a failed capture leaves the other unusable
            raise
        finally:
            _branching.is_on = was_on
        current.wait_stream(stream)


def concurrently(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Results of calls that do not depend on each other, which are made in their order.

    In a `capture_stream` each has a stream, so that they are branches of the graph that run side
    by side; autograd runs the gradient of each on the same one. Elsewhere one follows the other.

    Examples:
        >>> concurrently([lambda: 1, lambda: 2])
        [1, 2]
    """
    if torch.compiler.is_compiling() or not _branching.is_on or len(calls) < 2:
        return [call() for call in calls]
    current = torch.cuda.current_stream()
    fork = current.record_event()
    out = [calls[0]()]
    streams = [_stream(current.device, i) for i in range(1, len(calls))]
    for stream, call in zip(streams, calls[1:], strict=True):
        stream.wait_event(fork)
        with torch.cuda.stream(stream):
            out.append(call())
    for stream in streams:
        current.wait_stream(stream)
    return out


class CapturedFunction:
    """A function of a tensor as a CUDA graph: one launch in place of hundreds.

    Args:
        function: a fixed sequence of operations on its argument and on tensors that stay where
            they are; it reads no values on the host.
        example: argument, whose shape and dtype all others have.

    Raises:
        RuntimeError: if it cannot be captured.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], example: Tensor) -> None:
        self.argument, self.graph = example.clone(), torch.cuda.CUDAGraph()
        with capture_stream(example.device) as stream:
            for _ in range(WARM_UP):
                function(self.argument)
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.values = function(self.argument)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Values of the function at x, in new tensors."""
        self.argument.copy_(x)
        self.graph.replay()
        return tuple(value.clone() for value in self.values)


def captured(function: Function, example: Tensor) -> Function:
    """The function as a CUDA graph; itself on other devices and where it cannot be captured.

    Examples:
        >>> twice = lambda x: (2 * x,)
        >>> captured(twice, torch.ones(3)) is twice  # on a CPU
        True
    """
    if example.device.type != "cuda":
        return function
    try:
        return cast(Function, CapturedFunction(function, example))
    except Exception as error:  # whatever it is, the function will do or raise the same
        reason = str(error.__context__ or error).strip().partition("\n")[0]
        _log.debug("not captured as a CUDA graph: %s", reason)
        return function
