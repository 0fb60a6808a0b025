"""What all sections share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.entry import Entry
from mvflow.report.figure_store import FigureStore
from mvflow.report.figures.sheet import PlotSpec, plot_spec
from mvflow.report.markup import HTML, table, tag
from mvflow.report.words import signed

if TYPE_CHECKING:
    from mvflow.evaluation import ModalityClassifiers

__all__ = ["Context", "Score", "columns", "comparison", "figures"]

MAX_COLUMNS = 6
"""Beyond this, a table shows its columns as rows."""


@dataclass(frozen=True)
class Context:
    """Entries of a report and the means to show them."""

    entries: tuple[Entry, ...]
    figures: FigureStore
    seed: int = 0
    classifiers: ModalityClassifiers | None = None
    specs: dict[tuple[int, str], PlotSpec] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the entries."""
        return [entry.name for entry in self.entries]

    def spec(self, entry: Entry, name: str) -> PlotSpec:
        """How a modality is drawn, on the scale of its test rows."""
        key = (id(entry.test), name)
        if key not in self.specs:
            some = entry.test.take(np.arange(min(len(entry.test), 128)))[name]
            modality = next(m for m in entry.modalities if m.name == name)
            self.specs[key] = plot_spec(modality, some)
        return self.specs[key]

    def wrong(
        self, target: str, draws: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> NDArray[np.bool_] | None:
        """Draws (n, rows, *shape) whose class is not that of their row; None if unknown."""
        if self.classifiers is None or labels is None:
            return None
        flat = draws.reshape(-1, *draws.shape[2:])
        found = self.classifiers.predict(target, flat).reshape(draws.shape[:2])
        return np.asarray(found != labels)


class Score(NamedTuple):
    """A number of a table, with its standard error where it is known."""

    value: float
    error: float | None = None


def columns(maps: Sequence[Mapping[Any, Any] | None]) -> list[Any]:
    """Keys of all maps, in the order in which they first appear."""
    return list(dict.fromkeys(key for found in maps for key in found or ()))


def comparison(
    scores: Mapping[str, Sequence[Score | None]],
    names: Sequence[str],
    caption: str,
    digits: int,
    *,
    best: bool = True,
) -> HTML:
    """Models against scores, the best of each score in bold if it is so beyond noise.

    Args:
        scores: column label -> score of each model.
        names: of the models.
        caption: of the table.
        digits: decimals.
        best: mark the largest of each score.
    """
    cells = {label: _marked(found, digits, best) for label, found in scores.items()}
    if len(scores) > MAX_COLUMNS:
        rows = [[label, *found] for label, found in cells.items()]
        return table(["direction", *names], rows, caption)
    rows = [[name, *(found[i] for found in cells.values())] for i, name in enumerate(names)]
    return table(["model", *cells], rows, caption)


def _marked(scores: Sequence[Score | None], digits: int, mark: bool) -> list[HTML]:
    known = sorted((s for s in scores if s is not None), key=lambda s: -s.value)
    best = None
    if mark and len(known) > 1:
        noise = 2 * math.hypot(known[0].error or 0.0, known[1].error or 0.0)
        apart = round(known[0].value, digits) > round(known[1].value, digits)
        best = known[0] if apart and known[0].value - known[1].value > noise else None
    return [_cell(score, best, digits) for score in scores]


def _cell(score: Score | None, best: Score | None, digits: int) -> HTML:
    if score is None:
        return tag("td", "–", class_="number")
    number = signed(score.value, digits)
    shown = tag("strong", number) if score is best else number
    is_known = score.error is not None and math.isfinite(score.error)
    error = () if not is_known else (tag("span", f" ± {score.error:.{digits}f}"),)
    return tag("td", shown, *error, class_="number")


def figures(*shown: HTML, kind: str = "") -> HTML:
    """Figures side by side where there is room; those that are "large" or "wide" need more."""
    return tag("div", *shown, class_=f"figures {kind}".strip())
