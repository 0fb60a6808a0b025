"""Figures of an estimator, for notebooks: `model.plot.history()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from mvflow.core import Batch
    from mvflow.estimators.estimator import Estimator

__all__ = ["Plots"]


class Plots:
    """Figures of one estimator; each method returns a matplotlib Figure."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    def history(self) -> Any:
        """Training and validation loss of each stage over epochs."""
        records = self._estimator.history_
        stages = list(dict.fromkeys(r["stage"] for r in records))
        figure, panels = _panels(max(1, len(stages)))
        for panel, stage in zip(panels, stages, strict=False):
            own = [r for r in records if r["stage"] == stage]
            epochs = [r["epoch"] + 1 for r in own]
            panel.plot(epochs, [r["loss"] for r in own], label="training")
            if all(r["validation"] is not None for r in own):
                panel.plot(epochs, [r["validation"]["loss"] for r in own], label="validation")
            panel.set(title=stage, xlabel="epoch", ylabel="loss")
            panel.legend()
        return figure

    def latent(self, x: Batch, labels: ArrayLike | None = None) -> Any:
        """Posterior means of z, the first two dimensions, coloured by class."""
        z = np.asarray(self._estimator.transform(x))
        figure, (panel,) = _panels(1)
        panel.scatter(z[:, 0], z[:, min(1, z.shape[1] - 1)], c=labels, s=8)
        panel.set(xlabel="z 1", ylabel="z 2")
        return figure

    def samples(self, given: Batch | None = None, n: int = 8, *, seed: int | None = 0) -> Any:
        """Generated rows: pictures for images, lines for all else; of the first given row."""
        first = None if given is None else {name: x[:1] for name, x in given.items()}
        generated = self._estimator.generate(first, n, seed=seed)
        figure, panels = _panels(n * len(generated), n)
        for i, (name, x) in enumerate(generated.items()):
            for j, panel in enumerate(panels[i * n : (i + 1) * n]):
                value = np.asarray(x)[j, 0]
                if value.ndim == 3 and value.shape[0] in (1, 3):
                    panel.imshow(value.transpose(1, 2, 0).squeeze(), cmap="gray")
                else:
                    panel.plot(value.reshape(value.shape[0], -1))
                panel.set(xticks=[], yticks=[], title=name if j == 0 else "")
        return figure


def _panels(count: int, columns: int | None = None) -> tuple[Any, list[Any]]:
    """A figure outside pyplot's state, and its axes in rows."""
    from matplotlib.figure import Figure

    across = columns or count
    figure = Figure(figsize=(3 * across, 3 * -(-count // across)), layout="constrained")
    return figure, list(figure.subplots(-(-count // across), across, squeeze=False).flat)
