"""What `train` and the commands for single stages share."""

from __future__ import annotations

import difflib
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mvflow_cli.distributed import ClusterOptions, process_group
from mvflow_cli.opening import open_store
from mvflow_cli.output import LogLines, say, show_json, warn_idle
from mvflow_cli.progress import TrainingProgress
from mvflow_cli.stage_commands import provider

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.estimators import Estimator
    from mvflow.runs import Inputs, RunDirectory
    from mvflow.stages import StageSpec
    from mvflow.training import Processes

__all__ = ["TrainOptions", "log_lines", "stage_length", "train_command", "train_stages"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of a training command."""

    store: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    again: bool = False
    json: bool = False
    subset: str | None = None
    settings: tuple[str, ...] = ()
    precision: str | None = None
    compile: str = "auto"
    machines: ClusterOptions = ClusterOptions()

    def changes(self) -> str:
        """Those that change settings, as words of a command line."""
        named = (("--subset", self.subset), ("--precision", self.precision))
        words = [word for name, value in named if value is not None for word in (name, value)]
        words += [word for text in self.settings for word in ("--set", text)]
        return "".join(f" {shlex.quote(word)}" for word in words)


def train_command(path: Path, stages: Sequence[str] | None, options: TrainOptions) -> None:
    """Train the named stages, or all that are not done, and print the result."""
    from mvflow.core import LostError

    command = f"mvflow train {shlex.quote(str(path))}"
    try:
        with process_group(options.machines, options.device, options.threads) as processes:
            result = train_stages(path, stages, options, processes)
    except KeyboardInterrupt:
        say(f"mvflow: interrupted; all full epochs are kept: go on with '{command}'", err=True)
        raise typer.Exit(1) from None
    except LostError as error:
        say(f"mvflow: {error}; the newest checkpoint is kept: go on with '{command}'", err=True)
        raise typer.Exit(1) from None
    if options.json and (processes is None or processes.is_main_process):
        show_json(result)


def train_stages(
    path: Path,
    stages: Sequence[str] | None,
    options: TrainOptions,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Train stages of a run, or all that are not done, holding the run's lock.

    Returns:
        The run, and for each stage asked for whether it was trained now, its seconds, epochs
        and last record.
    """
    from mvflow.core import fingerprint
    from mvflow.estimators import estimator_class
    from mvflow.runs import Inputs, RunDirectory
    from mvflow.training import check_compile
    from mvflow_cli.changed_run import ChangedRun

    check_compile(options.compile)
    run = RunDirectory.open(path)
    if processes is not None and not processes.is_main_process:
        _follow(run, processes)
        return {}
    device = options.device if processes is None else str(processes.device)
    with run.lock():
        config = _configured(run, stages, options)
        with open_store(run, config, options.store) as store:
            train = store[config.data.train]
            if options.store is not None:
                data = config.data.model_copy(update={"store": str(store.path)})
                config = config.model_copy(update={"data": data})
            untrained = estimator_class(config.system).from_config(config)
            wanted = _wanted(run, untrained, stages, options)
            again = wanted if options.again else ()
            changed = ChangedRun(run.path, config, again, options.json)
            model = untrained.restore(changed)
            todo = _todo(changed, model, wanted, Inputs(fingerprint(train)), err=options.json)
            if processes is not None:
                raw = config.to_dict()
                processes.broadcast({"todo": todo, "config": raw, "again": again})
            if not todo:
                changed.begin()
            else:
                lengths = map(stage_length, map(model.plan_.spec, todo))
                say(f"to train: {', '.join(lengths)}", err=options.json)
                with TrainingProgress(err=options.json) as progress, log_lines(err=options.json):
                    model.distribute(processes).fit(
                        train,
                        stages=todo,
                        run=changed,
                        device=device,
                        callback=progress,
                        compile=options.compile,
                    )
    result = _result(run, wanted, todo)
    for name in todo:
        about = result["stages"][name]
        epochs = f", epochs {about['epochs']}" if about["epochs"] else ""
        say(f"{name}: trained{epochs}, {about['seconds']:.1f} s", err=options.json)
    return result


def stage_length(spec: StageSpec) -> str:
    """A stage, and for how long it is trained."""
    settings = spec.settings
    if settings is None:
        return spec.name
    steps = settings.steps_per_epoch
    most = "up to " if getattr(settings, "patience", None) else ""
    of = f" of {steps} steps" if steps else ""
    return f"{spec.name} ({most}{settings.epochs} epochs{of})"


def _follow(run: RunDirectory, processes: Processes) -> None:
    """Train what the main process has found to do."""
    from mvflow.config import config_from_dict
    from mvflow.estimators import estimator_class
    from mvflow_cli.changed_run import ChangedRun

    plan: dict[str, Any] = processes.broadcast({})
    if plan["todo"]:
        config = config_from_dict(plan["config"])
        changed = ChangedRun(run.path, config, plan["again"])
        model = estimator_class(config.system).from_config(config).restore(changed)
        with open_store(run, config) as store:
            model.distribute(processes).fit(
                store[config.data.train], stages=plan["todo"], device=str(processes.device)
            )


def _configured(run: RunDirectory, stages: Sequence[str] | None, options: TrainOptions) -> Config:
    """The run's configuration with what the options change; nothing is written."""
    from mvflow.config import assign, config_from_dict, with_part

    changed = run.config()
    if options.subset is not None:
        changed = with_part(changed, "subset", options.subset)
    for stage in stages or ():
        changed = _with_stage(changed, stage)
    if options.settings:
        changed = config_from_dict(assign(changed.to_dict(), options.settings), where="--set")
    if options.precision is not None:
        changed = _with_precision(changed, stages, options.precision)
    warn_idle(changed, [a.partition("=")[0].strip() for a in options.settings or []])
    return changed


def _with_stage(config: Config, stage: str) -> Config:
    """The configuration with the part that brings a stage, if the system has none now."""
    from mvflow.config import with_part
    from mvflow.core import registry
    from mvflow.core.parts import Kind, Part
    from mvflow.systems import build_system, stages_of

    if stage in [spec.name for spec in stages_of(build_system(config))]:
        return config
    part = provider(stage)
    if not (isinstance(part, type) and issubclass(part, Part)):
        return config
    for field, info in type(config).model_fields.items():
        if any(isinstance(m, Kind) and m.group == part.group for m in info.metadata):
            return with_part(config, field, registry(part.group).name_of(part))
    return config


def _with_precision(config: Config, stages: Sequence[str] | None, precision: str) -> Config:
    """The configuration with another precision of these stages, or of all."""
    from mvflow.config import config_from_dict
    from mvflow.core import UsageError, unknown_name
    from mvflow.systems import build_system, stages_of

    known = ("float32", "bfloat16")
    if precision not in known:
        raise UsageError(unknown_name("precision", precision, known))
    raw = config.model_dump()
    for spec in stages_of(build_system(config)):
        if spec.settings is None or (stages is not None and spec.name not in stages):
            continue
        for field, value in config:
            if value is spec.settings:
                raw[field] = value.model_copy(update={"precision": precision})
    return config_from_dict(raw)


@contextmanager
def log_lines(of: str = "mvflow.training", *, err: bool) -> Iterator[None]:
    """Show what the library logs of training."""
    logger, lines = logging.getLogger(of), LogLines(logging.INFO, err=err)
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


def _wanted(
    run: RunDirectory, model: Estimator, stages: Sequence[str] | None, options: TrainOptions
) -> tuple[str, ...]:
    """The stages asked for, in order; those that they need must be done."""
    from mvflow.core import UsageError

    names = model.stage_names
    if stages is None:
        return names
    for stage in stages:
        if stage not in names:
            close = difflib.get_close_matches(stage.lower(), names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            has = f"system {model.config.system!r} has {', '.join(names)}"
            msg = f"{run.path} has no stage {stage!r}: {hint}{has}"
            raise UsageError(msg)
        before = [n for n in model.plan_.spec(stage).needs if n not in stages]
        run.require(before, model.plan_, options.changes())
    return tuple(name for name in names if name in stages)


def _todo(
    run: RunDirectory,
    model: Estimator,
    wanted: Sequence[str],
    inputs: Inputs,
    *,
    err: bool,
) -> list[str]:
    """The stages to train, in order; what is said of each on the way."""
    todo: list[str] = []
    for name in wanted:
        status = run.status(name, model.plan_, inputs)
        if status == "replaced":
            run.require([name], model.plan_)
        if status == "done" and any(n in todo for n in model.plan_.spec(name).needs):
            status = "stale"
        said = {
            "done": "done already",
            "stale": "stale (its settings or an earlier stage have changed): trained anew",
            "unfinished": "unfinished: goes on where it was, if its settings are the same",
        }
        if status in said:
            say(f"{name}: {said[status]}", err=err)
        if status != "done":
            todo.append(name)
    return todo


def _result(run: RunDirectory, wanted: Sequence[str], todo: Sequence[str]) -> dict[str, Any]:
    records = run.records()
    last = {record["stage"]: record for record in run.history()}
    stages = {
        name: {
            "trained": name in todo,
            "seconds": records[name].seconds,
            "epochs": records[name].epochs,
            "key": records[name].key,
            "last": last.get(name),
        }
        for name in wanted
    }
    return {"run": str(run.path), "stages": stages}
