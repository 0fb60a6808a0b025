"""A comparison as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

from mvflow.evaluation.compare import ComparedSystem, Comparison
from mvflow.evaluation.measures import Measure
from mvflow.evaluation.published import Figure

__all__ = ["as_csv", "as_json", "as_latex", "as_markdown", "cells", "headings"]

NONE = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "–": "--", "\N{MINUS SIGN}": "$-$", "≥": r"$\geq$", "∞": r"$\infty$", "²": r"$^2$",
    "[": "{[}", "*": "{*}",  # both are read as arguments of a line's end before them
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
            spread = _error(system, measure.key)
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

    rows = [[_markdown(title) for title in headings(comparison)]]
    for system in comparison.systems:
        label, *numbers = cells(comparison, system, mark)
        rows.append([_markdown(label), *numbers])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    notes = "".join(f"- {_markdown(note)}\n" for note in comparison.notes)
    return "\n".join(lines) + f"\n\n{_caption(comparison)}\n" + (f"\n{notes}" if notes else "")


def as_latex(comparison: Comparison) -> str:
    """A LaTeX table no wider than the text; marks as in `as_markdown`.

    It needs the packages booktabs and adjustbox, as its first line says.
    """

    def mark(number: str, place: str) -> str:
        shown = _signs(number)
        marks = {"best": rf"\textbf{{{shown}}}", "second": rf"\underline{{{shown}}}"}
        marks["tied"] = rf"\textit{{{shown}}}"
        return marks.get(place, shown)

    def line(row: list[str]) -> str:
        return " & ".join(row) + r" \\"

    head = line([_latex(title) for title in headings(comparison)])
    body = []
    for system in comparison.systems:
        first, seeds, *rest = cells(comparison, system, mark)
        numbers = [_signs(cell) for cell in rest]
        body.append(line([_latex(first), seeds, *numbers]))
    columns = "l" * 2 + "c" * (len(headings(comparison)) - 2)
    return "\n".join(
        [
            r"% \usepackage{booktabs, adjustbox}",
            r"\begin{table}",
            r"\centering",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{adjustbox}",
            rf"\caption{{{_latex(_caption(comparison))}}}",
            r"\par\footnotesize\raggedright",
            *(rf"{_latex(note)}.\par" for note in comparison.notes),
            r"\end{table}",
            "",
        ]
    )


def as_csv(comparison: Comparison) -> str:
    """One line for each system and measure, all measures, with every seed's value.

    Each note of the table is a line of its own at the end, without a model.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ["mean", "standard_deviation", "standard_error", "mark", "worst"]
    fields += ["paper_mean", "paper_standard_deviation"]
    lists = ["values", "standard_errors"]
    writer.writerow(["model", "measure", "seeds", *fields, *lists, "caveats"])
    every = as_json(comparison)
    for label, found in every["systems"].items():
        for key, about in found["measures"].items():
            row = ["" if about[field] is None else about[field] for field in fields]
            row += [" ".join("-" if v is None else repr(v) for v in about[name]) for name in lists]
            said = "; ".join(found["caveats"])
            writer.writerow([label, key, len(found["seeds"]), *row, said])
    for note in every["notes"]:
        writer.writerow(["", "note", 0, *[""] * len([*fields, *lists]), note])
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
                "measures": {key: _about(comparison, system, key) for key in _keys(system)},
                "caveats": list(system.caveats),
            }
            for system in comparison.systems
        },
        "paper": comparison.paper,
        "notes": list(comparison.notes),
    }


def _about(comparison: Comparison, system: ComparedSystem, key: str) -> dict[str, Any]:
    printed, known = system.paper.get(key), system.known(key)
    low = ("frechet", "reconstruction", "gap", "information", "divergence", "excess")
    is_low = key.startswith(low)
    has_worst = known and not key.startswith("diversity")  # neither end of it is the better one
    marks = [comparison.mark(m, system) for m in comparison.measures if m.key == key]
    return {
        "mean": system.mean(key),
        "standard_deviation": system.deviation(key),
        "standard_error": _error(system, key),
        "mark": marks[0] if marks else "",
        "worst": _finite(max(known) if is_low else min(known)) if has_worst else None,
        "values": [v and _finite(v.mean) for v in system.values.get(key, [])],
        "standard_errors": [v and _finite(v.standard_error) for v in system.values.get(key, [])],
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


def _error(system: ComparedSystem, key: str) -> float | None:
    """Standard error of a mean; None where there is no mean, or nothing is known of its error."""
    return None if system.mean(key) is None else _finite(system.error(key)) or None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _printed(figure: Figure | None) -> str:
    """As the paper prints it: two decimals, more where it has more, none where it has none."""
    if figure is None:
        return NONE
    shown = [
        str(v) if isinstance(v, int) or round(v, 2) != v else f"{v:.2f}"
        for v in figure
        if v is not None
    ]
    return " ± ".join(shown).replace("-", "\N{MINUS SIGN}")


def _caption(comparison: Comparison) -> str:
    seeds = {len(s.seeds) for s in comparison.measured}
    what = "Mean ± standard deviation over seeds"
    if max(seeds) == 1:
        what = "One seed each ± standard error of the test rows"
    elif 1 in seeds:
        what += ", of one seed ± standard error of the test rows"
    marks = ""
    if len(comparison.measured) > 1:
        marks = (
            "best in bold and second underlined where the difference exceeds two standard errors, "
            "in italics what is not told apart from the best"
        )
    return "; ".join(filter(None, [what, marks])) + "."


def _latex(text: str) -> str:
    """Text with what LaTeX reads as commands written out."""
    return "".join(LATEX.get(c, c) for c in text)


def _signs(number: str) -> str:
    """A marked number with the signs that LaTeX's fonts lack written out."""
    return "".join(LATEX[c] if c in "±–\N{MINUS SIGN}" else c for c in number)


def _markdown(text: str) -> str:
    """Text with what Markdown reads as marks written out."""
    return "".join(f"\\{c}" if c in "\\|*<`" else c for c in text)
