"""Which precision is faster for a stage on this machine: measured, not assumed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Literal

import torch

from mvflow.config import Config
from mvflow.models import build_amortised, build_model
from mvflow.nn import seeded
from mvflow.training.stage import Stage
from mvflow.training.stages import build_stage
from mvflow.training.step import losses
from mvflow.training.table import Table, TensorColumn

__all__ = ["faster_precision"]

_log = logging.getLogger(__name__)

WORTH = 1.2
"""How many times as fast bfloat16 must be to be taken: it has 8 bits where float32 has 24."""

TURNS = 3
"""Measurements of each precision, by turns, of which the least counts; one more warms up."""

BATCHES = 3
"""Batches in each."""


def faster_precision(name: str, config: Config, rows: Table) -> Literal["float32", "bfloat16"]:
    """The precision in which to train stage `name` here; the log says what was measured.

    A fresh model computes the loss of a batch and its gradient a few times in both precisions.
    bfloat16 is taken where it is at least 1.2 times as fast. Torch's generators stay as they are.

    Args:
        name: of the stage.
        config: of the model; what it has for the precision plays no part.
        rows: of which one batch is taken; they may be streamed.

    Raises:
        DataError: if there are too few rows.
    """
    device = rows.device
    with seeded(config.seed, "precision", device=device):
        stage = _fresh_stage(name, config, rows)
        seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(TURNS + 1):
            for precision, found in seconds.items():
                settings = stage.settings.model_copy(update={"precision": precision})
                found.append(_seconds(replace(stage, settings=settings)))
    ratio = min(seconds["float32"][1:]) / min(seconds["bfloat16"][1:])
    chosen: Literal["float32", "bfloat16"] = "bfloat16" if ratio >= WORTH else "float32"
    where = device.type.upper()
    _log.info("%s: bfloat16 is %.2f times as fast on this %s: %s", name, ratio, where, chosen)
    return chosen


def _fresh_stage(name: str, config: Config, rows: Table) -> Stage:
    """The stage as it is before its first step, on the rows of one batch."""
    model = build_model(config)
    if name == "amortised" and model.amortised is None:
        model.amortised = build_amortised(config)
    model.to(rows.device).eval().requires_grad_(False)
    model.stage_module(name).requires_grad_(True).train()
    count = min(getattr(config, name).batch_size, len(rows))
    at = torch.arange(count, device=rows.device)
    few = {key: TensorColumn(column.gather(at), None) for key, column in rows.columns.items()}
    table = Table(few, count)
    return build_stage(name, model, config, table, table)


def _seconds(stage: Stage) -> float:
    device, module = stage.train.device, stage.trainable.train()
    batch = stage.train.gather(torch.arange(len(stage.train), device=device))
    _wait(device)
    began = time.perf_counter()
    for _ in range(BATCHES):
        losses(stage, batch, 0.0).total.backward()
        module.zero_grad(set_to_none=True)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
