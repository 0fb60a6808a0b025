"""What one training step needs, as a value; and what a listener hears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from mvflow.config import Training
from mvflow.stages import Losses
from mvflow.training.table import Table

__all__ = ["Checkpoint", "EpochRecord", "Listener", "Silent", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Args:
        name: as in the run directory.
        trainable: the only module that changes.
        loss: batch, progress in [0, 1] -> losses. All randomness is torch's, seeded by the loop.
            In a captured step progress is a tensor of no dimensions, as good as a number.
        settings: epochs, batch size, learning rate and the like.
        train: rows to train on; whatever is frozen has been computed into it.
        validation: rows held out, for early stopping and the history; or None.
        model: what `trainable` is a part of; its frozen parts stay on the device.
        beside: other rows that stay there, such as those from which `train` was computed.
    """

    name: str
    trainable: nn.Module
    loss: Callable[[Mapping[str, Tensor], float], Losses]
    settings: Training
    train: Table
    validation: Table | None = None
    model: nn.Module | None = None
    beside: tuple[Table, ...] = ()


class EpochRecord(NamedTuple):
    """One line of the history."""

    stage: str
    epoch: int
    loss: float
    terms: dict[str, float]
    validation: dict[str, float] | None
    learning_rate: float
    seconds: float
    samples_per_second: float
    epochs: int = 0
    """Epochs that the stage has at most."""


class Checkpoint(NamedTuple):
    """All that is needed to go on with the same result to the bit."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


@runtime_checkable
class Listener(Protocol):
    """Hears of progress: a progress bar, a history file, an experiment tracker."""

    def on_step(
        self,
        stage: Stage,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        checkpoint: Callable[[], Checkpoint],
    ) -> None:
        """Heard a few times a second: `step` of `steps` of this epoch are done.

        `checkpoint()` copies the state at that moment.
        """
        ...

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Heard at the end of each epoch; `checkpoint()` copies the state at that moment."""
        ...


class Silent:
    """A listener that does nothing."""

    def on_step(
        self,
        stage: Stage,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        checkpoint: Callable[[], Checkpoint],
    ) -> None:
        """Do nothing."""

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Do nothing."""
