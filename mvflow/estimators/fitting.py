"""Training one stage of a system, with or without a run directory to keep it in."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvflow.config import Config
from mvflow.core import (
    PRESENT,
    ConfigError,
    Covariate,
    DataError,
    LostError,
    Modality,
    Presence,
    Source,
    StageError,
    check_every_value,
    check_source,
    generator,
    present_columns,
    registry,
    with_masks,
)
from mvflow.nn import accepting_gaps
from mvflow.runs import Inputs, Plan, RunDirectory, StageRecord, weights_hash
from mvflow.stages import StageSpec
from mvflow.systems import System
from mvflow.training import (
    Callback,
    Checkpoint,
    ColumnCache,
    Compile,
    EpochRecord,
    MappedColumn,
    NoOpCallback,
    Processes,
    Stage,
    StepRecord,
    Table,
    TensorColumn,
    build_stage,
    check_rows,
    free_memory,
    run_stage,
)

__all__ = [
    "check_fits",
    "check_scale",
    "check_stages",
    "close_stage",
    "config_for",
    "held_out",
    "open_stage",
    "restore_weights",
    "train_stage",
]

CHECKPOINT_SECONDS = 5.0
"""Least seconds between two checkpoints."""

CHECKPOINT_SHARE = 0.02
"""Largest share of the time that goes into writing them: large ones are written less often."""


def check_fits(
    source: Source, modalities: Iterable[Modality], covariates: Iterable[Covariate] = ()
) -> None:
    """Check that a source can train a model of these modalities and covariates.

    Raises:
        DataError: naming what is missing, has another shape, or cannot be used.
    """
    check_source(source, modalities, covariates)
    if len(source) < 2:
        msg = f"the data have {len(source)} rows: training needs at least 2"
        raise DataError(msg)
    check_every_value(source)


def config_for(config: Config, *sources: Source) -> Config:
    """The configuration with which rows can be trained on: another if some lack modalities.

    Where values are missing inside a modality, its encoder is one that is told so.

    Args:
        config: of the model.
        sources: training rows; then, if there are any, validation rows.

    Raises:
        DataError: if no training row has a modality, or nothing links two of them.
        UsageError: if the system takes complete rows alone.
    """
    if not any(present_columns(with_masks(source.columns())) for source in sources):
        return config
    Presence.of(sources[0]).check()
    settings: Config = registry("systems").load(config.system).for_absence(config)
    sections = dict(settings.modalities)
    for source in sources:
        for key, mask in present_columns(source.columns()).items():
            name = key.removeprefix(PRESENT)
            if len(mask.values.shape) > 1 and name in sections:
                of = sections[name]
                changed = {k: accepting_gaps(getattr(of, k)) for k in ("encoder", "projector")}
                sections[name] = of.model_copy(update=changed)
    return settings.model_copy(update={"modalities": sections})


def check_scale(name: str, values: NDArray[Any], trained_on_bytes: Collection[str]) -> None:
    """Refuse floats of 0...255 where the model was trained on uint8, which it saw as [0, 1].

    Raises:
        DataError: if values lie outside [0, 1].
    """
    if name in trained_on_bytes and values.dtype != np.uint8 and values.size:
        worst = values.flat[np.abs(values - np.float32(0.5)).argmax()]
        if not 0 <= worst <= 1:
            msg = (
                f"modality {name!r} contains {worst:g}, but the model was trained on uint8, whose "
                "floats lie in [0, 1]: give uint8, or divide by 255"
            )
            raise DataError(msg)


def restore_weights(system: System, plan: Plan, run: RunDirectory) -> dict[str, StageRecord]:
    """Load the weights of all stages of a run that are done.

    Returns:
        What is recorded of each.

    Raises:
        DataError: if a file of weights is damaged, does not fit the networks, or is not the one
            that the manifest records.
    """
    records, recorded = {}, run.records()
    for spec in plan.stages:
        status = run.status(spec.name, plan)
        if status == "replaced":
            run.require([spec.name], plan)
        if status != "done":
            continue
        try:
            spec.module.load_state_dict(run.read_weights(spec.name))
        except RuntimeError as error:
            path, reason = run.weights(spec.name), str(error).splitlines()[-1].strip()
            msg = f"{path} does not fit the networks of config.toml: {reason}"
            raise DataError(msg) from error
        records[spec.name] = recorded[spec.name]
    return records


def train_stage(
    spec: StageSpec,
    system: System,
    plan: Plan,
    rows: Table,
    validation: Table | None,
    *,
    inputs: Inputs,
    trained: Mapping[str, StageRecord],
    run: RunDirectory | None,
    callback: Callback | None,
    processes: Processes | None = None,
    budget: int | None = None,
    compile: Compile = "auto",
) -> StageRecord:
    """Train one stage, resuming from its checkpoint if the run directory has a fitting one.

    Args:
        spec: of the stage.
        system: all but the stage's module is frozen.
        plan: of the run.
        rows: training rows.
        validation: held-out rows; None holds out a share of `rows`.
        inputs: fingerprints of the rows.
        trained: what is recorded of the stages trained so far.
        run: where to keep checkpoints, history and weights.
        callback: training callback.
        processes: those that train it together; only the main one has `run`.
        budget: bytes that outputs of frozen modules may take in memory before they go to the run;
            by default half of what is free on the device.
        compile: how steps are computed, as in `run_stage`.

    Returns:
        What is to be recorded of the stage.

    Raises:
        DataError: if a file of the run cannot be written.
        LostError: if one of the processes is lost; the newest checkpoint is kept.
        StageError: if a stage that this one needs has not been trained.
    """
    missing = [name for name in spec.needs if name not in trained]
    if missing:
        where = (
            "" if run is None else f": run 'mvflow train {run.path} --stage {missing[0]}' first"
        )
        msg = f"stage {spec.name!r} needs stage {missing[0]!r}, which has not been trained{where}"
        raise StageError(msg)
    key = plan.key(spec.name, inputs, {name: trained[name].key for name in spec.needs})
    every = rows
    rows, validation = held_out(plan, rows, validation)
    began, seconds_before, epochs = time.perf_counter(), 0.0, 0
    with contextlib.nullcontext() if run is None else run.lock():
        if spec.fit is not None:
            _freeze_others(spec, system)
            taken = every if spec.takes_held_out else rows
            spec.fit(taken, generator(plan.config.seed, spec.name))
        else:
            budget = free_memory(rows.device) if budget is None else budget
            stage = open_stage(
                spec,
                system,
                rows,
                validation,
                inputs=inputs,
                trained=trained,
                run=run,
                budget=budget,
            )
            checkpoints = CheckpointCallback(run, key, callback or NoOpCallback())
            resume = checkpoints.restore(spec.name)
            try:
                run_stage(
                    stage,
                    seed=plan.config.seed,
                    resume=resume,
                    callback=checkpoints,
                    compile=compile,
                    processes=processes,
                )
            except (KeyboardInterrupt, LostError):
                checkpoints.save()
                raise
            seconds_before, epochs = checkpoints.seconds_before, checkpoints.epochs
        seconds = seconds_before + time.perf_counter() - began
        return close_stage(
            spec,
            plan,
            rows,
            inputs=inputs,
            trained=trained,
            run=run,
            seconds=seconds,
            epochs=epochs,
        )


def held_out(plan: Plan, rows: Table, validation: Table | None) -> tuple[Table, Table | None]:
    """Rows to train on and held-out ones: those given, or the configured share of `rows`."""
    if validation is not None:
        return rows, validation
    return rows.split(plan.config.data.validation, generator(plan.config.seed, "validation"))


def check_stages(
    specs: Iterable[StageSpec], plan: Plan, rows: Table, validation: Table | None
) -> None:
    """Refuse what a stage cannot be trained on, before the first one is.

    Raises:
        ConfigError: if the best weights are to be kept, but no rows are held out to tell them by.
        DataError: if there are too few rows, or they lack what a stage learns from.
        StageError: if a step would not fit into memory.
    """
    rows, validation = held_out(plan, rows, validation)
    for spec in specs:
        _check_kept(spec, validation)
        check_rows(spec, rows, validation)


def _check_kept(spec: StageSpec, validation: Table | None) -> None:
    if validation is None and getattr(spec.settings, "keeps_best", False):
        msg = (
            f"stage {spec.name!r} keeps its best weights (patience, keep_best), but no rows are "
            "held out to tell them by: set data.validation above 0, or give validation rows"
        )
        raise ConfigError(msg)


def _freeze_others(spec: StageSpec, system: System) -> None:
    system.eval().requires_grad_(False)
    spec.module.requires_grad_(True)


def open_stage(
    spec: StageSpec,
    system: System,
    rows: Table,
    validation: Table | None,
    *,
    inputs: Inputs,
    trained: Mapping[str, StageRecord],
    run: RunDirectory | None,
    budget: int,
) -> Stage:
    """The stage, ready for `run_stage`: all but its module frozen, frozen outputs computed.

    Args:
        spec: of the stage.
        system: that its module is part of.
        rows: training rows.
        validation: held-out rows.
        inputs: fingerprints of the rows.
        trained: what is recorded of the stages trained so far.
        run: where frozen outputs of more than `budget` bytes are kept.
        budget: see `run`.

    Raises:
        ConfigError: if the best weights are to be kept, but no rows are held out to tell them by.
    """
    _check_kept(spec, validation)
    _freeze_others(spec, system)
    keys = {name: record.key for name, record in trained.items()}
    cache = None if run is None else ColumnCache(run, keys, inputs.train, budget)
    return build_stage(spec, system, rows, validation, cache)


def close_stage(
    spec: StageSpec,
    plan: Plan,
    rows: Table,
    *,
    inputs: Inputs,
    trained: Mapping[str, StageRecord],
    run: RunDirectory | None,
    seconds: float,
    epochs: int,
) -> StageRecord:
    """Finish a stage whose module is trained: keep its weights in the run.

    Returns:
        What is to be recorded of it.
    """
    began = time.perf_counter()
    spec.module.eval()
    if spec.finish is not None:
        spec.finish(rows)
    weights = spec.module.state_dict()
    record = StageRecord(
        plan.key(spec.name, inputs, {name: trained[name].key for name in spec.needs}),
        weights_hash(weights),
        {name: trained[name].weights for name in spec.needs},
        inputs.train,
        inputs.validation,
        plan.config.seed,
        round(seconds + time.perf_counter() - began, 2),
        len(rows),
        str(rows.device),
        epochs,
        [n for n, c in rows.columns.items() if _stored_dtype(c) in (torch.uint8, np.uint8)],
    )
    if run is not None:
        run.finish(spec.name, weights, record)
    return record


def _stored_dtype(column: TensorColumn | MappedColumn) -> Any:
    return column.values.dtype if isinstance(column, TensorColumn) else column.stored.dtype


@dataclass
class CheckpointCallback:
    """Training callback that writes history and checkpoints of a run, then calls another."""

    run: RunDirectory | None
    key: str
    callback: Callback
    seconds_before: float = 0.0
    epochs: int = 0
    due: float = field(init=False)
    newest: tuple[str, Checkpoint] | None = None

    def __post_init__(self) -> None:
        self.due = time.monotonic() + CHECKPOINT_SECONDS

    def restore(self, stage: str) -> Checkpoint | None:
        """The checkpoint to resume from, if there is one made under the same key."""
        if self.run is None:
            return None
        newest = self.run.newest_checkpoint(stage, self.key)
        resume = None if newest is None else Checkpoint(newest[0], newest[1]["state"])
        state = {"epoch": 0} if resume is None else resume.state
        self.run.rewind_history(stage, state["epoch"])
        done = [r["seconds"] for r in self.run.history() if r["stage"] == stage]
        self.seconds_before, self.epochs = sum(done) + state.get("seconds", 0), state["epoch"]
        return resume

    def on_step(self, record: StepRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        if self.run is not None and time.monotonic() >= self.due and math.isfinite(record.loss):
            self.newest = record.stage, checkpoint()
            self.save()
        self.callback.on_step(record, checkpoint)

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> bool | None:
        self.epochs += 1
        if self.run is not None:
            made = checkpoint()  # first: an interruption should not part the two below
            self.run.append_history(record._asdict())
            self.newest = record.stage, made
            if time.monotonic() >= self.due:
                self.save()
        return self.callback.on_epoch(record, checkpoint)

    def save(self) -> None:
        """Write the newest state that has not been written."""
        if self.run is not None and self.newest is not None:
            began = time.monotonic()
            stage, (tensors, state) = self.newest
            self.run.save_checkpoint(stage, tensors, {"key": self.key, "state": state})
            ended = time.monotonic()
            self.newest = None
            self.due = ended + max(CHECKPOINT_SECONDS, (ended - began) / CHECKPOINT_SHARE)
