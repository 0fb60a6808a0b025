"""`mvflow data verify`: whether a store is what it was when it was built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvflow_cli.options import Json
from mvflow_cli.output import say, show_json

__all__ = ["verify"]


def verify(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Store (.h5).", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Compare all of a store with the hashes that were taken when it was built.

    Example: mvflow data verify toy.h5
    """
    from mvflow_datasets import Store

    with Store.open(store) as opened:
        found, fingerprint = opened.verify(), opened.fingerprint
    if json:
        show_json({"store": str(store), "fingerprint": fingerprint, "damage": found})
    else:
        for reason in found:
            say(f"{store}: {reason}")
        if not found:
            say(f"{store} is as it was when it was built ({fingerprint[:12]})")
    if found:
        raise typer.Exit(1)
