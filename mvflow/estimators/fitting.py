"""Training one stage of a model, with or without a run directory to keep it in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mvflow.config import Config, stage_key, stage_names
from mvflow.core import DataError, Modality, Source, StageError
from mvflow.models import JNFModel, build_model
from mvflow.runs import RunDirectory, read_tensors, write_tensors
from mvflow.training import (
    Checkpoint,
    EpochRecord,
    Listener,
    Silent,
    Stage,
    Table,
    build_stage,
    finish_stage,
    run_stage,
)

__all__ = ["check_fits", "restored", "train_stage"]

CHECKPOINT_EVERY = 5.0
"""Least seconds between two checkpoints."""


def check_fits(source: Source, modalities: Iterable[Modality]) -> None:
    """Compare a source's modalities with those a model expects.

    Raises:
        DataError: naming what is missing or has another shape.
    """
    found = {m.name: m for m in source.modalities}
    for modality in modalities:
        if modality.name not in found:
            msg = (
                f"the data have no modality {modality.name!r}: expected "
                f"{', '.join(m.name for m in modalities)}, found {', '.join(found)}"
            )
            raise DataError(msg)
        if found[modality.name].shape != modality.shape:
            msg = (
                f"modality {modality.name!r} of the data has shape "
                f"{found[modality.name].shape}, but the model expects {modality.shape}"
            )
            raise DataError(msg)
    if len(source) < 2:
        msg = f"the data have {len(source)} rows: training needs at least 2"
        raise DataError(msg)


def restored(run: RunDirectory, config: Config) -> tuple[JNFModel, tuple[str, ...]]:
    """The model of a run with the weights of all stages that are done, and their names."""
    model, trained = build_model(config), []
    for stage in stage_names(config):
        if run.status(stage, config) == "done":
            tensors, _ = read_tensors(run.weights(stage))
            try:
                model.stage_module(stage).load_state_dict(tensors)
            except RuntimeError as error:
                msg = f"{run.weights(stage)} does not hold the weights that config.toml describes"
                raise DataError(msg) from error
            trained.append(stage)
    return model, tuple(trained)


def train_stage(
    name: str,
    model: JNFModel,
    config: Config,
    rows: Table,
    validation: Table | None,
    *,
    trained: tuple[str, ...],
    run: RunDirectory | None,
    data: str,
    listener: Listener | None,
) -> None:
    """Train one stage, going on from its checkpoint if the run directory has a fitting one.

    Raises:
        StageError: if a stage that this one needs has not been trained.
    """
    needed = [s for s in stage_names(config) if name == "flows" and s != "flows"]
    missing = [s for s in needed if s not in trained]
    if missing:
        where = "" if run is None else f": run 'mvflow train-{missing[0]} {run.path}' first"
        msg = f"stage {name!r} needs stage {missing[0]!r}, which has not been trained{where}"
        raise StageError(msg)
    model.eval().requires_grad_(False)
    model.stage_module(name).requires_grad_(True)
    begun = time.perf_counter()
    stage = build_stage(name, model, config, rows, validation)
    key = stage_key(config, name, data)
    keeper = _Keeper(run, key, listener or Silent())
    try:
        run_stage(stage, seed=config.seed, resume=keeper.checkpoint(name), listener=keeper)
    except KeyboardInterrupt:
        keeper.keep_newest()
        raise
    finish_stage(name, model, stage.train)
    if run is not None:
        seconds = round(keeper.seconds_before + time.perf_counter() - begun, 2)
        about = {
            "seconds": seconds,
            "rows": len(stage.train),
            "device": str(rows.device),
            "epochs": keeper.epochs,
        }
        tensors = model.stage_module(name).state_dict()
        run.finish(name, tensors, config, data, about)


@dataclass
class _Keeper:
    """A listener that writes history and checkpoints of a run, then passes on what it heard."""

    run: RunDirectory | None
    key: str
    listener: Listener
    seconds_before: float = 0.0
    epochs: int = 0
    written: float = field(default_factory=time.monotonic)
    newest: tuple[str, Checkpoint] | None = None

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one made under the same key."""
        if self.run is None:
            return None
        resume = None
        path = self.run.checkpoint(stage)
        if path.is_file():
            tensors, about = read_tensors(path)
            if about["key"] == self.key:
                resume = Checkpoint(tensors, about["state"])
        epoch = 0 if resume is None else int(resume.state["epoch"])
        self.run.rewind_history(stage, epoch)
        done = [r for r in self.run.history() if r["stage"] == stage]
        self.seconds_before, self.epochs = sum(r["seconds"] for r in done), epoch
        return resume

    def on_step(self, stage: Stage, epoch: int, step: int, steps: int, loss: float) -> None:
        self.listener.on_step(stage, epoch, step, steps, loss)

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        self.epochs += 1
        if self.run is not None:
            self.run.append_history(record._asdict())
            self.newest = record.stage, checkpoint()
            if time.monotonic() - self.written > CHECKPOINT_EVERY:
                self.keep_newest()
        self.listener.on_epoch(record, checkpoint)

    def keep_newest(self) -> None:
        """Write the state at the end of the newest epoch, unless it has been written."""
        if self.run is not None and self.newest is not None:
            stage, (tensors, state) = self.newest
            write_tensors(self.run.checkpoint(stage), tensors, {"key": self.key, "state": state})
            self.newest, self.written = None, time.monotonic()
