"""`mvflow impute`: files of one's own in, what they lack out, in the units of the files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.opening import open_store, open_trained, set_up
from mvflow_cli.options import Device, Json, RunPath, Seed, StorePath, Threads
from mvflow_cli.output import say, show_json
from mvflow_cli.sample import covariate_values

if TYPE_CHECKING:
    import pandas as pd

    from mvflow.core import Units
    from mvflow.estimators import Estimator
    from mvflow_datasets import Store
    from mvflow_datasets.importing import ModalityRows

__all__ = ["impute"]

UNLIKE = "unlike training rows"


def impute(
    run: RunPath,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE[:PART]...",
            help="What is observed, in files that 'mvflow data import' reads. Without a name, a "
            "file is taken for all modalities whose columns, or parts, it has.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Table to write: .csv, .tsv or .parquet.", show_default=False),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="A modality to impute; may be repeated. By default all that is not given.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        float,
        typer.Option(help="Of the intervals; calibrated ones exist for .5, .8, .9 and .95."),
    ] = 0.9,
    draws: Annotated[int, typer.Option(min=2, help="Draws per row.")] = 100,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A covariate of all rows, for a model that has some; may be repeated.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fill in modalities: means and intervals for new rows, with their names, in file units.

    Intervals are calibrated on held-out rows if the run has been evaluated. Rows whose values are
    less likely than those of all held-out rows are marked.

    Example: mvflow impute runs/digits kar=new-kar.csv fou=new-fou.csv --out filled.csv
    """
    import numpy as np

    from mvflow.core import UsageError
    from mvflow.runs import read_intervals, write_atomically
    from mvflow_datasets.importing import pair_rows

    writer = _writer(out)
    set_up(device, threads)
    opened, model = open_trained(run, device)
    with open_store(opened, model.config, store) as data:
        rows = _read(files, model, data)
        given = pair_rows(rows)
        intervals = read_intervals(opened)
        if intervals is not None and level not in intervals.levels:
            known = ", ".join(f"{x:g}" for x in intervals.levels)
            msg = f"--level {level:g}: intervals were calibrated at {known}"
            raise UsageError(msg)
        values = covariate_values("--covariate", covariate, model.config)
        options: dict[str, Any] = {"seed": seed, "covariates": values}
        absent = model.impute(
            given, targets=targets, n=draws, level=level, intervals=intervals, **options
        )
        mark = model.unlike(given, data[model.config.data.test], **options)
        units = dict(data.units)
    names = next((m.row_names for m in rows.values() if m.row_names is not None), None)
    table = _table({n: x.to_frame(units.get(n), _index(names)) for n, x in absent.items()})
    table[UNLIKE] = mark
    write_atomically(out, partial(writer, table))
    for note in dict.fromkeys(note for m in rows.values() for note in m.notes):
        say(note, err=json)
    kind = "calibrated on held-out rows" if intervals else "of draws, not calibrated"
    hint = "" if intervals else f": 'mvflow evaluate {run}' calibrates them"
    say(f"{100 * level:g} % intervals are {kind}{hint}", err=json)
    if mark.any():
        say(f"{int(np.sum(mark))} of {len(mark)} rows are {UNLIKE}", err=json)
    if json:
        result = {"out": str(out), "rows": len(table), "targets": list(absent)}
        show_json({**result, "calibrated": intervals is not None, "unlike": int(mark.sum())})
    else:
        say(f"wrote {len(table):,} rows of {', '.join(absent)} to {out}")


def _read(files: list[str], model: Estimator, store: Store) -> dict[str, ModalityRows]:
    """Each observed modality, from the file that is named for it or has its columns.

    Raises:
        DataError: if a file cannot be used.
        UsageError: if a modality is named twice or unknown.
    """
    from mvflow.core import DataError, Units, UsageError, subset_of
    from mvflow_datasets.importing import read_modality

    specs = {m.name: m for m in model.modalities}
    rows: dict[str, ModalityRows] = {}

    def units(name: str) -> Units:
        return dict(store.units).get(name, Units())

    for text in files:
        name, equals, file = text.partition("=")
        if equals:
            subset_of([name], model.modalities)
            _check_new(name, rows)
            rows[name] = read_modality(file, specs[name], units(name))
            continue
        reasons = []
        for each, spec in specs.items():
            part = f"{text}:{each}" if Path(text).suffix == ".h5mu" else text
            try:
                read = read_modality(part, spec, units(each))
            except DataError as error:
                reasons.append(str(error))
                continue
            _check_new(each, rows)
            rows[each] = read
        if len(reasons) == len(specs):
            msg = f"{text} has no modality of this run whole: {reasons[0]}"
            raise UsageError(msg)
    return rows


def _check_new(name: str, rows: dict[str, ModalityRows]) -> None:
    if name in rows:
        from mvflow.core import UsageError

        msg = f"two files have modality {name!r}: name what each is for, as in {name}=FILE"
        raise UsageError(msg)


def _index(names: Any) -> list[str] | None:
    return None if names is None else [str(name) for name in names]


def _table(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All targets side by side; columns that several have are named after their modality too."""
    import pandas as pd

    names = [column for frame in frames.values() for column in frame.columns]
    twice = {name for name in names if names.count(name) > 1}
    renamed = [
        frame.rename(columns={c: f"{modality}.{c}" for c in frame.columns if c in twice})
        for modality, frame in frames.items()
    ]
    return pd.concat(renamed, axis=1)


def _writer(out: Path) -> Any:
    """How a table is written to a file of this kind: (table, path) -> nothing.

    Raises:
        UsageError: if it is none that we write.
    """
    from mvflow.core import UsageError

    def as_text(table: pd.DataFrame, path: Path, separator: str) -> None:
        table.to_csv(path, sep=separator, index=table.index.dtype == object)

    ways = {
        ".csv": partial(as_text, separator=","),
        ".tsv": partial(as_text, separator="\t"),
        ".parquet": lambda table, path: table.to_parquet(path),
    }
    if out.suffix not in ways:
        msg = f"--out {out}: expected a name that ends in {', '.join(ways)}"
        raise UsageError(msg)
    return ways[out.suffix]
