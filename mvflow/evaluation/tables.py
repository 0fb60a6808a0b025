"""A comparison as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from mvflow.evaluation.compare import ComparedSystem, Comparison, Measure
from mvflow.evaluation.published import Figure

__all__ = ["as_csv", "as_json", "as_latex", "as_markdown", "cells", "headings"]

NONE = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "–": "--", "≥": r"$\geq$", "∞": r"$\infty$", "²": r"$^2$",
    "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
Mark = Callable[[str, str], str]
"""From a number and "best", "second", "tied" or "" to the marked number."""


def headings(comparison: Comparison) -> list[str]:
    """Titles of the columns; a measure's arrow points to where better is."""
    found = ["model", "seeds"]
    for measure in comparison.measures:
        found.append(f"{measure.title} {'↓' if measure.lower_is_better else '↑'}")
        if _has_paper(comparison, measure):
            found.append("paper")
    return found


def cells(comparison: Comparison, system: ComparedSystem, mark: Mark) -> list[str]:
    """One row: mean ± standard deviation over seeds, or standard error of one seed, marked."""
    found = [system.label, str(len(system.seeds)) if system.seeds else "paper"]
    for measure in comparison.measures:
        spread = system.deviation(measure.key)
        if spread is None and len(system.seeds) == 1:
            spread = system.error(measure.key) or None
        shown = _number(system.mean(measure.key), spread, measure.digits)
        found.append(mark(shown, comparison.mark(measure, system)))
        if _has_paper(comparison, measure):
            found.append(_printed(system.paper.get(measure.key)))
    return found


def as_markdown(comparison: Comparison) -> str:
    """A Markdown table with its notes; best in bold, second underlined, tied in italics."""

    def mark(number: str, place: str) -> str:
        marks = {"best": f"**{number}**", "second": f"<u>{number}</u>", "tied": f"*{number}*"}
        return marks.get(place, number)

    rows = [headings(comparison), *(cells(comparison, s, mark) for s in comparison.systems)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    notes = "".join(f"- {note}\n" for note in comparison.notes)
    return "\n".join(lines) + f"\n\n{_caption(comparison)}\n" + (f"\n{notes}" if notes else "")


def as_latex(comparison: Comparison) -> str:
    """A LaTeX table that needs the package booktabs; marks as in `as_markdown`."""

    def mark(number: str, place: str) -> str:
        shown = _latex(number)
        marks = {"best": rf"\textbf{{{shown}}}", "second": rf"\underline{{{shown}}}"}
        marks["tied"] = rf"\textit{{{shown}}}"
        return marks.get(place, shown)

    def line(row: list[str]) -> str:
        return " & ".join(row) + r" \\"

    head = line([_latex(title) for title in headings(comparison)])
    body = []
    for system in comparison.systems:
        first, seeds, *rest = cells(comparison, system, mark)
        numbers = [cell.replace("±", LATEX["±"]).replace("–", "--") for cell in rest]
        body.append(line([_latex(first), seeds, *numbers]))
    columns = "l" * 2 + "c" * (len(headings(comparison)) - 2)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            rf"\caption{{{_latex(_caption(comparison))}}}",
            r"\par\footnotesize\raggedright",
            *(rf"{_latex(note)}.\par" for note in comparison.notes),
            r"\end{table}",
            "",
        ]
    )


def as_csv(comparison: Comparison) -> str:
    """One line for each system and measure, all measures, every seed's value at the end."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ["mean", "standard_deviation", "worst", "paper_mean", "paper_standard_deviation"]
    writer.writerow(["model", "measure", "seeds", *fields, "values", "caveats"])
    for label, found in as_json(comparison)["systems"].items():
        for key, about in found["measures"].items():
            values = " ".join("" if v is None else repr(v) for v in about["values"])
            row = ["" if about[field] is None else about[field] for field in fields]
            said = "; ".join(found["caveats"])
            writer.writerow([label, key, len(found["seeds"]), *row, values, said])
    return out.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything: columns of the table, and for each system all measures of all seeds."""
    return {
        "columns": [
            {"key": m.key, "title": m.title, "better": "low" if m.lower_is_better else "high"}
            for m in comparison.measures
        ],
        "systems": {
            system.label: {
                "seeds": list(system.seeds),
                "measures": {key: _about(system, key) for key in _keys(system)},
                "caveats": list(system.caveats),
            }
            for system in comparison.systems
        },
        "paper": comparison.paper,
        "notes": list(comparison.notes),
    }


def _about(system: ComparedSystem, key: str) -> dict[str, Any]:
    printed, known = system.paper.get(key), system.known(key)
    low = ("frechet", "reconstruction", "gap", "information", "divergence", "excess")
    is_low = key.startswith(low)
    has_worst = known and not key.startswith("diversity")  # neither end of it is the better one
    return {
        "mean": system.mean(key),
        "standard_deviation": system.deviation(key),
        "worst": (max(known) if is_low else min(known)) if has_worst else None,
        "values": [v and v.mean for v in system.values.get(key, [])],
        "standard_errors": [v and v.standard_error for v in system.values.get(key, [])],
        "paper_mean": printed.mean if printed else None,
        "paper_standard_deviation": printed.deviation if printed else None,
    }


def _keys(system: ComparedSystem) -> list[str]:
    return list(dict.fromkeys([*system.values, *system.paper]))


def _has_paper(comparison: Comparison, measure: Measure) -> bool:
    return any(measure.key in system.paper for system in comparison.systems)


def _number(mean: float | None, deviation: float | None, digits: int) -> str:
    if mean is None:
        return NONE
    shown = f"{mean:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return shown if deviation is None else f"{shown} ± {deviation:.{digits}f}"


def _printed(figure: Figure | None) -> str:
    """As the paper prints it: two decimals, more below a hundredth, none where it has none."""
    if figure is None:
        return NONE
    shown = [
        str(v) if isinstance(v, int) or 0 < v < 0.01 else f"{v:.2f}"
        for v in figure
        if v is not None
    ]
    return " ± ".join(shown)


def _caption(comparison: Comparison) -> str:
    seeds = {len(s.seeds) for s in comparison.measured}
    what = "Mean ± standard deviation over seeds"
    if max(seeds) == 1:
        what = "One seed each ± standard error of the test rows"
    marks = ""
    if len(comparison.measured) > 1:
        marks = (
            "best in bold and second underlined where the difference exceeds two standard errors, "
            "in italics what is not told apart from the best"
        )
    return "; ".join(filter(None, [what, marks])) + "."


def _latex(text: str) -> str:
    """Text with what LaTeX reads as commands written out."""
    return "".join(LATEX.get(c, c) for c in text.replace("\N{MINUS SIGN}", "--"))
