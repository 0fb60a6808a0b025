"""Bytes of the device that a stage will need, told before it starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvflow.nn import seeded
from mvflow.training.stage import Stage
from mvflow.training.table import TensorColumn

__all__ = ["Memory", "memory_line", "predicted_memory", "saved_bytes"]

PROBE = 4
"""Rows from which the activations of a batch are extrapolated."""


class Memory(NamedTuple):
    """Bytes that a stage holds on its device at once."""

    data: int
    """Columns of the rows to train on and of those held out, each stored array once."""
    weights: int
    """All that is trained or kept with it, and its gradients."""
    optimizer: int
    """Two moments of each trained number, and a step count of each tensor (Adam)."""
    copies: int
    """Weights and moments at the end of the last epoch; with early stopping, the best weights."""
    activations: int
    """What one step keeps for its backward pass."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self)


def predicted_memory(stage: Stage) -> Memory:
    r"""Memory that `run_stage` will need, from sizes and two small batches.

    With P trained parameters of 4 bytes and batches of B rows it is data + 8 P + 8 P + 12 P + a B,
    where the bytes a that one row leaves for the backward pass are counted, not guessed.
    Parameters of frozen parts, the allocator's slack and the kernels' scratch are not in it.

    Examples:
        >>> Memory(data=100, weights=8, optimizer=8, copies=12, activations=20).total
        148
    """
    trained = [p for p in stage.trainable.parameters() if p.requires_grad]
    state = _bytes(stage.trainable.state_dict().values())
    numbers = _bytes(trained)
    moments = 2 * numbers + 4 * len(trained)
    batch = min(stage.settings.batch_size, len(stage.train))
    copies = state + moments + (state if stage.settings.patience else 0)
    return Memory(
        data=_data(stage),
        weights=state + numbers,
        optimizer=moments,
        copies=copies,
        activations=_activations(stage, batch),
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


def _activations(stage: Stage, batch: int) -> int:
    """Linear in the rows: fixed by two batches, unless the whole one is as small."""
    if batch <= 2 * PROBE:
        return saved_bytes(stage, batch)
    few, more = saved_bytes(stage, PROBE), saved_bytes(stage, 2 * PROBE)
    return few + (more - few) * (batch - PROBE) // PROBE


def saved_bytes(stage: Stage, rows: int) -> int:
    """Bytes of distinct storage that one step with so many rows keeps, parameters aside."""
    module = stage.trainable
    known = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # or a storage freed early would be counted twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    device, was_training = stage.train.device, module.training
    state = {name: value.clone() for name, value in module.state_dict().items()}
    is_half = stage.settings.precision == "bfloat16"
    module.train()
    try:
        with (
            seeded(0, "memory", device=device),
            torch.autocast(device.type, torch.bfloat16, enabled=is_half),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            loss = getattr(stage.loss, "plain", stage.loss)  # neither compiled nor divided
            loss(stage.train.gather(torch.arange(rows, device=device)), 0.0)
    finally:
        module.load_state_dict(state)  # running statistics must not have moved
        module.train(was_training)
    return sum(found.values())


def _data(stage: Stage) -> int:
    storages: dict[int, int] = {}
    for table in (stage.train, stage.validation):
        for column in () if table is None else table.columns.values():
            values = column.values if isinstance(column, TensorColumn) else None
            for tensor in (values, column.index):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _bytes(tensors: object) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)  # type: ignore[attr-defined]
