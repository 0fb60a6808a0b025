"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Again", "Device", "Json", "RunPath", "Seed", "StorePath", "SubsetKind", "Threads"]

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", help="Where the store lies now, if it has moved.", show_default=False),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 and the like.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; by default as torch decides.", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
SubsetKind = Annotated[
    str | None,
    typer.Option(
        "--subset",
        metavar="product|amortised",
        help="What stands for q(z|x_S): the product of one expert for each modality, or one "
        "posterior for all subsets; by default as in config.toml.",
        show_default=False,
    ),
]
Again = Annotated[
    bool, typer.Option("--again", help="Train from the beginning, whatever there is.")
]
