"""Tables as plain values: scores side by side, matrices of directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mvflow.metrics import Estimate
from mvflow.report.words import signed

__all__ = ["Cell", "Table", "columns", "comparison", "matrix", "score_row"]

MAX_COLUMNS = 6
"""Beyond this, a comparison shows its columns as rows."""
MAX_NAMES = 12
"""Modalities, directions or subsets that one table or series of figures shows at most."""
OTHERS = "all others"


class Cell(NamedTuple):
    """What stands in one field of a table."""

    text: str
    note: str = ""
    """Smaller, beside it."""
    kind: str = ""
    """Class of the cell: number, pill, best."""
    shade: float | None = None
    """Strength of its background, 0 to 1."""
    span: int = 1


class Table(NamedTuple):
    """Rows whose first cells are their headings."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    kind: str = ""
    """"words" stacks the cells of a row on narrow screens."""


def columns(maps: Iterable[Mapping[Any, Any] | None]) -> list[Any]:
    """Keys of all maps, in the order in which they first appear."""
    return list(dict.fromkeys(key for mapping in maps for key in mapping or ()))


def score_row(maps: Iterable[Mapping[Any, Estimate] | None], key: Any) -> list[Estimate | None]:
    """What each model's map has under a key."""
    return [mapping.get(key) if mapping else None for mapping in maps]


def comparison(
    scores: Mapping[str, Sequence[Estimate | None]],
    names: Sequence[str],
    caption: str,
    digits: int,
    *,
    best: bool = False,
) -> Table:
    """Models against scores.

    Args:
        scores: label -> score of each model.
        names: of the models.
        caption: of the table.
        digits: decimals.
        best: mark the largest of each score if it is so beyond noise.
    """
    cells = {label: _marked(values, digits, best) for label, values in scores.items()}
    if best and len(names) > 1:
        caption += " Best in bold."
    rows: list[list[Cell | str]] = [[label, *row] for label, row in cells.items()]
    if len(scores) > MAX_COLUMNS:
        return Table(caption, ["", *names], rows)
    rows = [[name, *(row[i] for row in cells.values())] for i, name in enumerate(names)]
    return Table(caption, ["model", *cells], rows)


def _marked(scores: Sequence[Estimate | None], digits: int, best: bool) -> list[Cell]:
    known = sorted((s for s in scores if s is not None), key=lambda s: -s.mean)
    first = None
    if best and len(known) > 1:
        errors = [s.standard_error for s in known[:2]]
        noise = 2 * math.hypot(*(0.0 if math.isnan(e) else e for e in errors))
        is_apart = round(known[0].mean, digits) > round(known[1].mean, digits)
        first = known[0] if is_apart and known[0].mean - known[1].mean > noise else None
    return [_number(score, digits, score is not None and score is first) for score in scores]


def _number(score: Estimate | None, digits: int, best: bool = False) -> Cell:
    if score is None:
        return Cell("–", kind="number")
    error = score.standard_error
    note = f"± {error:.{digits}f}" if math.isfinite(error) else ""
    return Cell(signed(score.mean, digits), note, "number best" if best else "number")


def matrix(
    scores: Mapping[str, Cell], names: Sequence[str], caption: str, corner: str = "given"
) -> Table:
    """Scores of directions: what is given down, what is generated across.

    Args:
        scores: direction -> cell; those from one modality, and from all others, have a place.
        names: of all modalities.
        caption: of the table.
        corner: heading of the first column.
    """
    shown, empty = list(names[:MAX_NAMES]), Cell("", kind="number")
    rows: list[list[Cell | str]] = [
        [given, *(scores.get(f"{given}->{target}", empty) for target in shown)] for given in shown
    ]
    others = {t: "+".join(sorted(n for n in names if n != t)) for t in shown}
    if len(names) > 2:
        rows.append([OTHERS, *(scores.get(f"{others[t]}->{t}", empty) for t in shown)])
    if len(shown) < len(names):
        caption += f" The first {len(shown)} of {len(names)} modalities."
    kept = [row for row in rows if any(isinstance(c, Cell) and c.text for c in row)]
    return Table(caption, [corner, *(f"→ {name}" for name in shown)], kept, "matrix")
