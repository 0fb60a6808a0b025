"""`mvflow impute`: fill in what rows of one's own do not have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.observed import GivenRows, read_observed
from mvflow_cli.opening import check_output, open_store, open_trained, set_up
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mvflow.estimators import Estimator
    from mvflow.runs import RunDirectory

__all__ = ["impute"]

FEW_HELD_OUT = 100
"""Held-out rows below which it is said how often good rows are marked, too."""


def impute(
    run: RunPath,
    given: GivenFiles,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .csv, .tsv, .parquet, or .h5ad for one modality of numbers.",
            show_default=False,
        ),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="What to fill in; by default all that is not given or has gaps. May be repeated.",
            show_default=False,
        ),
    ] = None,
    missing: MissingValues = "values",
    index: IndexColumns = None,
    covariate: CovariateValues = None,
    level: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the values inside an interval.")
    ] = 0.9,
    n: Annotated[int, typer.Option("--n", min=2, help="Predictive draws per row.")] = 100,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fill in what rows of your files do not have: modalities and gaps, with means and intervals.

    What is given stays as it is; rows of which nothing is given stay empty. Values are in the
    units of the files that the store was imported from. Intervals are quantiles of predictive
    draws, widened as 'mvflow evaluate' has calibrated them on held-out rows.

    Example: mvflow impute runs/own --given rna=new.csv --out protein.csv
    """
    from mvflow.core import Units, UsageError, subset_of
    from mvflow_cli.sample import named_values
    from mvflow_datasets.importing import Reference
    from mvflow_datasets.imputed import (
        FORMATS,
        in_all_rows,
        summarise_draws,
        with_given,
        write_imputed,
    )

    check_output(out, force, (Reference.parse(text.partition("=")[2]).path for text in given))
    if out.suffix.lower() not in FORMATS:
        msg = f"--out {out} ends in {out.suffix!r}: known are {', '.join(FORMATS)}"
        raise UsageError(msg)
    set_up(device, threads)
    opened, model = open_trained(run, device)
    said = named_values("--covariate", covariate, model.config, by_row=True)
    without = [text for text in given if "=" not in text]
    if without:
        msg = f"--given {without[0]}: expected NAME=FILE, as in rna=new.csv"
        raise UsageError(msg)
    seen = read_observed(
        opened, model.config, given, None, store, said, missing, index or (), "and stay empty"
    )
    named = [name for text in targets or [] for name in text.split(",")]
    specs = {m.name: m for m in model.modalities}
    wanted = subset_of(named, model.modalities) or tuple(
        name for name in specs if name not in seen.batch or name in seen.gaps
    )
    if whole := [n for n in wanted if n in seen.batch and n not in seen.gaps]:
        msg = f"modality {whole[0]!r} is given and has no gap: leave it out of --targets"
        raise UsageError(msg)
    if not wanted:
        msg = "all modalities are given, without a gap: there is nothing to fill in"
        raise UsageError(msg)
    draws = model.generate(
        seen.columns,
        n,
        targets=wanted,
        noise=True,
        seed=seed,
        covariates=seen.covariates or None,
    )
    units, tables = opened.units(), {}
    uncalibrated: list[str] = []
    filled: dict[str, int] = {}
    for name, values in draws.items():
        margin = _margin(opened, name, seen, level)
        if margin is None:
            uncalibrated.append(name)
        own_units = units.get(name, Units())
        table = summarise_draws(
            values,
            specs[name],
            own_units,
            level,
            margin=0.0 if margin is None else margin,
            row_names=seen.row_names,
        )
        filled[name] = table.mean.size
        if name in seen.gaps:
            absent = ~seen.gaps[name]
            table = with_given(table, seen.originals[name], absent, own_units)
            filled[name] = int(absent.sum())
        tables[name] = table if seen.has is None else in_all_rows(table, seen.has, seen.all_names)
    unlike, held_out = _unlike(opened, model, seen, store, seed)
    write_imputed(out, tables, level, unlike=unlike)
    rows = len(next(iter(tables.values())).mean)
    about: dict[str, Any] = {
        "out": str(out),
        "rows": rows,
        "targets": [*tables],
        "filled": filled,
        "level": level,
        "calibrated": not uncalibrated,
        "unlike": None if unlike is None else int(unlike.sum()),
    }
    if json:
        show_json(about)
        return
    for note in seen.notes:
        say(note)
    for name, mask in seen.gaps.items():
        by_row = mask.reshape(len(mask), -1)
        lacking, incomplete = int((~by_row.any(1)).sum()), int((~by_row.all(1)).sum())
        also = f", {lacking:,} of which have none of it" if lacking else ""
        say(f"{name}: {int((~mask).sum()):,} values are absent, in {incomplete:,} rows{also}")
    if unlike is None:
        say("the store is not there: rows are not compared with those held out")
    elif unlike.any():
        by_chance = (
            f", as one in {held_out + 1} of good rows is, too, with {held_out} held out"
            if held_out < FEW_HELD_OUT
            else ""
        )
        say(
            f"{int(unlike.sum())} of {rows:,} rows are unlike those held out{by_chance}: "
            "do not trust them"
        )
    how = (
        _uncalibrated(run, uncalibrated, tables) if uncalibrated else "calibrated on held-out rows"
    )
    say(f"wrote {out}: {', '.join(tables)} of {rows:,} rows; {100 * level:g} % intervals, {how}")


def _unlike(
    run: RunDirectory, model: Estimator, seen: GivenRows, store: Path | None, seed: int
) -> tuple[NDArray[np.bool_] | None, int]:
    """Rows less likely than all that were held out for testing, and the number of the latter.

    None without the store.
    """
    from mvflow.core import DataError

    try:
        opened = open_store(run, model.config, store)
    except DataError:
        if store is not None:
            raise
        return None, 0
    with opened:
        reference, own = opened[model.config.data.test], seen.covariates or None
        unlike = model.unlike(seen.columns, reference, seed=seed, covariates=own)
    if seen.has is None:
        return unlike, len(reference)
    everywhere = seen.has.copy()
    everywhere[seen.has] = unlike
    return everywhere, len(reference)


def _margin(run: RunDirectory, target: str, seen: GivenRows, level: float) -> Any | None:
    """By how much intervals are widened, of each row; None if nobody has measured it."""
    from mvflow.core import UsageError
    from mvflow.estimators import margins
    from mvflow.runs.intervals import read_intervals

    intervals = read_intervals(run)
    if intervals is None:
        return None
    try:
        return margins(intervals, target, level, seen.batch, seen.gaps)
    except UsageError:
        return None


def _uncalibrated(run: Path, names: Sequence[str], all_names: Collection[str]) -> str:
    of = "" if len(names) == len(all_names) else f"those of {', '.join(names)} "
    return f"{of}not calibrated: 'mvflow evaluate {run}' does that"
