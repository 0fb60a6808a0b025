"""One optimisation step, and running sums of its losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.stages import Losses
from mvflow.training.schedules import rate_at
from mvflow.training.stage import Stage

__all__ = [
    "Batch",
    "Step",
    "Sums",
    "compute_losses",
    "generator_states",
    "new_optimizer",
    "set_generator_states",
]

Batch = Tensor | Mapping[str, Tensor]
"""Row indices of a batch, or the rows themselves where they were read ahead."""


class Sums:
    """Running sums of the loss and its terms, kept on the device to avoid synchronisation.

    They are updated in place, so that a captured step adds to them too.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self.count = 0

    def add(self, losses: Losses) -> None:
        """Add the losses of one batch; the caller increments `count`."""
        total = losses.total.detach()
        self.total = total.clone() if self.total is None else self.total.add_(total)
        for name, term in losses.terms.items():
            value = term.detach()
            is_new = name not in self.terms
            self.terms[name] = value.clone() if is_new else self.terms[name].add_(value)

    def clear(self) -> None:
        """Reset to zero, in place."""
        self.count = 0
        for value in self.all():
            value.zero_()

    def set(self, values: Sequence[Tensor], names: Sequence[str], count: int) -> None:
        """Restore the sums of `count` batches from the values of `all()` and the term names."""
        self.total, *terms = (value.clone() for value in values)
        self.terms = dict(zip(names, terms, strict=True))
        self.count = count

    def all(self) -> list[Tensor]:
        """The total, then the terms; empty before the first batch."""
        return [] if self.total is None else [self.total, *self.terms.values()]

    def means(self) -> tuple[float, dict[str, float]]:
        """Mean total and terms; synchronises with the device."""
        total, *terms = (torch.stack(self.all()).double() / self.count).tolist()
        return total, dict(zip(self.terms, terms, strict=True))


def new_optimizer(stage: Stage) -> torch.optim.Adam:
    """Fused Adam over the trainable parameters, with the learning rate as a tensor.

    With `weight_decay` it is AdamW: decay apart from the gradient.
    """
    device, settings = stage.train.device, stage.settings
    dtype = torch.float64 if device.type == "cpu" else torch.float32  # what its kernels read
    parameters = [p for p in stage.trainable.parameters() if p.requires_grad]
    rate = torch.tensor(settings.learning_rate, dtype=dtype, device=device)
    if settings.weight_decay is None:
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    return torch.optim.AdamW(parameters, rate, weight_decay=settings.weight_decay, fused=True)


class Step:
    """Gather, forward, backward, gradient clipping, optimiser, running sums.

    Args:
        stage: gives rows, loss and settings.
        optimizer: made by `new_optimizer`.
        sums: accumulate losses and terms.
    """

    def __init__(self, stage: Stage, optimizer: torch.optim.Optimizer, sums: Sums) -> None:
        self.stage, self.optimizer, self.sums = stage, optimizer, sums

    def __call__(self, batch: Batch, progress: float) -> None:
        """Train on one batch at `progress` in [0, 1]."""
        self.prepare(progress)
        self.compute(batch, progress)

    def prepare(self, progress: float) -> None:
        """Host side: set the learning rate and count the batch."""
        self.optimizer.param_groups[0]["lr"].fill_(rate_at(self.stage.settings, progress))
        self.sums.count += 1

    def compute(self, batch: Batch, progress: float | Tensor) -> None:
        """Device side: everything that a CUDA graph can record."""
        stage = self.stage
        rows = stage.train.gather(batch) if isinstance(batch, Tensor) else batch
        losses = compute_losses(stage, rows, progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward(torch.ones_like(losses.total))
        if stage.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(stage.trainable.parameters(), stage.settings.clip)
        self.optimizer.step()
        self.sums.add(losses)


def compute_losses(stage: Stage, rows: Mapping[str, Tensor], progress: Any) -> Losses:
    """Losses of a batch in the precision of the stage."""
    is_low = stage.settings.precision == "bfloat16"
    with (
        _no_validation(),
        # A cached cast would not be repeated when a captured step is replayed.
        torch.autocast(
            stage.train.device.type, torch.bfloat16, enabled=is_low, cache_enabled=False
        ),
    ):
        return stage.loss(rows, progress)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's default generators on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore `generator_states`; that of another kind of device is ignored."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)


@contextmanager
def _no_validation() -> Iterator[None]:
    """Turn off argument validation of distributions: each check would synchronise.

    Values that are not finite reach the loss, which the loop checks once an epoch.
    """
    validate_args = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validate_args)
