"""`mvflow data download`: the published files that a dataset is made of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mvflow_cli.data.transfers import fetch_files
from mvflow_cli.options import Json
from mvflow_cli.output import say, show_json

__all__ = ["download"]


def download(
    name: Annotated[
        str, typer.Argument(help="Dataset (see 'mvflow data list').", show_default=False)
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Where to put them; ./NAME-files by default.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fetch the published files of a dataset, so far as they are public.

    What is there is not fetched again; what broke off is continued.

    Example: mvflow data download mnist-svhn
    """
    from mvflow_datasets import find_builder

    builder = find_builder(name)
    folder = folder or Path(f"{name}-files")
    fetch_files(builder, folder, json=json)
    if json:
        show_json({"dataset": name, "folder": str(folder)})
        return
    command = f"mvflow data build {name} {name}.h5 --source {shlex.quote(str(folder))}"
    say(f"all files are in {folder}: go on with '{command}'")
