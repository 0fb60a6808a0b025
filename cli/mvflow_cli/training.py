"""What `train` and the three commands for single stages share."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mvflow_cli.distributed import Machines, joined
from mvflow_cli.opening import open_store, with_prior, with_subset
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import Progress

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.core import Source
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
    machines: Machines = Machines()
    components: int | None = None


def train_command(path: Path, stage: str | None, how: How) -> None:
    """Train one stage, or all that are not done, and print the result."""
    from mvflow.training import LostError

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
    if how.json and (processes is None or processes.leads):
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
    if processes is not None and not processes.leads:
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
            config = _with_precision(run, config, wanted, train, how, device)
            todo = _todo(run, config, wanted, fingerprint(train), how)
            if processes is not None:
                processes.shared(dumps({"todo": todo, "store": str(store.path)}).encode())
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
    """Train what the process that leads has found to do."""
    from mvflow.estimators import load

    plan = loads(processes.shared())
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

    known = ("float32", "bfloat16", "auto")
    if name is not None and name not in known:
        raise UsageError(unknown_name("precision", name, known))


def _with_precision(
    run: RunDirectory, config: Config, stages: Sequence[str], train: Source, how: How, device: str
) -> Config:
    """The configuration with another precision of these stages, written where it is another."""
    from mvflow.core import fingerprint

    if how.precision is None:
        return config
    data = fingerprint(train)
    for name in stages:
        if name == "prior":
            continue
        precision = how.precision
        if precision == "auto":
            if not how.again and _is_begun(run, name, config, data):
                continue
            precision = _faster(name, config, train, how, device)
        section = getattr(config, name)
        if section.precision != precision:
            changed = section.model_copy(update={"precision": precision})
            config = config.model_copy(update={name: changed})
            run.write_config(config)
            say(f"config.toml: {name}.precision = {precision!r}", err=how.json)
    return config


def _is_begun(run: RunDirectory, name: str, config: Config, data: str) -> bool:
    """Whether a stage is done, or has a checkpoint to go on from."""
    from mvflow.config import stage_key

    key = stage_key(config, name, data)
    is_done = run.status(name, config, data) == "done"
    return is_done or run.newest_checkpoint(name, key) is not None


def _faster(name: str, config: Config, train: Source, how: How, device: str) -> str:
    """The faster precision; the log says why, and is shown."""
    from mvflow.training import Table, faster_precision

    with _log_lines(err=how.json):
        return faster_precision(name, config, Table.of(train, device, 0))


@contextmanager
def _log_lines(*, err: bool) -> Iterator[None]:
    """Show what the library logs of training: memory needed, where the rows are."""

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
