"""`mvflow data convert`: a store of format 1 becomes one of this mvflow's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvflow_cli.options import Json
from mvflow_cli.output import say, show_json

__all__ = ["convert"]


def convert(
    old: Annotated[
        Path,
        typer.Argument(metavar="OLD", help="Store of mvflow 0.1 (.h5).", show_default=False),
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="The file to write (.h5).", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Convert a store that mvflow 0.1 made; the old one stays as it is.

    Runs that were trained on it go on after 'mvflow convert RUN --store NEW'.

    Example: mvflow data convert old.h5 new.h5
    """
    from mvflow_datasets import Store
    from mvflow_datasets.converting import convert_store

    with Store.open(convert_store(old, new)) as store:
        fingerprint = store.fingerprint
    if json:
        show_json({"store": str(new), "fingerprint": fingerprint})
        return
    say(f"wrote {new} ({fingerprint[:12]})")
