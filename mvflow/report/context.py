"""What all sections share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import UNLABELLED
from mvflow.report.entry import Entry
from mvflow.report.figure_store import FigureStore
from mvflow.report.figures.sheet import PlotSpec, known_values, plot_spec

if TYPE_CHECKING:
    from mvflow.evaluation import Evaluation, ModalityClassifiers

__all__ = ["Context"]


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

    @property
    def metrics(self) -> list[Evaluation | None]:
        """Evaluations of the entries."""
        return [entry.metrics for entry in self.entries]

    @property
    def measured(self) -> list[tuple[Entry, Evaluation]]:
        """Entries that have an evaluation."""
        return [(e, e.metrics) for e in self.entries if e.metrics is not None]

    def spec(self, entry: Entry, name: str) -> PlotSpec:
        """How a modality is drawn, on the scale of its test rows."""
        key = (id(entry.test), name)
        if key not in self.specs:
            some = entry.take(np.arange(min(len(entry.test), 128)))
            real = known_values(some, name)
            modality = next(m for m in entry.modalities if m.name == name)
            self.specs[key] = plot_spec(modality, real, entry.image_shapes.get(name))
        return self.specs[key]

    def wrong(
        self, target: str, draws: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> NDArray[np.bool_] | None:
        """Draws (n, rows, *shape) whose class is not that of their row; None if unknown.

        Of a row whose class is not known, no draw is wrong.
        """
        if self.classifiers is None or labels is None:
            return None
        flat = draws.reshape(-1, *draws.shape[2:])
        classes = self.classifiers.predict(target, flat).reshape(draws.shape[:2])
        return np.asarray((classes != labels) & (labels != UNLABELLED))
