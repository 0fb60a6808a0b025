"""Cross-validation of a run's settings, for `mvflow evaluate --folds`."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mvflow_cli.opening import open_store
from mvflow_cli.output import say, show, show_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mvflow.evaluation.folds import CrossValidation
    from mvflow.evaluation.predictions import Scores
    from mvflow.metrics import CalibratedIntervals, Estimate

__all__ = ["evaluate_folds"]

LEVEL = 0.9
MEASURES = {"r2": "R²", "accuracy": "accuracy", "deviance": "Poisson deviance"}


def evaluate_folds(
    path: Path, folds: int, *, seed: int, store: Path | None, device: str, json: bool
) -> None:
    """Train a model for each fold, show how well all rows are predicted, and keep the result.

    Models are kept in `RUN/folds` until all are done, so that an interrupted command goes on.
    """
    from mvflow.core.files import write_json
    from mvflow.evaluation.folds import cross_validate, folds_of
    from mvflow.runs import RunDirectory, read_intervals, write_intervals
    from mvflow_datasets.importing import read_units

    run = RunDirectory.open(path)
    config = run.config()
    kept = run.path / "folds" / f"{folds}-seed-{seed}"
    began = time.monotonic()
    with open_store(run, config, store) as data:
        sources = [data[name] for name in data.splits]
        folds_of(sources, folds, seed)
        rows = sum(map(len, sources))
        say(
            f"{folds} folds of {rows:,} rows: each is predicted by a model trained on the others, "
            f"{rows - rows // folds:,} rows; models are kept in {kept} until all are done",
            err=json,
        )

        def told(k: int) -> None:
            spent = time.monotonic() - began
            left = f", about {spent / k * (folds - k):.0f} s left" if k else ""
            say(f"fold {k + 1} of {folds}{left}", err=json)

        result, intervals = cross_validate(
            config,
            sources,
            folds=folds,
            seed=seed,
            units=read_units(data.path),
            path=kept,
            progress=told,
            device=device,
        )
    stages = {name: record.key for name, record in run.records().items()}
    result = result.model_copy(update={"stages": stages})
    (run.path / "metrics").mkdir(exist_ok=True)
    write_json(run.path / "metrics" / "folds.json", result.to_dict())
    if stages:
        kept_margins = _gap_margins(read_intervals(run), intervals)
        write_intervals(
            run, replace(intervals, margins={**kept_margins, **intervals.margins}), stages
        )
    shutil.rmtree(kept)
    if json:
        show_json(result.to_dict())
        return
    show(_table(path, result))
    if result.sentence:
        say(result.sentence)
    if stages:
        say("intervals of 'mvflow impute' have the margins that all these rows need together")


def _gap_margins(
    earlier: CalibratedIntervals | None, intervals: CalibratedIntervals
) -> dict[str, NDArray[np.float64]]:
    """Margins of single values that 'mvflow evaluate' has measured, which folds do not measure."""
    if earlier is None or earlier.levels != intervals.levels or earlier.draws != intervals.draws:
        return {}
    return {
        key: margin
        for key, margin in earlier.margins.items()
        if key.partition("->")[2] in key.partition("->")[0].split("+")
    }


def _table(path: Path, result: CrossValidation) -> Table:
    from mvflow.evaluation.predictions import measure_of_kind

    table = Table(
        title=f"{path}: {result.rows} rows in {result.folds} folds", title_justify="left"
    )
    for title in ("direction", "measure", "model", "ridge", "neighbours"):
        is_name = title in ("direction", "measure")
        table.add_column(title, justify="left" if is_name else "right", no_wrap=is_name)
    table.add_column(f"{100 * LEVEL:.0f} % intervals hold", justify="right")
    for key, found in result.predictions.items():
        interval = found.model.intervals.get(LEVEL)
        held = "-"
        if interval is not None:
            held = _number(interval.coverage)
            if interval.calibrated_coverage is not None:
                held += f"; calibrated {_number(interval.calibrated_coverage)}"
        scores = {"model": found.model, **found.baselines}
        table.add_row(key, MEASURES[found.measure], *_values(scores, found.measure), held)
        for kind, of_kind in found.by_kind.items():
            own = {"model": of_kind.model, **of_kind.baselines}
            measure = measure_of_kind(kind)
            table.add_row(
                "", f"{MEASURES[measure]}, {kind} ({of_kind.columns})", *_values(own, measure), ""
            )
    return table


def _values(scores: Mapping[str, Scores], measure: str) -> Iterator[str]:
    for name in ("model", "ridge", "neighbours"):
        yield _number(getattr(scores[name], measure) if name in scores else None)


def _number(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.mean:.3f} ± {value.standard_error:.3f}"
