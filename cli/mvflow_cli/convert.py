"""`mvflow convert`: a run directory of format 1 becomes one of this mvflow's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvflow_cli.opening import move_store
from mvflow_cli.options import Json, RunPath
from mvflow_cli.output import say, show_json

__all__ = ["convert"]

NewStore = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="The store of the run as 'mvflow data convert' wrote it.",
        show_default=False,
    ),
]


def convert(run: RunPath, store: NewStore = None, json: Json = False) -> None:
    """Convert a run directory that mvflow 0.1 made; its weights stay as they are.

    With --store, a run whose store was converted goes on with the new one. That works later, too.

    Example: mvflow convert runs/old --store new.h5
    """
    from mvflow.estimators.converting import convert_run, renew_fingerprints
    from mvflow.runs import RunDirectory
    from mvflow_datasets import Store

    if store is None:
        taken = convert_run(run)
    else:
        with Store.open(store) as opened:
            splits = {name: opened[name] for name in opened.splits}
            make = convert_run if _is_old(run) else renew_fingerprints
            taken = make(run, splits)
        directory = RunDirectory.open(run)
        move_store(directory, directory.config(), store.resolve())
    if json:
        show_json({"run": str(run), "stages": taken})
        return
    say(f"converted {run}: stages {', '.join(taken) or 'none'}")


def _is_old(run: Path) -> bool:
    from mvflow.config import read_toml

    file = run / "config.toml"
    return file.is_file() and read_toml(file).get("format") == 1
