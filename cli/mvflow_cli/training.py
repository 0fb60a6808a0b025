"""What `train` and the three commands for single stages share."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mvflow_cli.distributed import ClusterOptions, joined
from mvflow_cli.opening import open_store, with_prior, with_subset
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import Progress

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.runs import RunDirectory
    from mvflow.training import Processes

__all__ = ["How", "train_command", "train_stages"]


@dataclass(frozen=True, slots=True)
class How:
    """How to train: where the data and the machine are, and where to speak."""

    store: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    again: bool = False
    json: bool = False
    subset: str | None = None
    precision: str | None = None
    compile: str = "auto"
    machines: ClusterOptions = ClusterOptions()
    components: int | None = None


def train_command(path: Path, stage: str | None, how: How) -> None:
    """Train one stage, or all that are not done, and print the result."""
    from mvflow.core import LostError

    command = f"mvflow train {shlex.quote(str(path))}"
    try:
        with joined(how.machines, how.device, how.threads) as processes:
            result = train_stages(path, stage, how, processes)
    except KeyboardInterrupt:
        say(f"mvflow: interrupted; all full epochs are kept: go on with '{command}'", err=True)
        raise typer.Exit(1) from None
    except LostError as error:
        say(f"mvflow: {error}; the newest checkpoint is kept: go on with '{command}'", err=True)
        raise typer.Exit(1) from None
    if how.json and (processes is None or processes.is_main_process):
        show_json(result)


def train_stages(
    path: Path, stage: str | None, how: How, processes: Processes | None = None
) -> dict[str, Any]:
    """Train one stage of a run, or all that are not done, holding the run's lock.

    Returns:
        The run, and for each stage asked for whether it was trained now, its seconds, epochs
        and last record.
    """
    from mvflow.core import fingerprint
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory
    from mvflow.training import check_compile

    check_compile(how.compile)
    _check_precision(how.precision)
    run = RunDirectory.open(path)
    if processes is not None and not processes.is_main_process:
        _follow(run, processes)
        return {}
    device = how.device if processes is None else str(processes.device)
    with run.lock():
        config = _configured(run, stage, how)
        wanted = _wanted(run, config, stage)
        with open_store(run, config, how.store) as store:
            if how.store is not None:
                config = _moved(run, config, store.path)
            train = store[config.data.train]
            config = _with_precision(run, config, wanted, how)
            todo = _todo(run, config, wanted, fingerprint(train), how)
            if processes is not None:
                processes.broadcast({"todo": todo, "store": str(store.path)})
            if todo:
                with Progress(config, err=how.json) as progress, _log_lines(err=how.json):
                    load(path).across(processes).fit(
                        train,
                        stages=todo,
                        run=run,
                        device=device,
                        listener=progress,
                        compile=how.compile,
                    )
    result = _result(run, wanted, todo)
    for name in todo:
        about = result["stages"][name]
        epochs = f", epochs {about['epochs']}" if name != "prior" else ""
        say(f"{name}: trained{epochs}, {about['seconds']:.1f} s", err=how.json)
    return result


def _follow(run: RunDirectory, processes: Processes) -> None:
    """Train what the main process has found to do."""
    from mvflow.estimators import load

    plan: dict[str, Any] = processes.broadcast({})
    config = run.config()
    if plan["todo"]:
        with open_store(run, config, Path(plan["store"])) as store:
            load(run.path).across(processes).fit(
                store[config.data.train], stages=plan["todo"], device=str(processes.device)
            )


def _configured(run: RunDirectory, stage: str | None, how: How) -> Config:
    """The run's configuration; another posterior or prior that is asked for is written into it."""
    config = run.config()
    kind = {"flows": "product", "amortised": "amortised"}.get(stage or "", how.subset)
    changed = with_prior(with_subset(config, kind), "mixture" if stage == "prior" else None)
    if how.components is not None:
        prior = changed.prior.model_copy(update={"components": how.components})
        changed = changed.model_copy(update={"prior": prior})
    if changed != config:
        run.write_config(changed)
    if changed.subset != config.subset:
        say(f"config.toml: subset = {changed.subset!r} (was {config.subset!r})", err=how.json)
    for key, was in config.prior:
        value = getattr(changed.prior, key)
        if value != was:
            say(f"config.toml: prior.{key} = {value!r} (was {was!r})", err=how.json)
    return changed


def _check_precision(name: str | None) -> None:
    """Check `--precision`.

    Raises:
        UsageError: if there is no such precision.
    """
    from mvflow.core import UsageError, unknown_name

    known = ("float32", "bfloat16")
    if name is not None and name not in known:
        raise UsageError(unknown_name("precision", name, known))


def _with_precision(run: RunDirectory, config: Config, stages: Sequence[str], how: How) -> Config:
    """The configuration with another precision of these stages, written where it is another."""
    if how.precision is None:
        return config
    for name in stages:
        section = getattr(config, name)
        if name == "prior" or section.precision == how.precision:
            continue
        changed = section.model_copy(update={"precision": how.precision})
        config = config.model_copy(update={name: changed})
        run.write_config(config)
        say(f"config.toml: {name}.precision = {how.precision!r}", err=how.json)
    return config


@contextmanager
def _log_lines(*, err: bool) -> Iterator[None]:
    """Show what the library logs of training: where the rows are, peak memory, captured steps."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage(), err=err)

    logger, lines = logging.getLogger("mvflow.training"), Lines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


def _wanted(run: RunDirectory, config: Config, stage: str | None) -> tuple[str, ...]:
    from mvflow.config import stage_names, stages_before
    from mvflow.core import UsageError

    names = stage_names(config)
    if stage is None:
        return names
    if stage not in names:
        msg = f"{run.path} has no stage {stage!r}: model {config.model!r} has {', '.join(names)}"
        raise UsageError(msg)
    if stages_before(config, stage):
        run.require(stages_before(config, stage), config)
    return (stage,)


def _moved(run: RunDirectory, config: Config, store: Path) -> Config:
    """Keep the new place of the store in `config.toml`; no stage depends on it."""
    data = config.data.model_copy(update={"store": str(store)})
    config = config.model_copy(update={"data": data})
    run.write_config(config)
    return config


def _todo(
    run: RunDirectory, config: Config, wanted: Sequence[str], data: str, how: How
) -> list[str]:
    """The stages to train, in order; what is said of each on the way."""
    todo = []
    for name in wanted:
        status = run.status(name, config, data)
        if how.again:
            run.forget(name)
            status = "missing"
        said = {
            "done": "done already",
            "stale": "stale (its settings or an earlier stage have changed): trained anew",
            "unfinished": "unfinished: goes on where it was, if its settings are the same",
        }
        if status in said:
            say(f"{name}: {said[status]}", err=how.json)
        if status != "done":
            todo.append(name)
    return todo


def _result(run: RunDirectory, wanted: Sequence[str], todo: Sequence[str]) -> dict[str, Any]:
    entries = run.manifest().get("stages", {})
    last = {record["stage"]: record for record in run.history()}
    stages = {
        name: {
            "trained": name in todo,
            "seconds": entries[name].get("seconds", 0.0),
            "epochs": entries[name].get("epochs", 0),
            "key": entries[name]["key"],
            "last": last.get(name),
        }
        for name in wanted
    }
    return {"run": str(run.path), "stages": stages}
