"""Data-parallel training and inference by several processes, with Lightning Fabric."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from mvflow.core import LostError, StageError, UsageError
from mvflow.nn import sharded
from mvflow.stages import Losses
from mvflow.training.stage import Stage

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """Process group of data-parallel training, as seen by one of its ranks.

    Args:
        fabric: a launched `lightning_fabric.Fabric`.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        device: of this process.
        is_main_process: whether this process writes files and prints.
    """

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.world_size: int = fabric.world_size
        self.device: torch.device = fabric.device
        self.is_main_process = self.rank == 0

    # Training

    def distribute(self, stage: Stage) -> Stage:
        """The stage with its loss wrapped in DDP: gradients and losses are means over ranks.

        Raises:
            StageError: if the processes do not train the same stage.
        """
        about = (stage.name, repr(stage.settings), len(stage.train), len(stage.validation or ()))
        self.assert_same_on_all_ranks(about, f"stage {stage.name!r} differs")
        self.synchronize(stage.model or stage.trainable)
        module = self._fabric.setup_module(_LossModule(stage))

        def loss(rows: Mapping[str, Tensor], progress: float) -> Losses:
            with sharded():
                total, terms = module(rows, progress)
            own = torch.stack([total.detach(), *terms.values()])
            mean, *means = self._fabric.all_reduce(own, reduce_op="mean").unbind()
            total = total - total.detach() + mean  # the value of all, the gradient of its own
            return Losses(total, dict(zip(terms, means, strict=True)))

        return replace(stage, loss=loss)

    def shard(self, rows: Tensor) -> Tensor:
        """This rank's shard of each batch (..., rows); all shards are of equal size.

        Raises:
            UsageError: if there are fewer rows than processes.
        """
        size = rows.shape[-1] // self.world_size
        if size == 0:
            msg = f"{rows.shape[-1]} rows a batch are too few for {self.world_size} processes"
            raise UsageError(msg)
        return rows[..., self.rank * size : (self.rank + 1) * size]

    @torch.no_grad()
    def synchronize(self, module: nn.Module) -> None:
        """Broadcast the main process's parameters and buffers to all others."""
        with self.watched():
            for value in (*module.parameters(), *module.buffers()):
                distributed.broadcast(value.data, 0)

    # Collectives

    def assert_same_on_all_ranks(self, value: object, otherwise: str) -> None:
        """Check that `value`, by its `repr`, is the same in all processes.

        Raises:
            StageError: beginning with `otherwise`.
        """
        if len({*self._all(hashlib.sha256(repr(value).encode()).hexdigest())}) > 1:
            msg = f"{otherwise}: they need the same data, configuration and version of mvflow"
            raise StageError(msg)

    def barrier(self) -> None:
        """Barrier: wait for all processes."""
        with self.watched():
            self._fabric.barrier()

    def broadcast(self, value: T) -> T:
        """Broadcast the main process's `value` to all; any object that pickle takes."""
        with self.watched():
            shared: T = self._fabric.broadcast(value)
        return shared

    def map_shards(self, work: Callable[[int], T], count: int) -> list[T]:
        """Map shards to results, `work(0)` to `work(count - 1)`, divided among the processes."""
        own = {i: work(i) for i in range(self.rank, count, self.world_size)}
        results = {i: value for each in self._all(own) for i, value in each.items()}
        return [results[i] for i in range(count)]

    def _all(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        with self.watched():
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise LostError where a collective fails within this block."""
        try:
            yield
        except RuntimeError as error:
            if not _is_lost(error):
                raise
            what = "does not answer" if "time" in str(error).lower() else "has ended"
            msg = f"process {self.rank} of {self.world_size}: another process {what}"
            raise LostError(msg) from error


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


class _LossModule(nn.Module):
    """The loss of a stage as the forward pass of a module, which DDP can wrap."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.trainable, self._loss = stage.trainable, stage.loss

    def forward(self, rows: Mapping[str, Tensor], progress: float) -> Any:
        """The loss, and its terms without their graph."""
        total, terms = self._loss(rows, progress)
        return total, {name: term.detach() for name, term in terms.items()}
