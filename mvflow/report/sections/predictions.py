"""Tables: how well each modality is predicted from others, beside baselines, column by column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.core import derive_seed, intensities
from mvflow.evaluation.predictions import measure_of_kind
from mvflow.evaluation.scoring import MEASURES
from mvflow.metrics import Estimate
from mvflow.report.context import Context
from mvflow.report.entry import Entry
from mvflow.report.figure_store import Image
from mvflow.report.figures.predictions import Points, coverage_levels, predicted_against_true
from mvflow.report.figures.sheet import known_values
from mvflow.report.sections.samples import choose_rows
from mvflow.report.sections.scores import number
from mvflow.report.tables import MAX_NAMES, Cell, Table, matrix
from mvflow.report.words import signed

if TYPE_CHECKING:
    from mvflow.evaluation import Evaluation
    from mvflow.evaluation.predictions import Prediction, PredictionMeans, Scores

__all__ = ["predictions"]

ROWS, DRAWS, WORST_COLUMNS, MAX_PANELS = 60, 20, 3, 6
CAPTIONS = {
    "r2": "R² of the mean of draws",
    "deviance": "Poisson deviance of counts (no colour; lower is better)",
    "accuracy": "accuracy of classes",
}


def predictions(context: Context) -> dict[str, Any] | None:
    """For each model the scores of all directions, figures of some, and the worst columns."""
    parts = [_part(context, e, m) for e, m in context.measured if m.predictions]
    return {"parts": parts} if parts else None


def _part(context: Context, entry: Entry, metrics: Evaluation) -> dict[str, Any]:
    names, every = entry.names, metrics.predictions
    cells = {key: _cell(p) for key, p in every.items()}
    largest = sorted(_from_most(every), key=lambda p: names.index(p.target))
    found = {p.measure for p in every.values()}
    shown = " or ".join(words for measure, words in CAPTIONS.items() if measure in found)
    caption = (
        f"{shown}, and the best of the baselines in small; red where that is the better one "
        "beyond noise."
    )
    images = [_scatter(context, entry, largest), _levels(context, entry, largest)]
    return {
        "name": entry.name,
        "sentence": metrics.prediction_sentence,
        "matrix": matrix(cells, names, caption),
        "sizes": _sizes(metrics.predictions_by_observed),
        "images": [image for image in images if image is not None],
        "kinds": _kinds(largest),
        "columns": _worst_columns(largest),
        "rows": max((p.rows for p in every.values()), default=0),
        "baseline_rows": max((p.baseline_rows for p in every.values()), default=0),
    }


def _value(scores: Scores, measure: str) -> float:
    estimate: Estimate | None = getattr(scores, measure)
    return math.nan if estimate is None else estimate.mean


def _cell(prediction: Prediction) -> Cell:
    """The model's score, the best baseline's beside it, and whether that one wins."""
    measure = prediction.measure
    value = _value(prediction.model, measure)
    sign = -1 if measure == "deviance" else 1
    rivals = {
        name: _value(scores, measure)
        for name, scores in prediction.baselines.items()
        if math.isfinite(_value(scores, measure))
    }
    best = max(rivals, key=lambda name: sign * rivals[name], default="")
    note = f"{best} {signed(rivals[best])}" if best else ""
    shade = None if measure == "deviance" else round(min(max(value, 0.0), 1.0), 3)
    is_beaten = prediction.winner not in ("model", "tied")
    kind = "number beaten" if is_beaten else "number"
    return Cell(number(value), note, kind, shade if math.isfinite(value) else None)


def _from_most(every: dict[str, Prediction]) -> list[Prediction]:
    """Of each target the prediction with the most modalities given."""
    chosen: dict[str, Prediction] = {}
    for prediction in every.values():
        known = chosen.get(prediction.target)
        if known is None or len(prediction.given) > len(known.given):
            chosen[prediction.target] = prediction
    return list(chosen.values())[:MAX_NAMES]


def _sizes(means: dict[int, PredictionMeans]) -> Table | None:
    """By number of observed modalities: R² of all predictors, coverage of 90 % intervals."""
    if not means:
        return None
    every = {k for m in means.values() for k in (*m.r2, *m.accuracy)} - {"constant"}
    methods = sorted(every, key=lambda name: (name != "model", name))
    rows: list[list[Cell | str]] = []
    for size, mean in means.items():
        scores = [(mean.r2 or mean.accuracy).get(method) for method in methods]
        shares = [(c.get(0.9)) for c in (mean.coverage, mean.calibrated_coverage)]
        rows.append(
            [
                f"{size} observed",
                Cell(str(mean.directions), kind="number"),
                *(Cell(number(s.mean if s else None, 3), kind="number") for s in scores),
                *(Cell(f"{100 * s.mean:.0f} %" if s else "–", kind="number") for s in shares),
            ]
        )
    header = ["", "directions", *methods, "90 % intervals hold", "calibrated"]
    return Table("Mean over directions, by number of observed modalities.", header, rows)


def _scatter(context: Context, entry: Entry, chosen: list[Prediction]) -> Image | None:
    """Predicted against true values of some test rows, a panel for each target."""
    rows = choose_rows(entry.test, ROWS, context.seed)
    x, points = entry.take(rows), []
    for prediction in [p for p in chosen if p.kind != "classes"][:MAX_PANELS]:
        seed = derive_seed(context.seed, "report predictions", *prediction.given)
        z = entry.estimator.draw(entry.observed(x, prediction.given), DRAWS, seed=seed)
        decoded = entry.estimator.decode(z.z, [prediction.target], covariates=z.covariates)
        made = decoded[prediction.target].mean(0)
        label = f"{_given(prediction)} → {prediction.target}"
        r2 = _value(prediction.model, prediction.measure)
        title = f"{label}, {MEASURES[prediction.measure]} {r2:.2f}"
        true = intensities(known_values(x, prediction.target))
        points.append(Points(title, np.ravel(true), np.ravel(made)))
    if not points:
        return None
    titles = "; ".join(p.title for p in points)
    caption = (
        "Predicted (mean of draws) against true values of all columns, in the units of the store; "
        "on the line, all is right. Values that are absent are left out."
    )
    alt = f"Predicted against true values by {entry.name}. {titles}."
    figure = predicted_against_true(points)
    return context.figures.show(figure, f"predictions-{entry.name}", alt, "", caption)


def _given(prediction: Prediction) -> str:
    given = prediction.given
    return " + ".join(given) if len(given) < 4 else f"all {len(given)} others"


def _levels(context: Context, entry: Entry, chosen: list[Prediction]) -> Image | None:
    """Share of true values in intervals of each level, as drawn and calibrated."""
    lines = {
        f"{_given(p)} → {p.target}": [
            (level, i.coverage.mean, None if (c := i.calibrated_coverage) is None else c.mean)
            for level, i in sorted(p.model.intervals.items())
        ]
        for p in chosen[:MAX_PANELS]
        if p.model.intervals
    }
    if not lines:
        return None
    ends = "; ".join(
        f"{label}: "
        + ", ".join(f"{100 * level:g} % hold {100 * raw:.0f} %" for level, raw, _ in v)
        for label, v in lines.items()
    )
    caption = (
        "Share of true values in central intervals, against what they claim: below the dotted "
        "line they claim too much. Calibrated ones were widened on other held-out rows."
    )
    alt = f"Coverage of prediction intervals by {entry.name}. {ends}."
    figure = coverage_levels(lines)
    return context.figures.show(figure, f"intervals-{entry.name}", alt, "", caption)


def _kinds(chosen: list[Prediction]) -> Table | None:
    """By target and kind of column: R² or accuracy of all predictors, and log loss."""
    known = [(p, kind, of) for p in chosen for kind, of in p.by_kind.items()]
    methods = ["model", *dict.fromkeys(name for _, _, of in known for name in of.baselines)]
    rows: list[list[Cell | str]] = []
    for p, kind, of in known:
        measure = measure_of_kind(kind)
        scores = {"model": of.model, **of.baselines}
        losses = [_value(s, "log_loss") for s in scores.values()]
        rows.append(
            [
                Cell(f"{of.columns} of {kind}", f"of {p.target}"),
                MEASURES[measure],
                *(
                    Cell(
                        number(_value(scores[m], measure) if m in scores else None), kind="number"
                    )
                    for m in methods
                ),
                Cell(
                    number(losses[0], 3),
                    f"best baseline {min(losses[1:]):.3f}"
                    if losses[1:] and math.isfinite(losses[0])
                    else "",
                    "number",
                ),
            ]
        )
    caption = (
        "Columns by what they hold, predicted from the most others; log loss in nats, of yes or "
        "no, classes and grades."
    )
    header = ["columns", "measure", *methods, "log loss"]
    return Table(caption, header, rows) if rows else None


def _worst_columns(chosen: list[Prediction]) -> Table | None:
    """By target, the columns with the lowest R², by name."""
    rivals = sorted({k for p in chosen for c in p.columns for k in c.baselines} - {"constant"})
    rows: list[list[Cell | str]] = [
        [
            Cell(column.name, f"of {p.target}"),
            *(
                Cell(number(value), kind="number")
                for value in (column.r2, *(column.baselines.get(k) for k in rivals))
            ),
            Cell(f"{column.rmse:.3g}", kind="number"),
            Cell(number(column.correlation), kind="number"),
            Cell(_percent(column.coverage), _percent(column.calibrated_coverage), "number"),
        ]
        for p in chosen
        for column in p.columns[:WORST_COLUMNS]
    ]
    header = ["column", "R²", *rivals, "RMSE", "correlation", "90 % intervals hold (calibrated)"]
    caption = "The worst columns of each modality, predicted from the most others; file units."
    return Table(caption, header, rows) if rows else None


def _percent(share: float | None) -> str:
    return "" if share is None or not math.isfinite(share) else f"{100 * share:.0f} %"
