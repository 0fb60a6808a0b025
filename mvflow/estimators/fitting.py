"""Training one stage of a model, with or without a run directory to keep it in."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mvflow.config import Config, all_stages, stage_key, stages_before
from mvflow.core import DataError, LostError, Modality, Source, StageError
from mvflow.models import JNFModel, build_amortised, build_model, build_prior
from mvflow.runs import RunDirectory, read_tensors
from mvflow.training import (
    Cache,
    Callback,
    Checkpoint,
    Compile,
    EpochRecord,
    NoOpCallback,
    Processes,
    Stage,
    Table,
    build_stage,
    finish_stage,
    fit_prior,
    free_memory,
    run_stage,
)

__all__ = ["Fit", "check_fits", "restored", "train_stage"]

CHECKPOINT_EVERY = 5.0
"""Least seconds between two checkpoints."""

WRITING_SHARE = 0.02
"""Largest share of the time that goes into writing them: large ones are written less often."""


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
    if model.amortised is None and run.weights("amortised").is_file():
        model.amortised = build_amortised(config)
    if model.prior is None and run.weights("prior").is_file():
        model.prior = build_prior(config)
    for stage in all_stages(config):
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
    listener: Callback | None,
    processes: Processes | None = None,
    budget: int | None = None,
    compile: Compile = "auto",
) -> None:
    """Train one stage, going on from its checkpoint if the run directory has a fitting one.

    Args:
        name: of the stage.
        model: its other parts are frozen.
        config: settings of the stage.
        rows: training rows.
        validation: held-out rows; None holds out a share of `rows`.
        trained: names of the stages that have been trained.
        run: where to keep checkpoints, history and weights.
        data: fingerprint of the rows.
        listener: hears of progress.
        processes: those that train it together; only the one that leads has `run`.
        budget: bytes that what frozen parts give may take in memory before it goes to the run;
            by default half of what is free on the device.
        compile: how steps are computed, as in `run_stage`.

    Raises:
        DataError: if a file of the run cannot be written.
        LostError: if one of the processes is lost; the newest checkpoint is kept.
        StageError: if a stage that this one needs has not been trained.
    """
    with contextlib.nullcontext() if run is None else run.lock():
        if name == "prior":
            _freeze_others(name, model, config, trained, run)
            begun = time.perf_counter()
            used = fit_prior(model, config, rows, validation)
            _finish(run, name, model, config, data, used, time.perf_counter() - begun, 0)
            return
        fit = Fit(
            *(name, model, config, rows, validation, trained, run, data, listener),
            budget=budget,
        )
        try:
            run_stage(
                fit.stage,
                seed=config.seed,
                resume=fit.resume,
                callback=fit.keeper,
                compile=compile,
                processes=processes,
            )
        except (KeyboardInterrupt, LostError):
            fit.keeper.keep_newest()
            raise
        fit.finish()


class Fit:
    """What `train_stage` does ahead of a stage, and after it; the run is locked in between.

    The stage is to be trained from `resume` on, if that is there, with `keeper` as listener.

    Args:
        name: of the stage.
        model: its other parts are frozen.
        config: settings of the stage.
        rows: training rows.
        validation: held-out rows; None holds out a share of `rows`.
        trained: names of the stages that have been trained.
        run: where to keep checkpoints, history and weights.
        data: fingerprint of the rows.
        listener: hears of progress.
        beside: how many stages are trained side by side; each writes that much less often.
        budget: as for `train_stage`, shared with those beside.

    Raises:
        DataError: if a file of the run cannot be read or written.
        StageError: if a stage that this one needs has not been trained.
    """

    def __init__(
        self,
        name: str,
        model: JNFModel,
        config: Config,
        rows: Table,
        validation: Table | None,
        trained: tuple[str, ...],
        run: RunDirectory | None,
        data: str,
        listener: Callback | None,
        *,
        beside: int = 1,
        budget: int | None = None,
    ) -> None:
        _freeze_others(name, model, config, trained, run)
        self._begun = time.perf_counter()
        self.model = model
        self._of = run, name, model, config, data
        self._cache = None
        if run is not None:
            most = free_memory(rows.device) // beside if budget is None else budget
            self._cache = Cache(run, config, data, most)
        self.stage = build_stage(name, model, config, rows, validation, self._cache)
        key = stage_key(config, name, data)
        self.keeper = _Keeper(run, key, listener or NoOpCallback(), beside)
        self.resume = self.keeper.checkpoint(name)

    def finish(self) -> None:
        """Keep what has been trained."""
        _, name, model, *_ = self._of
        finish_stage(name, model, self.stage.train, self._cache)
        seconds = self.keeper.seconds_before + time.perf_counter() - self._begun
        _finish(*self._of, self.stage.train, seconds, self.keeper.epochs)


def _freeze_others(
    name: str,
    model: JNFModel,
    config: Config,
    trained: tuple[str, ...],
    run: RunDirectory | None,
) -> None:
    missing = [s for s in stages_before(config, name) if s not in trained]
    if missing:
        where = "" if run is None else f": run 'mvflow train-{missing[0]} {run.path}' first"
        msg = f"stage {name!r} needs stage {missing[0]!r}, which has not been trained{where}"
        raise StageError(msg)
    model.eval().requires_grad_(False)
    model.stage_module(name).requires_grad_(True)


def _finish(
    run: RunDirectory | None,
    name: str,
    model: JNFModel,
    config: Config,
    data: str,
    used: Table,
    seconds: float,
    epochs: int,
) -> None:
    if run is not None:
        device = str(used.device)
        about = {
            "seconds": round(seconds, 2),
            "rows": len(used),
            "device": device,
            "epochs": epochs,
        }
        run.finish(name, model.stage_module(name).state_dict(), config, data, about)


@dataclass
class _Keeper:
    """A listener that writes history and checkpoints of a run, then passes on what it heard."""

    run: RunDirectory | None
    key: str
    listener: Callback
    beside: int = 1
    seconds_before: float = 0.0
    epochs: int = 0
    due: float = field(init=False)
    newest: tuple[str, Checkpoint] | None = None

    def __post_init__(self) -> None:
        self.due = time.monotonic() + self.beside * CHECKPOINT_EVERY

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one made under the same key."""
        if self.run is None:
            return None
        found = self.run.newest_checkpoint(stage, self.key)
        resume = None if found is None else Checkpoint(found[0], found[1]["state"])
        state = {"epoch": 0} if resume is None else resume.state
        self.run.rewind_history(stage, state["epoch"])
        done = [r["seconds"] for r in self.run.history() if r["stage"] == stage]
        self.seconds_before, self.epochs = sum(done) + state.get("seconds", 0), state["epoch"]
        return resume

    def on_step(
        self,
        stage: Stage,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        checkpoint: Callable[[], Checkpoint],
    ) -> None:
        if self.run is not None and time.monotonic() >= self.due and math.isfinite(loss):
            self.newest = stage.name, checkpoint()
            self.keep_newest()
        self.listener.on_step(stage, epoch, step, steps, loss, checkpoint)

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        self.epochs += 1
        if self.run is not None:
            self.run.append_history(record._asdict())
            self.newest = record.stage, checkpoint()
            if time.monotonic() >= self.due:
                self.keep_newest()
        self.listener.on_epoch(record, checkpoint)

    def keep_newest(self) -> None:
        """Write the newest state that has not been written."""
        if self.run is not None and self.newest is not None:
            begun = time.monotonic()
            stage, (tensors, state) = self.newest
            self.run.keep_checkpoint(stage, tensors, {"key": self.key, "state": state})
            ended = time.monotonic()
            wait = max(CHECKPOINT_EVERY, (ended - begun) / WRITING_SHARE)
            self.newest, self.due = None, ended + self.beside * wait
