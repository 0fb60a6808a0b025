"""Loss curves of every stage, and what projections of single modalities hold."""

from __future__ import annotations

import math
from typing import Any

from mvflow.core import factor_name
from mvflow.metrics import Estimate
from mvflow.report.context import Context
from mvflow.report.entry import Entry
from mvflow.report.figure_store import Image
from mvflow.report.figures.canvas import INK, colour
from mvflow.report.figures.charts import correlation_dots, loss_curves
from mvflow.report.tables import Table, columns, comparison

__all__ = ["shared", "training"]

MAX_LISTED, MAX_PAIRS = 3, 15
"""Correlations beyond the first number are drawn as well; pairs beyond the second are not."""


def training(context: Context) -> dict[str, Any]:
    """A chart for each stage."""
    stages = columns([{r["stage"]: None for r in e.history} for e in context.entries])
    return {"images": [_chart(context, stage) for stage in stages]}


def _chart(context: Context, stage: str) -> Image:
    """One curve for each model; models that took the stage from one another share theirs."""
    curves: dict[Any, list[str]] = {}
    for entry in context.entries:
        for curve in entry.curves:
            if curve.stage == stage:
                key = curve._replace(train=tuple(curve.train), held_out=tuple(curve.held_out))
                curves.setdefault(key, []).append(entry.name)
    drawn = [
        (", ".join(names), INK if len(names) > 1 else colour(context.names.index(names[0])), curve)
        for curve, names in curves.items()
    ]
    speeds = [
        r["samples_per_second"]
        for e in context.entries
        for r in e.history
        if r["stage"] == stage and r.get("samples_per_second")
    ]
    words = [f"The same for {', '.join(names)}." for names in curves.values() if len(names) > 1]
    words += [f"At best {max(speeds):,.0f} rows per second."] if speeds else []
    last = "; ".join(
        f"{label}: {c.train[-1]:.4g} after {c.epochs} epochs" for label, _, c in drawn
    )
    alt = f"Loss curves of the stage {stage}. {last}."
    return context.figures.show(
        loss_curves(stage, drawn), f"loss-{stage}", alt, "", " ".join(words)
    )


def shared(context: Context) -> dict[str, Any] | None:
    """Correlations between projections, and traces of factors; nothing if no model has any."""
    known = [(i, e) for i, e in enumerate(context.entries) if _correlations(e)]
    if not known:
        return None
    rows = [
        [entry.name, pair.replace("~", " and "), ", ".join(f"{v:.3f}" for v in values)]
        for _, entry in known
        for pair, values in list(_correlations(entry).items())[:MAX_PAIRS]
    ]
    header = ["model", "modalities", "correlations, largest first"]
    is_long = any(len(v) > MAX_LISTED for _, e in known for v in _correlations(e).values())
    return {
        "table": Table("Canonical correlations of the projections.", header, rows),
        "image": _dots(context, known) if is_long else None,
        "traces": _traces(known),
    }


def _correlations(entry: Entry) -> dict[str, list[float]]:
    projections = entry.metrics and entry.metrics.shared
    return projections.correlations if projections else {}


def _dots(context: Context, known: list[tuple[int, Entry]]) -> Image:
    lines, shades = {}, []
    for i, entry in known:
        for k, (pair, values) in enumerate(list(_correlations(entry).items())[:MAX_PAIRS]):
            prefix = f"{entry.name}: " if len(known) > 1 else ""
            lines[prefix + pair.replace("~", ", ")] = values
            shades.append(colour(k if len(known) == 1 else i))
    ends = "; ".join(f"{label}: {v[0]:.2f} to {v[-1]:.2f}" for label, v in lines.items())
    alt = f"Canonical correlations by dimension. {ends}."
    return context.figures.show(correlation_dots(lines, shades), "shared", alt)


def _traces(known: list[tuple[int, Entry]]) -> Table | None:
    """A row for each model and modality, a column for each factor."""
    traces = {
        f"{entry.name}: {name}": r2
        for _, entry in known
        if entry.metrics and entry.metrics.shared
        for name, r2 in entry.metrics.shared.factors_r2.items()
    }
    factors = columns(list(traces.values()))
    scores = {
        factor_name(known[0][1].test, factor): [
            Estimate(r2[factor], math.nan) if factor in r2 else None for r2 in traces.values()
        ]
        for factor in factors
    }
    caption = "R² of known factors on the projections."
    return comparison(scores, list(traces), caption, 2) if factors else None
