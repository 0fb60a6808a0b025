"""One stage of training as a value, and the callbacks of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from mvflow.config import Training
from mvflow.stages import Losses
from mvflow.training.table import Table

__all__ = ["Callback", "Checkpoint", "EpochRecord", "NoOpCallback", "Stage", "StepRecord"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A module, its loss and its data, ready for `run_stage`.

    Args:
        name: as in the run directory.
        trainable: the only module whose parameters and buffers change.
        loss: maps a batch and the progress in [0, 1] to losses. It draws random numbers from
            torch's global generators only, which the loop seeds. In a captured or compiled step
            `progress` is a 0-dimensional tensor.
        settings: epochs, batch size, optimiser.
        train: training rows, with the cached outputs of frozen sub-modules as columns.
        validation: held-out rows for early stopping and the history, if any.
        model: the model that `trainable` is part of; several processes begin with equal weights.
        resident_tables: further tables that stay on the device during the stage.
    """

    name: str
    trainable: nn.Module
    loss: Callable[[Mapping[str, Tensor], float], Losses]
    settings: Training
    train: Table
    validation: Table | None = None
    model: nn.Module | None = None
    resident_tables: tuple[Table, ...] = ()


class EpochRecord(NamedTuple):
    """Record of one epoch, a line of the training history."""

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


class StepRecord(NamedTuple):
    """Record of one step: where the training of a stage is within an epoch."""

    stage: str
    epoch: int
    """Counted from 0."""
    step: int
    """Completed steps of this epoch."""
    steps: int
    """Steps of an epoch."""
    loss: float
    """Mean of this epoch so far."""
    epochs: int = 0
    """Epochs that the stage has at most."""


class Checkpoint(NamedTuple):
    """Training state from which a stage resumes with bitwise equal results."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


@runtime_checkable
class Callback(Protocol):
    """Training callback: a progress bar, a history file, an experiment tracker."""

    def on_step(self, record: StepRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Called every `REPORT_INTERVAL` seconds, between two steps.

        Args:
            record: where training is.
            checkpoint: copies the current training state.
        """
        return

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> bool | None:
        """Called at the end of each epoch; `checkpoint()` copies the current training state.

        Returns:
            True to end the stage here, as if it had had no more epochs.
        """
        return None


class NoOpCallback(Callback):
    """Callback that does nothing; override what you need.

    Examples:
        >>> class PrintLoss(NoOpCallback):
        ...     def on_epoch(self, record, checkpoint):
        ...         print(record.epoch, record.loss)
    """
