"""Can the draws be trusted, and are the posteriors right?"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from mvflow.evaluation.checks import Check
from mvflow.evaluation.verdicts import evaluation_checks, subset_checks
from mvflow.report.context import Context
from mvflow.report.entry import Entry
from mvflow.report.figures.calibration import coverage_curves, rank_histograms
from mvflow.report.tables import MAX_NAMES, Cell, Table

if TYPE_CHECKING:
    from mvflow.evaluation import Calibration
    from mvflow.evaluation.calibration_result import SubsetCalibration

__all__ = ["calibration", "sampler"]

MEANINGS = {
    "Importance weights": "how many draws of the experts truly count",
    "Acceptance": "share of the sampler's proposals that were taken; it aims at 0.8",
    "Divergences": "steps that ran away numerically",
    "R-hat": "whether chains started apart end alike; 1 is perfect",
    "Effective sample size": "how many independent draws a row's steps are worth",
    "Proper target": "whether the product can be a density at all, without the ball",
    "Ball contacts": "how often the sampler left the region that training saw",
    "Share redrawn": "draws given one modality that fell outside that region",
}


def sampler(context: Context) -> dict[str, Any]:
    """A verdict on each diagnostic, and what to do about it."""
    measured = [m for _, m in context.measured]
    return {
        "tables": [(entry.name, _checks(entry)) for entry, _ in context.measured],
        "is_exact": bool(measured) and all(m.sampler.method == "exact" for m in measured),
        "is_never_needed": all(len(e.names) <= 2 for e in context.entries),
    }


def _checks(entry: Entry) -> Table | None:
    assert entry.metrics is not None
    summary, settings = entry.metrics.sampler, entry.estimator.config.sampler
    checks = evaluation_checks(entry.metrics, entry.estimator.config)
    checks += subset_checks(entry.metrics, entry.estimator.config)[:MAX_NAMES]
    caption = "Draws given one modality."
    if len(entry.names) > 2 and summary.method != "exact":
        words = [f"{k.replace('_', ' ')} {v}".lower() for k, v in settings.to_dict().items()]
        caption = f"{summary.name}, {summary.rows} rows; {', '.join(words)}."
    header = ["check", "value", "verdict", "what to do"]
    return Table(caption, header, [_row(c) for c in checks], "words") if checks else None


def _row(check: Check) -> list[Cell | str]:
    name = Cell(check.name, MEANINGS.get(check.name, ""))
    return [name, check.value, Cell(check.verdict, kind="pill"), check.advice]


def calibration(context: Context) -> dict[str, Any] | None:
    """A verdict on each subset's posterior; nothing if no model was diagnosed."""
    known = [(e, e.calibration) for e in context.entries if e.calibration is not None]
    return {"parts": [_diagnosis(context, *pair) for pair in known]} if known else None


def _diagnosis(context: Context, entry: Entry, diagnosis: Calibration) -> dict[str, Any]:
    outside = 100 * diagnosis.outside_ball
    worst = sorted(diagnosis.subsets.items(), key=lambda item: item[1].p_value)[:MAX_NAMES]
    subsets = dict(sorted(worst, key=lambda item: (len(item[1].given), item[0])))
    kinds = "; ".join(f"given {name}: {s.kind}" for name, s in subsets.items())
    held = "; ".join(
        f"given {name}: {100 * fmean(s.coverage['0.8']):.0f} %" for name, s in subsets.items()
    )
    ranks = context.figures.show(
        rank_histograms(subsets),
        f"calibration-ranks-{entry.name}",
        f"Histograms of the ranks of true values of z by {entry.name}; {kinds}.",
        "",
        "Ranks of true values among draws, the worst coordinate of z for each subset.",
    )
    curves = context.figures.show(
        coverage_curves(subsets),
        f"calibration-coverage-{entry.name}",
        f"Coverage of intervals and distribution of ranks by {entry.name}. Intervals that claim "
        f"80 % hold, {held}.",
    )
    return {
        "name": entry.name,
        "rows": f"{diagnosis.rows:,}",
        "meaning": diagnosis.meaning,
        "outside": f"{outside:.0f}" if outside > 1 else "",
        "table": _subset_table(diagnosis, subsets),
        "left_out": len(diagnosis.subsets) - len(subsets),
        "images": [ranks, curves],
    }


def _subset_table(diagnosis: Calibration, subsets: dict[str, SubsetCalibration]) -> Table:
    levels = list(next(iter(subsets.values())).coverage)
    claimed = " · ".join(f"{100 * float(c):g}" for c in levels)
    rows: list[list[Cell | str]] = []
    for name, subset in subsets.items():
        held = " · ".join(f"{100 * fmean(subset.coverage[c]):.0f}" for c in levels)
        is_sound = subset.sampler.verdict == "good"
        advice = "" if is_sound else f"Sampler, {subset.sampler.verdict}: {subset.sampler.advice}"
        p = "< 0.001" if subset.p_value < 0.001 else f"= {subset.p_value:.3f}"
        rows.append(
            [
                name.replace("+", " + "),
                Cell(f"{held} %", kind="number"),
                Cell(f"p {p}", kind="number"),
                Cell(subset.verdict, kind="pill"),
                Cell(subset.advice, advice),
            ]
        )
    caption = (
        "Share of true values in central intervals that claim 50, 80 and 95 % (mean over z); p is "
        f"corrected for {diagnosis.tests} tests."
    )
    header = ["given", f"{claimed} % intervals hold", "test", "verdict", "what to do"]
    return Table(caption, header, rows, "words")
