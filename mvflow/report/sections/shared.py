"""What projections of single modalities hold: what is shared, and what should not be there."""

from __future__ import annotations

from mvflow.core import factor_name
from mvflow.report.entry import Entry
from mvflow.report.figures.charts import colour, correlation_dots
from mvflow.report.markup import HTML, join, section, table, tag
from mvflow.report.sections.context import Context, Score, columns, comparison, figures

__all__ = ["shared"]

MAX_LISTED = 3
"""Correlations beyond this number are drawn as well as listed."""

INTRO = (
    "What the projections of two modalities have in common on test rows: canonical correlations, "
    "from 1 (the same information) to 0 (none). Dimensions near 0 carry nothing that is shared: "
    "they could be fewer."
)
TRACES = (
    "How much of each known factor a projection still tells (R² of a linear fit, 0 to 1). A "
    "factor that belongs to one modality alone, such as its size, should be near 0: what is left "
    "of it is not shared, and it narrows the posteriors for nothing."
)


def shared(context: Context) -> HTML:
    """Correlations between projections, and traces of factors; nothing if no model has any."""
    known = [(i, e) for i, e in enumerate(context.entries) if _correlations(e)]
    if not known:
        return join([])
    parts: list[object] = [tag("p", INTRO)]
    if any(len(v) > MAX_LISTED for _, e in known for v in _correlations(e).values()):
        parts.append(_chart(context, known))
    rows = [
        [entry.name, pair.replace("~", " and "), ", ".join(f"{v:.3f}" for v in values)]
        for _, entry in known
        for pair, values in _correlations(entry).items()
    ]
    header = ["model", "modalities", "correlations, largest first"]
    parts += [table(header, rows, "Canonical correlations of the projections."), *_traces(known)]
    return section("shared", "Shared information", *parts)


def _correlations(entry: Entry) -> dict[str, list[float]]:
    found = entry.metrics and entry.metrics.shared
    return found.correlations if found else {}


def _chart(context: Context, known: list[tuple[int, Entry]]) -> HTML:
    lines, shades = {}, []
    for i, entry in known:
        for k, (pair, values) in enumerate(_correlations(entry).items()):
            prefix = f"{entry.name}: " if len(known) > 1 else ""
            lines[prefix + pair.replace("~", ", ")] = values
            shades.append(colour(k if len(known) == 1 else i))
    said = "; ".join(f"{label}: {v[0]:.2f} to {v[-1]:.2f}" for label, v in lines.items())
    alt = f"Canonical correlations by dimension. {said}."
    return figures(
        context.figures.show(correlation_dots(lines, shades), "shared", alt, vector=True)
    )


def _traces(known: list[tuple[int, Entry]]) -> list[HTML]:
    """A row for each model and modality, a column for each factor."""
    found = {
        f"{entry.name}: {name}": traces
        for _, entry in known
        if entry.metrics and entry.metrics.shared
        for name, traces in entry.metrics.shared.factors_r2.items()
    }
    factors = columns(list(found.values()))
    if not factors:
        return []
    scores = {
        factor_name(known[0][1].test, factor): [
            Score(traces[factor]) if factor in traces else None for traces in found.values()
        ]
        for factor in factors
    }
    caption = "R² of known factors on the projections."
    return [tag("p", TRACES), comparison(scores, list(found), caption, 2, best=False)]
