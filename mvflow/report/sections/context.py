"""What all sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.album import Album
from mvflow.report.entry import Entry
from mvflow.report.figures.sheet import Look, look_of
from mvflow.report.markup import HTML, table, tag
from mvflow.report.words import signed

if TYPE_CHECKING:
    from mvflow.evaluation import ModalityClassifiers

__all__ = ["Context", "Score", "columns", "comparison", "figures"]

MOST_COLUMNS = 6
"""Beyond this, a table shows its columns as rows."""


@dataclass(frozen=True)
class Context:
    """Entries of a report and the means to show them."""

    entries: tuple[Entry, ...]
    album: Album
    seed: int = 0
    classifiers: ModalityClassifiers | None = None
    looks: dict[tuple[int, str], Look] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the entries."""
        return [entry.name for entry in self.entries]

    def look(self, entry: Entry, name: str) -> Look:
        """How a modality is drawn, on the scale of its test rows."""
        key = (id(entry.test), name)
        if key not in self.looks:
            some = entry.test.take(np.arange(min(len(entry.test), 128)))[name]
            modality = next(m for m in entry.modalities if m.name == name)
            self.looks[key] = look_of(modality, some)
        return self.looks[key]

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


def columns(maps: Sequence[Mapping[str, Any] | None]) -> list[str]:
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
    """Models against scores, the best of each score in bold.

    Args:
        scores: column label -> score of each model.
        names: of the models.
        caption: of the table.
        digits: decimals.
        best: mark the largest of each score.
    """
    cells = {label: _marked(found, digits, best) for label, found in scores.items()}
    if len(scores) > MOST_COLUMNS:
        rows = [[label, *found] for label, found in cells.items()]
        return table(["direction", *names], rows, caption)
    rows = [[name, *(found[i] for found in cells.values())] for i, name in enumerate(names)]
    return table(["model", *cells], rows, caption)


def _marked(scores: Sequence[Score | None], digits: int, mark: bool) -> list[HTML]:
    known = [round(s.value, digits) for s in scores if s is not None]
    best = max(known) if mark and len(set(known)) > 1 else None
    return [_cell(score, best, digits) for score in scores]


def _cell(score: Score | None, best: float | None, digits: int) -> HTML:
    if score is None:
        return tag("td", "–", class_="number")
    number = signed(score.value, digits)
    shown = tag("strong", number) if round(score.value, digits) == best else number
    error = () if score.error is None else (tag("span", f" ± {score.error:.{digits}f}"),)
    return tag("td", shown, *error, class_="number")


def figures(*shown: HTML, kind: str = "") -> HTML:
    """Figures side by side where there is room; those that are "large" or "wide" need more."""
    return tag("div", *shown, class_=f"figures {kind}".strip())
