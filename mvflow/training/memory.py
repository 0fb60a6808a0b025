"""Bytes of the device that a stage will need, told before it starts."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mvflow.nn import seeded
from mvflow.training.stage import Stage
from mvflow.training.step import losses
from mvflow.training.table import AHEAD

__all__ = ["Memory", "memory_line", "predicted_memory"]

PROBES = (4, 8, 16)
"""Rows of the steps from which that of a whole batch is extrapolated."""


class Memory(NamedTuple):
    """Bytes that a stage holds on its device at once."""

    data: int
    """Columns of all rows that stay there, each stored array once, and the order of an epoch."""
    weights: int
    """The model with all its parts, trained or frozen."""
    optimizer: int
    """Two moments of each trained number, and a step count of each tensor (Adam)."""
    copies: int
    """Weights and moments at the end of the last epoch; with early stopping, the best weights."""
    step: int
    """The most that comes and goes: batch, activations and gradients, or an epoch's new copies."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self)


def predicted_memory(stage: Stage) -> Memory:
    r"""Memory that `run_stage` will need, from sizes and a few small steps.

    With W bytes in the model, S in the part that is trained and P in its parameters, it is

        data + W + 2 P + (S + 2 P) + max(P + (S + 2 P), max_t m_t(B)),

    where m_t is what one step with batches of B rows holds after its t-th operation: the batch,
    what the loss keeps for the backward pass, results in passing, and gradients (while the loss is
    computed, those of the step before). At each t it is a polynomial of degree 2 in B, which three
    steps with few rows determine: degree 2, for contrastive losses compare all pairs of rows. The
    first term of the maximum is the end of an epoch, when new copies are made beside the old.

    What a kernel takes for itself while it runs is not in it, nor is what the allocator rounds
    up: on CUDA, workspaces of matrix products and convolutions come on top, and a step that is
    captured keeps its memory beside that of eager steps.

    Examples:
        >>> Memory(data=100, weights=8, optimizer=8, copies=12, step=20).total
        148
    """
    trained = [p for p in stage.trainable.parameters() if p.requires_grad]
    state, numbers = (_bytes(ts) for ts in (stage.trainable.state_dict().values(), trained))
    moments = 2 * numbers + 4 * len(trained)
    keeps_best = stage.settings.patience is not None and stage.validation is not None
    return Memory(
        data=_bytes(_columns(stage)) + 8 * len(stage.train),
        weights=_bytes(_weights(stage)),
        optimizer=moments,
        copies=state + moments + (state if keeps_best else 0),
        step=max(numbers + state + moments, _step(stage, trained)),
    )


def memory_line(stage: Stage) -> str:
    """What a stage will hold and where its rows are, in one line for the log."""
    said = predicted_memory(stage)
    where = "streamed" if stage.train.is_streamed else f"held on {stage.train.device}"
    parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in said._asdict().items())
    return (
        f"{stage.name}: {len(stage.train)} rows {where}; "
        f"needs {said.total / 2**20:.1f} MiB ({parts})"
    )


def _columns(stage: Stage) -> Iterator[Tensor]:
    for table in (stage.train, stage.validation, *stage.beside):
        if table is not None:
            yield from table.tensors()


def _weights(stage: Stage) -> Iterator[Tensor]:
    for module in (stage.trainable, stage.model):
        if module is not None:
            yield from module.state_dict().values()


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of their storages, each counted once."""
    storages = [t.untyped_storage() for t in tensors]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _step(stage: Stage, trained: Sequence[Tensor]) -> int:
    """The most that one step with a whole batch holds at once."""
    batch = min(stage.settings.batch_size, len(stage.train))
    with _untouched(stage.trainable):
        if batch <= PROBES[-1]:
            return max(_moments(stage, trained, batch))
        probes = [_moments(stage, trained, rows) for rows in PROBES]
    if len({len(found) for found in probes}) > 1:  # other operations for other numbers of rows
        probes = [[max(found)] for found in probes]
    return max(_extrapolated(sizes, batch) for sizes in zip(*probes, strict=True))


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Within this block a module is in training; then all is as it was, running statistics too."""
    was_training = module.training
    state = {name: value.clone() for name, value in module.named_buffers()}
    module.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in module.named_buffers():
                value.copy_(state[name])
        module.train(was_training)


def _extrapolated(sizes: Sequence[int], rows: int) -> int:
    """Value at `rows` of the parabola through what the probes gave (Lagrange)."""
    total = 0.0
    for size, at in zip(sizes, PROBES, strict=True):
        others = [n for n in PROBES if n != at]
        total += size * math.prod((rows - n) / (at - n) for n in others)
    return round(total)


def _moments(stage: Stage, trained: Sequence[Tensor], rows: int) -> list[int]:
    """Bytes that a step with so many rows holds after each of its operations."""
    device = stage.train.device
    plain = replace(stage, loss=getattr(stage.loss, "plain", stage.loss))  # nor divided
    with seeded(0, "memory", device=device), torch.enable_grad(), _Live() as live:
        batch = stage.train.gather(torch.arange(rows, device=device))
        size = live.now
        total, terms = losses(plain, batch, 0.0)
        before = len(live.moments)
        torch.autograd.grad(total, trained, allow_unused=True)
    left = _bytes(trained)  # gradients of the step before, until the loss is computed
    ahead = (AHEAD - 1) * size if stage.train.is_streamed else 0
    return [held + ahead + (left if i < before else 0) for i, held in enumerate(live.moments)]


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that operations have made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.moments: list[int] = []
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            if tensor.untyped_storage()._cdata not in given:
                self._hold(tensor.untyped_storage())
        self.moments.append(self.now)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def free(_: object) -> None:
            del self._held[key]
            self.now -= size

        if key not in self._held:
            self._held[key] = weakref.ref(storage, free)
            self.now += size


def _tensors(nested: object) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        yield from _tensors(tuple(nested.values()))
    elif isinstance(nested, list | tuple):
        for part in nested:
            yield from _tensors(part)
