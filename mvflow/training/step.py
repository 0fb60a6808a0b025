"""One step of training, called again and again by the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.stages import Losses
from mvflow.training.schedules import rate_at
from mvflow.training.stage import Stage

__all__ = [
    "Rows",
    "Step",
    "Sums",
    "generator_states",
    "losses",
    "new_optimizer",
    "set_generator_states",
]

Rows = Tensor | Mapping[str, Tensor]
"""Numbers of the rows of a batch, or the batch itself where it was read ahead."""


class Sums:
    """Losses and terms, summed on the device so that no step waits for the host.

    The sums stay where they are in memory: a captured step adds to them too.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self.count = 0

    def add(self, total: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Add one batch's, which the caller counts."""
        total = total.detach()
        self.total = total.clone() if self.total is None else self.total.add_(total)
        for name, term in terms.items():
            value = term.detach()
            is_new = name not in self.terms
            self.terms[name] = value.clone() if is_new else self.terms[name].add_(value)

    def clear(self) -> None:
        """Begin again from zero."""
        self.count = 0
        for each in self.all():
            each.zero_()

    def set(self, values: Sequence[Tensor], names: Sequence[str], count: int) -> None:
        """Go on from the sums that `all` gave, of these terms, after so many batches."""
        self.total, *rest = (value.clone() for value in values)
        self.terms = dict(zip(names, rest, strict=True))
        self.count = count

    def all(self) -> list[Tensor]:
        """The total, then the terms; empty before the first batch."""
        return [] if self.total is None else [self.total, *self.terms.values()]

    def means(self) -> tuple[float, dict[str, float]]:
        """Mean total and terms; waits for the device."""
        stacked = torch.stack(self.all()).double() / self.count
        first, *rest = stacked.tolist()
        return first, dict(zip(self.terms, rest, strict=True))


def new_optimizer(stage: Stage) -> torch.optim.Adam:
    """Adam for what `stage` trains; its learning rate is a tensor, which steps write on."""
    device = stage.train.device
    kind = torch.float64 if device.type == "cpu" else torch.float32  # as its kernels read it
    return torch.optim.Adam(
        [p for p in stage.trainable.parameters() if p.requires_grad],
        lr=torch.tensor(stage.settings.learning_rate, dtype=kind, device=device),
        fused=True,
    )


class Step:
    """Gradient of the loss of a batch, clipped; the optimiser's move; the losses into sums.

    Args:
        stage: gives the rows, the loss and its settings.
        optimizer: as `new_optimizer` makes it.
        sums: where losses and terms are added.
    """

    generators: Sequence[torch.Generator] = ()
    """Those on the device from which it draws, besides torch's own."""

    def __init__(self, stage: Stage, optimizer: torch.optim.Optimizer, sums: Sums) -> None:
        self.stage, self.optimizer, self.sums = stage, optimizer, sums

    def __call__(self, rows: Rows, progress: float) -> None:
        """Train on one batch, at `progress` in [0, 1] of the stage."""
        batch = self.stage.train.gather(rows) if isinstance(rows, Tensor) else rows
        self.prepare(progress)
        self.advance(batch, progress)

    def prepare(self, progress: float) -> None:
        """What the host does ahead of a step: the learning rate, and the count of batches."""
        self.optimizer.param_groups[0]["lr"].fill_(rate_at(self.stage.settings, progress))
        self.sums.count += 1

    def advance(self, batch: Mapping[str, Tensor], progress: float) -> None:
        """What the device does, without the host knowing any value."""
        total, terms = losses(self.stage, batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward(torch.ones_like(total))
        if self.stage.settings.clip is not None:
            self.clip(self.stage.settings.clip)
        self.optimizer.step()
        self.sums.add(total, terms)

    def clip(self, most: float) -> None:
        """Scale the gradient down where its norm is above `most`."""
        torch.nn.utils.clip_grad_norm_(self.stage.trainable.parameters(), most)

    def random(self) -> dict[str, Tensor]:
        """States of all generators from which it draws."""
        return generator_states(self.stage.train.device)

    def set_random(self, states: Mapping[str, Tensor]) -> None:
        """Set the generators to what `random` saw."""
        set_generator_states(states, self.stage.train.device)


def losses(stage: Stage, batch: Mapping[str, Tensor], progress: float) -> Losses:
    """The loss of a batch in the precision of the stage."""
    is_low = stage.settings.precision == "bfloat16"
    device = stage.train.device.type
    with (
        _unchecked(),
        # A cast that is kept for later would not be done again when a captured step is replayed.
        torch.autocast(device, torch.bfloat16, enabled=is_low, cache_enabled=False),
    ):
        return stage.loss(batch, progress)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators on the host and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """What `generator_states` saw; one of another kind of device is left out."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Distributions do not look at their values: each look would wait for the device.

    Values that are not finite reach the loss, and the loop looks at that once an epoch.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
