"""`mvflow data info`: what a store holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mvflow_cli.options import Json
from mvflow_cli.output import say, show, show_json

__all__ = ["info"]


def info(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Store (.h5).", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show what a store holds and what it was made from.

    Example: mvflow data info toy.h5
    """
    from mvflow_datasets import Store

    with Store.open(store) as opened:
        found = opened.info()
    if json:
        show_json(found)
        return
    note = f" ({found['note']})" if found["note"] else ""
    say(f"{found['name']}{note}, {found['bytes'] / 2**20:.1f} MiB, {found['fingerprint'][:12]}")
    builder = found["builder"]
    parameters = {"seed": builder.get("seed"), **builder.get("parameters", {})}
    made = ", ".join(f"{k}={v}" for k, v in parameters.items() if v is not None)
    if builder:
        say(f"built with {made or 'no parameters'}")
    modalities = Table("modality", "shape", "likelihood", "stored as")
    for m in found["modalities"]:
        kinds = {_stored_as(s["arrays"][m["name"]]) for s in found["splits"].values()}
        shape = " x ".join(map(str, m["shape"]))
        if image := m.get("image_shape"):
            shape += f" (image of {' x '.join(map(str, image))})"
        likelihood = m["likelihood"]
        kind = likelihood if isinstance(likelihood, str) else likelihood["kind"]
        modalities.add_row(m["name"], shape, kind, ", ".join(sorted(kinds)))
    show(modalities)
    if found["covariates"]:
        covariates = Table("covariate", "values")
        for name, spec in found["covariates"].items():
            levels = spec["levels"]
            number = (
                f"numbers, mean {spec.get('mean', 0):.4g}, deviation {spec.get('scale', 1):.4g}"
            )
            covariates.add_row(name, number if levels is None else ", ".join(levels))
        show(covariates)
    splits = Table("split", "rows", "classes", "distinct values")
    for name, split in found["splits"].items():
        distinct = ", ".join(f"{n} {a['distinct']:,}" for n, a in split["arrays"].items())
        classes = str(len(split["labels"])) if split["labels"] else "no labels"
        if unknown := split["absent"].get("labels"):
            classes += f" (unknown in {unknown:,} rows)"
        splits.add_row(name, f"{split['rows']:,}", classes, distinct)
    show(splits)
    if any(split["absent"] for split in found["splits"].values()):
        _show_absence(found)


def _show_absence(found: dict[str, Any]) -> None:
    """Which rows lack what, and which modalities are linked by rows that have both."""
    from mvflow.core import Presence

    splits, names = found["splits"], [m["name"] for m in found["modalities"]]
    kinds = Table("rows that have", *splits, title="Modalities by row")
    tables = [{tuple(kind): n for kind, n in split["kinds"]} for split in splits.values()]
    for kind in sorted({kind for table in tables for kind in table}, key=lambda k: (-len(k), k)):
        kinds.add_row(", ".join(kind), *(f"{table.get(kind, 0):,}" for table in tables))
    show(kinds)
    for name, split in splits.items():
        for of in names:
            if share := split["arrays"][of].get("missing"):
                say(f"{name}: {share:.1%} of the values of {of} are missing in rows that have it")
    seen = Presence(tuple(names), sum(map(Counter, tables), Counter()))
    for first, second in seen.pairs_apart:
        by = " and ".join(seen.linking(first, second))
        link = f"{by} links them" if by else "others link them in turn"
        say(f"no row has both {first} and {second}: {link}")


def _stored_as(array: dict[str, Any]) -> str:
    filled = array.get("filled")
    return array["dtype"] + ("" if filled is None else f", sparse, {filled:.1%} filled")
