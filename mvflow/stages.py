"""One stage of training, as a value: what is trained, by which loss, after which other stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from mvflow.core import Observed

if TYPE_CHECKING:
    import numpy as np

    from mvflow.config import Training

__all__ = ["CachedColumn", "Loss", "Losses", "Rows", "StageSpec"]


class Losses(NamedTuple):
    """Loss of one batch."""

    total: Tensor
    """Scalar to minimise, a mean over the rows."""
    terms: dict[str, Tensor]
    """Its terms in nats per row, for the history."""


Loss = Callable[[Observed, "float | Tensor"], Losses]
"""Batch, progress of the stage in [0, 1] -> losses. All randomness is torch's."""


class Rows(Protocol):
    """Rows of a table, as `start`, `fit` and `finish` of a stage see them."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def subset(self, rows: Any) -> Rows:
        """The rows with the given numbers."""
        ...

    def only(self, name: str) -> Rows:
        """The same rows, of which only one column is read, and which of it is present."""
        ...

    def batches(self, size: int) -> Iterable[Mapping[str, Tensor]]:
        """All rows in order, some at a time, as network inputs."""
        ...


@dataclass(frozen=True)
class CachedColumn:
    """Output of frozen modules, computed once and kept as a column of the stage's rows.

    Args:
        name: under which a batch has it in `Observed.cached`; of a column of one modality, that
            modality's name, since it takes the place of the modality's values.
        compute: batch of rows -> (rows, *shape), or, for a column of one modality, its values ->
            (values, *shape).
        modules: all modules whose weights the output depends on.
        stages: names of the stages that trained them.
        of: the modality whose stored values it is computed of, each once, however many rows share
            it; None: of all modalities of a row.
    """

    name: str
    compute: Callable[[Any], Tensor]
    modules: tuple[nn.Module, ...]
    stages: tuple[str, ...]
    of: str | None = None


@dataclass(frozen=True)
class StageSpec:
    """One stage of a system: order, key, file, cached columns and command follow from it.

    Args:
        name: of the stage; its weights are `NAME.safetensors`, its section of the configuration,
            if it has one, is called the same.
        module: what is trained; all else is frozen and in evaluation mode.
        settings: how it is optimised; None for a closed form.
        loss: of a batch; None for a closed form.
        needs: names of the stages that must have been trained before.
        reads: all other settings that the weights depend on, as JSON.
        columns: outputs of frozen modules that the loss reads.
        check: called with the training rows before any stage is trained: refuses those that this
            one cannot learn from.
        start: called with the training rows before the first step, for initialisation by data.
        fit: closed form: (training rows, generator) -> nothing; in place of `loss`.
        finish: called with the training rows after the last step.
        takes_held_out: whether a closed form takes the rows that other stages hold out as well,
            since it chooses nothing by them.
        min_rows: smallest number of training and of validation rows.
        version: raised when what the same settings mean changes, so that older weights are stale.
    """

    name: str
    module: nn.Module
    settings: Training | None = None
    loss: Loss | None = None
    needs: tuple[str, ...] = ()
    reads: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[CachedColumn] = ()
    check: Callable[[Rows], None] | None = None
    start: Callable[[Rows], None] | None = None
    fit: Callable[[Rows, np.random.Generator], None] | None = None
    finish: Callable[[Rows], None] | None = None
    takes_held_out: bool = False
    min_rows: int = 1
    version: int = 1
