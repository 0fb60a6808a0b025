"""Are the posteriors right? Simulation-based calibration in words and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvflow.report.entry import Entry
from mvflow.report.figures.calibration import coverage_curves, rank_histograms
from mvflow.report.markup import HTML, join, section, table, tag
from mvflow.report.sections.context import Context, figures

if TYPE_CHECKING:
    from mvflow.evaluation import Calibration
    from mvflow.evaluation.calibration_result import SubsetCalibration

__all__ = ["calibration"]

MAX_SHOWN = 12
"""Of more subsets, the histograms of those that are worst calibrated are shown."""

INTRO = (
    "Each of many true values of z is ranked among draws of z given some modalities. If the draws "
    "are right, every rank is as likely as any other and the histograms are flat, up to the grey "
    "band, which holds 99 of 100 bars. A valley in the middle means that posteriors are too "
    "narrow, a hill that they are too wide, a slope that they are shifted."
)
CURVES = (
    "Left: an interval that claims 80 % should hold 80 % of the true values; a curve below the "
    "dotted line claims too much. Right: where ranks pile up, for the worst coordinate of "
    "z; any one coordinate of a calibrated posterior stays in the grey band in 95 of 100 cases."
)


def calibration(context: Context) -> HTML:
    """A verdict on each subset's posterior; nothing if no model was diagnosed."""
    known = [(e, e.calibration) for e in context.entries if e.calibration is not None]
    if not known:
        return join([])
    parts: list[HTML] = [tag("p", INTRO)]
    for entry, found in known:
        parts += [tag("h3", entry.name), tag("p", _scope(found)), _table(found)]
        parts += _figures(context, entry, _subsets(found))
    return section("calibration", "Are the posteriors right?", *parts)


def _scope(found: Calibration) -> str:
    words = f"{found.rows} rows. {found.meaning}"
    if found.outside_ball > 0.01:
        words += (
            f" {100 * found.outside_ball:.0f} % of the true values lie outside the ball within "
            "which z is drawn, and cannot be found."
        )
    return words


def _subsets(found: Calibration) -> dict[str, SubsetCalibration]:
    """What was found of each subset, the small ones first."""
    return dict(sorted(found.subsets.items(), key=lambda item: (len(item[1].given), item[0])))


def _table(calibration: Calibration) -> HTML:
    subsets = _subsets(calibration)
    levels = list(next(iter(subsets.values())).coverage)
    claimed = " · ".join(f"{100 * float(c):g}" for c in levels)
    header = ["given", f"{claimed} % intervals hold", "test", "verdict", "what to do"]
    rows = []
    for name, found in subsets.items():
        held = " · ".join(f"{100 * _mean(found.coverage[c]):.0f}" for c in levels)
        rows.append([
            name.replace("+", " + "),
            tag("td", f"{held} %", class_="number"),
            tag("td", f"p {_p_value(found.p_value)}", class_="number"),
            _pill(found.verdict),
            _advice(found),
        ])  # fmt: skip
    caption = (
        "Share of true values in central intervals that claim 50, 80 and 95 % (mean over z); p is "
        f"corrected for {calibration.tests} tests."
    )
    return table(header, rows, caption, "words")


def _p_value(value: float) -> str:
    """A p-value for readers.

    Examples:
        >>> _p_value(1e-9), _p_value(0.0312), _p_value(1.0)
        ('< 0.001', '= 0.031', '= 1.000')
    """
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _pill(verdict: str) -> HTML:
    return tag("span", verdict, class_=f"pill {verdict.replace(' ', '-')}")


def _advice(found: SubsetCalibration) -> HTML:
    sampler = found.sampler
    if sampler.verdict == "good":
        return join([found.advice])
    return join([found.advice, tag("br"), f"Sampler, {sampler.verdict}: ", sampler.advice])


def _figures(context: Context, entry: Entry, subsets: dict[str, SubsetCalibration]) -> list[HTML]:
    worst = sorted(subsets, key=lambda name: subsets[name].p_value)[:MAX_SHOWN]
    shown = {name: found for name, found in subsets.items() if name in worst}
    said = "; ".join(f"given {name}: {found.kind}" for name, found in shown.items())
    covered = "; ".join(
        f"given {name}: {100 * _mean(found.coverage['0.8']):.0f} %"
        for name, found in subsets.items()
    )
    histograms = context.figures.show(
        rank_histograms(shown), f"calibration-ranks-{entry.name}",
        f"Histograms of the ranks of true values of z by {entry.name}; {said}.",
        "Ranks of true values among draws, the worst coordinate of z for each subset.",
        vector=True,
    )  # fmt: skip
    curves = context.figures.show(
        coverage_curves(subsets), f"calibration-coverage-{entry.name}",
        f"Coverage of intervals and distribution of ranks by {entry.name}. Intervals that claim "
        f"80 % hold, {covered}.", CURVES, vector=True,
    )  # fmt: skip
    return [figures(histograms, kind="wide"), figures(curves, kind="wide")]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
