"""A stage whose loss torch has compiled: one program where there were many small ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mvflow.stages import Losses
from mvflow.training.stage import Stage

__all__ = ["compiled"]

_log = logging.getLogger(__name__)


def compiled(stage: Stage, backend: str | Callable[..., Any] = "inductor") -> Stage:
    """The same stage, its loss and the gradient of it compiled at the first step.

    Random numbers are those of the stage that is not compiled; results agree up to rounding.
    On CUDA the program is captured as a CUDA graph. Where torch cannot compile (no compiler is
    installed, a network does what it does not know), the log says so and the stage runs as it is.

    Compiling takes minutes on a CPU, and the joint stage of Table E.6 was then as fast as before:
    what its convolutions cost stays. On CUDA it has not been measured.

    Args:
        stage: to compile.
        backend: of `torch.compile`.
    """
    return replace(stage, loss=_Compiled(stage, backend))


class _Compiled:
    def __init__(self, stage: Stage, backend: str | Callable[..., Any]) -> None:
        self.plain = stage.loss
        from torch._dynamo.exc import TorchDynamoException  # the compiler: only for who wants it

        self.failure = TorchDynamoException
        self.name, self.is_graph = stage.name, stage.train.device.type == "cuda"
        options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": self.is_graph}
        self.loss: Callable[[Mapping[str, Tensor], float], Losses] = torch.compile(
            stage.loss, backend=backend, options=options if backend == "inductor" else None
        )
        self.is_broken = False

    def __call__(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        if self.is_broken or not torch.is_grad_enabled():  # validation is not worth a program
            return self.plain(batch, progress)
        if self.is_graph:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about its own ways to trace
                total, terms = self.loss(batch, progress)
        except self.failure as error:
            self.is_broken = True
            reason = str(error).strip().splitlines()[0]
            _log.warning("stage %s is not compiled: %s", self.name, reason)
            return self.plain(batch, progress)
        # What a graph returns is overwritten at its next run.
        return Losses(total.clone(), {name: t.detach().clone() for name, t in terms.items()})
