"""The state of the training loop, and its checkpoints."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from mvflow.config import Training
from mvflow.training.stage import Checkpoint
from mvflow.training.step import Sums, generator_states, set_generator_states

__all__ = ["TrainingState"]

Snapshot = tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]
"""Copies of the weights and of the optimiser's state."""


class TrainingState:
    """Everything that changes during training, and its conversion to and from checkpoints.

    Attributes:
        epoch: the current epoch, counted from 0.
        first_step: step of this epoch at which this process started; 0 unless resumed within it.
        sums: of the losses of this epoch.
        begun: clock reading at the start of the epoch, less what earlier processes took for it.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, settings: Training
    ) -> None:
        self.module, self.optimizer, self.settings = module, optimizer, settings
        self.epoch, self.best_epoch, self.best_loss = 0, -1, math.inf
        self.best: dict[str, Tensor] | None = None
        self.sums = Sums()
        self.begun = 0.0
        self._start_of_epoch = self._snapshot()
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        self.first_step, self._seconds = 0, 0.0
        self._generators: dict[str, Tensor] = {}
        self.sums.clear()

    def _snapshot(self) -> Snapshot:
        weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        moments = self.optimizer.state_dict()["state"].items()
        return weights, {i: {k: v.clone() for k, v in each.items()} for i, each in moments}

    def _load(self, weights: dict[str, Tensor], moments: dict[int, dict[str, Tensor]]) -> None:
        self.module.load_state_dict(weights)
        groups = self.optimizer.param_groups
        rate = groups[0]["lr"]
        saved = {"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(copy.deepcopy(saved))
        self.optimizer.param_groups[0]["lr"] = rate  # the tensor that steps write to

    # Epochs

    def begin_epoch(self, device: torch.device) -> None:
        """Start the clock, and restore the generators if resumed within the epoch."""
        self.begun = time.perf_counter() - self._seconds
        set_generator_states(self._generators, device)

    def end_epoch(self, validation_loss: float | None) -> None:
        """Advance to the next epoch; the weights are kept if they are the best so far."""
        self.epoch += 1
        self._start_of_epoch = self._snapshot()
        self._reset_epoch()
        self.compare(validation_loss)

    def compare(self, validation_loss: float | None) -> None:
        """Keep the weights at the start of this epoch if they are the best so far."""
        if not self.settings.keeps_best or validation_loss is None:
            return
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = self._start_of_epoch[0]

    def is_stalled(self) -> bool:
        """Whether early stopping ends the training."""
        patience = self.settings.patience
        if patience is None or self.best is None:
            return False
        return self.epoch - self.best_epoch >= patience

    def load_best(self) -> None:
        """Load the best weights, if they were kept."""
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def rewind(self) -> None:
        """Load the state at the start of the epoch, or at the checkpoint resumed within it."""
        self._load(*self._start_of_epoch)

    # Checkpoints

    def checkpoint(self) -> Checkpoint:
        """The state at the start of the epoch."""
        return self._packed(*self._start_of_epoch)

    def checkpoint_within(self, device: torch.device) -> Checkpoint:
        """The current state, between two steps of an epoch."""
        tensors, state = self._packed(*self._snapshot())
        tensors |= {f"random/{k}": v for k, v in generator_states(device).items()}
        tensors |= {f"sums/{i}": v.clone() for i, v in enumerate(self.sums.all())}
        state["step"], state["terms"] = self.sums.count, list(self.sums.terms)
        state["seconds"] = time.perf_counter() - self.begun
        return Checkpoint(tensors, state)

    def _packed(
        self, weights: dict[str, Tensor], moments: dict[int, dict[str, Tensor]]
    ) -> Checkpoint:
        tensors = {f"weights/{k}": v for k, v in weights.items()}
        tensors |= {f"best/{k}": v for k, v in (self.best or {}).items()}
        for i, state in moments.items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        best_loss = None if math.isinf(self.best_loss) else self.best_loss
        about = {"epoch": self.epoch, "best_loss": best_loss, "best_epoch": self.best_epoch}
        return Checkpoint(tensors, about)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint."""
        names = ("weights", "best", "optimizer", "random", "sums")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key, value in checkpoint.tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            i, _, name = key.partition("/")
            moments.setdefault(int(i), {})[name] = value
        self._load(parts["weights"], moments)
        state: dict[str, Any] = checkpoint.state
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        device = next(self.module.parameters()).device
        self.best = {k: v.to(device) for k, v in parts["best"].items()} or None
        self._start_of_epoch = self._snapshot()
        self._reset_epoch()
        if "step" in state:
            values = [parts["sums"][str(i)].to(device) for i in range(len(parts["sums"]))]
            self.sums.set(values, state["terms"], state["step"])
            self.first_step, self._generators = state["step"], parts["random"]
            self._seconds = state["seconds"]
