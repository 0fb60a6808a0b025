"""`mvflow data build`: a store from published files or from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvflow_cli.data.transfers import fetch_files
from mvflow_cli.opening import check_output
from mvflow_cli.options import Json, Seed
from mvflow_cli.output import say, show_json

if TYPE_CHECKING:
    from mvflow_datasets import Builder

__all__ = ["build"]


def build(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Dataset (see 'mvflow data list').", show_default=False)
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT.h5", help="Store to write.", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Option(help="Folder with the published files.", show_default=False),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch what is missing and public into the source folder (./NAME-files).",
        ),
    ] = False,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of the dataset; '--rows 1000' is short for '--set rows=1000'.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.h5.")] = False,
    json: Json = False,
) -> None:
    """Build a dataset into a store; the same arguments give the same bytes.

    Example: mvflow data build toy toy.h5 --rows 20000 --seed 1
    """
    from mvflow_datasets import Store, find_builder
    from mvflow_datasets.hdf5 import check_hdf5_name

    (name, path), extra = _divided([name, out, *context.args])
    builder = find_builder(name)
    parameters = dict(_assigned(text) for text in settings or []) | extra
    _check_known(builder, parameters)
    check_hdf5_name(Path(path), "a store is")
    check_output(Path(path), force)
    if download:
        source = source or Path(f"{name}-files")
        fetch_files(builder, source, json=json)
    builder.build(path, source=source, seed=seed, **parameters)
    with Store.open(path) as store:
        found = store.info()
    if json:
        show_json(found)
        return
    rows = ", ".join(f"{n} {s['rows']:,} rows" for n, s in found["splits"].items())
    say(f"wrote {path}: {rows}{'; ' if found['note'] else ''}{found['note']}")


def _divided(words: Sequence[str]) -> tuple[tuple[str, str], dict[str, str]]:
    """Name and path, and the `--key value` or `--key=value` options that Typer does not know."""
    plain, options, rest = [], {}, iter(words)
    for word in rest:
        if not word.startswith("-"):
            plain.append(word)
            continue
        key, equals, value = word.partition("=")
        if not equals:
            value = next(rest, "")
        if not value:
            raise typer.BadParameter(f"option {key} needs a value")
        options[key.lstrip("-").replace("-", "_")] = value
    if len(plain) != 2:
        raise typer.BadParameter(
            f"expected a dataset and a file to write, got {' '.join(plain)!r}"
        )
    return (plain[0], plain[1]), options


def _assigned(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(
            f"cannot read --set {text!r}: expected name=value, as in rows=1000"
        )
    return key.strip().replace("-", "_"), value.strip()


def _check_known(builder: Builder, parameters: dict[str, str]) -> None:
    """Fail at an unknown parameter, with the nearest of all options in mind."""
    from mvflow.core import UsageError, unknown_name

    own = [p.name for p in builder.parameters]
    for name in parameters:
        if name not in own:
            known = [*own, "source", "download", "seed", "set", "force", "json"]
            raise UsageError(unknown_name(f"option of dataset {builder.name!r}", name, known))
