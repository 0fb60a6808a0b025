"""The head of the page: the verdict, the numbers that matter in plain words, and what to do."""

from __future__ import annotations

import math
from typing import Any

from mvflow.report.context import Context
from mvflow.report.entry import Entry
from mvflow.report.words import readings

__all__ = ["reading"]

LOW_ACCURACY = 0.9
"""Below this, a classifier is too weak to measure generated rows by."""


def reading(context: Context) -> dict[str, Any]:
    """A card for each model."""
    weak = {
        name: round(100 * accuracy)
        for _, metrics in context.measured
        for name, accuracy in metrics.classifiers.items()
        if accuracy < LOW_ACCURACY
    }
    cards = [_card(entry) for entry in context.entries]
    return {"cards": cards, "comparison": _comparison(context), "weak": weak}


def _card(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "what": ", ".join(entry.facts[k] for k in ("system", "posterior") if k in entry.facts),
        "judgement": entry.judgement,
        "readings": readings(entry),
        "is_measured": entry.metrics is not None,
    }


def _comparison(context: Context) -> dict[str, Any] | None:
    """Which model has the best conditional coherence, if the difference is more than chance."""
    scores = {
        entry.name: metrics.coherence.conditional_by_observed[1]
        for entry, metrics in context.measured
        if metrics.coherence and metrics.coherence.conditional_by_observed
    }
    if len(scores) < 2:
        return None
    best = max(scores, key=lambda name: scores[name].mean)
    worst = min(scores, key=lambda name: scores[name].mean)
    noise = 200 * math.hypot(scores[best].standard_error, scores[worst].standard_error)
    shares = [f"{100 * scores[name].mean:.1f} %" for name in (best, worst)]
    return {"best": best, "worst": worst, "shares": shares, "noise": f"{noise:.1f}"}
