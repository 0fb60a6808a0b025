"""Callbacks that come with the library: early stopping, kept weights, progress, history."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mvflow.core.files import write_atomically
from mvflow.training.stage import Callback, Checkpoint, EpochRecord, NoOpCallback, StepRecord

__all__ = ["Callbacks", "EarlyStopping", "History", "ModelCheckpoint", "Progress", "Record"]


class History(list[dict[str, Any]]):
    """Training history, one dict an epoch.

    Examples:
        >>> History([{"stage": "joint", "epoch": 0, "loss": 1.5}])[-1]["loss"]
        1.5
    """

    def to_pandas(self) -> Any:
        """As a pandas.DataFrame, a column for each term of the loss; needs pandas."""
        import pandas

        return pandas.json_normalize(list(self))


class Callbacks(NoOpCallback):
    """Composite callback: calls several, and any of them can stop the stage."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_step(self, record: StepRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Call each."""
        for each in self.callbacks:
            each.on_step(record, checkpoint)

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> bool:
        """Call each; True if one of them says so."""
        return any([each.on_epoch(record, checkpoint) for each in self.callbacks])


class Record(NoOpCallback):
    """Callback that appends the record of each epoch to a history."""

    def __init__(self, history: History) -> None:
        self.history = history

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Append it."""
        self.history.append(record._asdict())


class EarlyStopping(NoOpCallback):
    """Callback that ends a stage whose validation loss has stopped falling.

    The weights are those of the last epoch; `patience` in a stage's settings keeps the best.

    Args:
        patience: epochs without improvement after which the stage ends.
        min_delta: by how much the loss must fall to count as improved.

    Examples:
        >>> stop = EarlyStopping(patience=2)
        >>> losses = [3.0, 2.0, 2.0, 2.0]
        >>> [stop.on_epoch(EpochRecord("joint", i, x, {}, None, 0.1, 1, 1), None)
        ...  for i, x in enumerate(losses)]
        [False, False, False, True]
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best: dict[str, tuple[float, int]] = {}

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> bool:
        """Whether there was no improvement for `patience` epochs."""
        loss = record.loss if record.validation is None else record.validation["loss"]
        if record.epoch == 0:
            self.best.pop(record.stage, None)
        best, at = self.best.get(record.stage, (math.inf, record.epoch))
        if loss < best - self.min_delta:
            best, at = loss, record.epoch
        self.best[record.stage] = best, at
        return record.epoch - at >= self.patience


class ModelCheckpoint(NoOpCallback):
    """Callback that keeps the training state of the best epoch of each stage in a file.

    Args:
        folder: where `STAGE.safetensors` is written.

    Raises:
        DataError: if it cannot be written.

    Examples:
        >>> import tempfile, torch
        >>> kept, folder = [Checkpoint({"weight": torch.ones(2)}, {})], tempfile.mkdtemp()
        >>> callback = ModelCheckpoint(folder)
        >>> for epoch, loss in enumerate([3.0, 2.0, 2.5]):
        ...     record = EpochRecord("joint", epoch, loss, {}, None, 0.1, 1, 1)
        ...     callback.on_epoch(record, lambda: kept[0])
        >>> callback.best, [path.name for path in Path(folder).iterdir()]
        ({'joint': 2.0}, ['joint.safetensors'])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.best: dict[str, float] = {}

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Write it if the (validation) loss is the lowest so far."""
        from safetensors.torch import save

        loss = record.loss if record.validation is None else record.validation["loss"]
        if record.epoch > 0 and loss >= self.best.get(record.stage, math.inf):
            return
        self.best[record.stage] = loss
        tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint().tensors.items()}
        path = self.folder / f"{record.stage}.safetensors"
        write_atomically(path, lambda temporary: temporary.write_bytes(save(tensors)))


class Progress(NoOpCallback):
    """Callback that shows a bar for each stage, in a terminal and in notebooks."""

    def __init__(self) -> None:
        from rich.progress import Progress as Bars

        self.bars = Bars()
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        """Move the bar."""
        if record.stage not in self.tasks:
            self.tasks[record.stage] = self.bars.add_task(record.stage, total=record.epochs)
        shown = f"{record.stage}  loss {record.loss:.4g}"
        if record.validation is not None:
            shown += f"  validation {record.validation['loss']:.4g}"
        self.bars.update(self.tasks[record.stage], completed=record.epoch + 1, description=shown)
