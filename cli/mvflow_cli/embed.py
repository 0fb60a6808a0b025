"""`mvflow embed`: where rows of one's own lie in the latent space, written into their file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvflow_cli.observed import read_observed
from mvflow_cli.opening import open_trained, set_up
from mvflow_cli.options import (
    CovariateValues,
    Device,
    GivenFiles,
    IndexColumns,
    Json,
    MissingValues,
    RunPath,
    Seed,
    StorePath,
    Threads,
)
from mvflow_cli.output import say, show_json

__all__ = ["embed"]


def embed(
    run: RunPath,
    given: GivenFiles,
    into: Annotated[
        Path,
        typer.Option(
            help=".h5ad or .h5mu file with these rows, whose obsm gets the embedding.",
            show_default=False,
        ),
    ],
    key: Annotated[str, typer.Option(help="Of obsm.")] = "X_mvflow",
    missing: MissingValues = "values",
    index: IndexColumns = None,
    covariate: CovariateValues = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Posterior draws per row.")] = 100,
    seed: Seed = 0,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write posterior means of z, and standard deviations, into obsm of an annotated file.

    In rows that have all modalities they are those of q(z|X), in others those of draws given what
    there is; NaN in rows of which nothing is given. Nothing in the file is overwritten.

    Example: mvflow embed runs/own --given rna=cells.h5ad --into cells.h5ad
    """
    from mvflow.core import UsageError
    from mvflow.estimators.empty_rows import in_place
    from mvflow_cli.sample import named_values
    from mvflow_datasets.embedded import write_embedding

    without = [text for text in given if "=" not in text]
    if without:
        msg = f"--given {without[0]}: expected NAME=FILE, as in rna=cells.h5ad"
        raise UsageError(msg)
    set_up(device, threads)
    opened, model = open_trained(run, device)
    said = named_values("--covariate", covariate, model.config, by_row=True)
    seen = read_observed(
        opened, model.config, given, None, store, said, missing, index or (), "and are NaN"
    )
    mean, deviation = model.transform(
        seen.columns, n=n, seed=seed, covariates=seen.covariates or None, return_std=True
    )
    if seen.has is not None:
        mean, deviation = (in_place(each, seen.has) for each in (mean, deviation))
    write_embedding(into, {key: mean, f"{key}_sd": deviation}, seen.all_names)
    if json:
        show_json({"into": str(into), "key": key, "rows": len(mean), "latent_dim": mean.shape[1]})
        return
    for note in seen.notes:
        say(note)
    say(f"wrote obsm[{key!r}] and obsm['{key}_sd'] of {len(mean):,} rows to {into}")
