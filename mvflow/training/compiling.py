"""Losses compiled by `torch.compile`."""

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
    """The stage with its loss and gradient compiled by `torch.compile`, with the same noise.

    Validation stays eager; so does all where torch cannot compile, which is logged.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
    loss = torch.compile(stage.loss, backend=backend, options=options)
    is_broken = False

    def call(rows: Mapping[str, Tensor], progress: float) -> Losses:
        nonlocal is_broken
        if not is_broken and torch.is_grad_enabled():
            # As a tensor: a number would be compiled for each of its values.
            at: Any = torch.as_tensor(progress, dtype=torch.float64, device=stage.train.device)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch's, about its own tracing
                    return loss(rows, at)
            except TorchDynamoException as error:
                is_broken, reason = True, str(error).strip().splitlines()[0]
                _log.warning("%s: the loss is not compiled: %s", stage.name, reason)
        return stage.loss(rows, progress)

    return replace(stage, loss=call)
