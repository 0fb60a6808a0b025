"""Draws of several systems in one picture (paper, Figures 3, 5 and D.8 to D.12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mvflow.core import PRESENT, complete_rows, without_full_masks
from mvflow.report.figures.grids import Strip, row_grid
from mvflow.report.figures.sheet import known_values, plot_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mvflow.core import Source
    from mvflow.estimators import Estimator

__all__ = ["systems_grid"]

SCALE_ROWS = 64
"""Real rows that set the scale on which a modality is drawn."""


def systems_grid(
    models: Mapping[str, Estimator],
    test: Source,
    given: Sequence[str] = (),
    target: str | None = None,
    *,
    columns: int = 10,
    seed: int = 0,
) -> Figure:
    """Real rows on top, below them one draw of each system for each; or draws from the priors.

    Args:
        models: what a system is called -> its trained estimator.
        test: rows to condition on; evenly spread over their classes if they have labels.
        given: modalities that are conditioned on; none: joint draws from each prior.
        target: what is shown; by default all modalities that are not given.
        columns: number of rows conditioned on, or of joint draws.
        seed: of the draws.
    """
    test = complete_rows(test)
    some = test.take(np.arange(min(SCALE_ROWS, len(test))))
    specs = {m.name: plot_spec(m, known_values(some, m.name)) for m in test.modalities}
    targets = [target] if target else [name for name in specs if name not in given]
    rows: list[Strip] = []
    observed = None
    if given:
        shown = test.take(_spread(test, columns))
        keys = {key for name in given for key in (name, PRESENT + name)}
        observed = without_full_masks({key: x for key, x in shown.items() if key in keys})
        rows += [Strip(f"given {name}", specs[name], known_values(shown, name)) for name in given]
    for label, model in models.items():
        n = 1 if given else columns
        drawn, _ = model.generate(observed, n, targets=targets, seed=seed, full_output=True)
        rows += [
            Strip(
                f"{label}: {name}",
                specs[name],
                drawn[name][0 if given else ..., :].reshape(-1, *specs[name].shape),
            )
            for name in targets
        ]
    return row_grid(rows, group=len(targets), first=len(given))


def _spread(test: Source, columns: int) -> np.ndarray:
    """Row numbers, the same number of each class where there are labels."""
    if test.labels is None:
        return np.linspace(0, len(test) - 1, columns).astype(int)
    classes = np.unique(test.labels)
    members = [np.flatnonzero(test.labels == label) for label in classes]
    numbers = [members[i % len(members)][i // len(members)] for i in range(columns)]
    return np.array(numbers)
