"""What `train` and the three commands for single stages share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mvflow_cli.opening import open_store, set_up, with_subset
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import Progress

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.runs import RunDirectory

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


def train_command(path: Path, stage: str | None, how: How) -> None:
    """Train one stage, or all that are not done, and print the result."""
    set_up(how.device, how.threads)
    try:
        result = train_stages(path, stage, how)
    except KeyboardInterrupt:
        say(
            "mvflow: interrupted; all full epochs are kept: "
            f"go on with 'mvflow train {shlex.quote(str(path))}'",
            err=True,
        )
        raise typer.Exit(1) from None
    if how.json:
        show_json(result)


def train_stages(path: Path, stage: str | None, how: How) -> dict[str, Any]:
    """Train one stage of a run, or all that are not done, holding the run's lock.

    Returns:
        The run, and for each stage asked for whether it was trained now, its seconds, epochs
        and last record.
    """
    from mvflow.core import fingerprint
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory

    run = RunDirectory.open(path)
    with run.lock():
        config = _configured(run, stage, how)
        wanted = _wanted(run, config, stage)
        with open_store(run, config, how.store) as store:
            if how.store is not None:
                config = _moved(run, config, store.path)
            train = store[config.data.train]
            todo = _todo(run, config, wanted, fingerprint(train), how)
            if todo:
                with Progress(config, err=how.json) as progress:
                    load(path).fit(
                        train, stages=todo, run=run, device=how.device, listener=progress
                    )
    result = _result(run, wanted, todo)
    for name in todo:
        about = result["stages"][name]
        say(f"{name}: trained, epochs {about['epochs']}, {about['seconds']:.1f} s", err=how.json)
    return result


def _configured(run: RunDirectory, stage: str | None, how: How) -> Config:
    """The run's configuration; another kind of posterior that is asked for is written into it."""
    config = run.config()
    kind = {"flows": "product", "amortised": "amortised"}.get(stage or "", how.subset)
    changed = with_subset(config, kind)
    if changed != config:
        run.write_config(changed)
        say(f"config.toml: subset = {changed.subset!r} (was {config.subset!r})", err=how.json)
    return changed


def _wanted(run: RunDirectory, config: Config, stage: str | None) -> tuple[str, ...]:
    from mvflow.config import stage_names
    from mvflow.core import UsageError

    names = stage_names(config)
    if stage is None:
        return names
    if stage not in names:
        msg = f"{run.path} has no stage {stage!r}: model {config.model!r} has {', '.join(names)}"
        raise UsageError(msg)
    if stage in ("flows", "amortised"):
        run.require(names[: names.index(stage)], config)
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
