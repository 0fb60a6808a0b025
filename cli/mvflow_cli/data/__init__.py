"""`mvflow data`: stores, and what they are made from."""

from __future__ import annotations

import typer

from mvflow_cli.data.build import build
from mvflow_cli.data.convert import convert
from mvflow_cli.data.download import download
from mvflow_cli.data.import_ import import_
from mvflow_cli.data.info import info
from mvflow_cli.data.list import list_datasets
from mvflow_cli.data.verify import verify

__all__ = ["app"]

app = typer.Typer(rich_markup_mode="rich")
app.command("list")(list_datasets)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(build)
app.command()(convert)
app.command()(download)
app.command("import")(import_)
app.command()(info)
app.command()(verify)


@app.callback(invoke_without_command=True)
def _data(context: typer.Context) -> None:
    """Build stores and look into them.

    Example: mvflow data build toy toy.h5
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
