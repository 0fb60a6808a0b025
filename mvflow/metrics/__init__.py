"""Streaming metrics: `update` with a batch, `compute` at any time. Memory does not grow."""

from __future__ import annotations

from typing import Self

from mvflow.core import Array, UsageError, namespace
from mvflow.functional import agreement

__all__ = ["Coherence", "MeanAndError"]


class Coherence:
    """Share of samples whose predicted classes agree: with each other, or with a known class.

    Examples:
        >>> import numpy as np
        >>> Coherence().update(np.array([[1, 2, 3], [1, 2, 0]])).compute()
        0.6666666666666666
        >>> Coherence().update(np.array([[1, 2]]), np.array([1, 0])).compute()
        0.5
    """

    def __init__(self) -> None:
        self.agreed = 0
        self.total = 0

    def update(self, predictions: Array, labels: Array | None = None) -> Self:
        """Add samples.

        Args:
            predictions: classes by modality, (modalities, samples).
            labels: the class conditioned on, (samples,); None compares modalities alone.
        """
        xp = namespace(predictions)
        if labels is not None:
            predictions = xp.concat([predictions, labels[None, :]], axis=0)
        agreed = agreement(predictions)
        self.agreed += int(xp.sum(xp.astype(agreed, xp.int64)))
        self.total += agreed.shape[0]
        return self

    def compute(self) -> float:
        """Share so far.

        Raises:
            UsageError: if nothing was added.
        """
        if self.total == 0:
            msg = "no sample was added: coherence has no value"
            raise UsageError(msg)
        return self.agreed / self.total


class MeanAndError:
    """Mean and its standard error, by Welford's method merged over batches.

    Examples:
        >>> import numpy as np
        >>> found = MeanAndError().update(np.array([1.0, 3.0])).compute()
        >>> found["mean"], round(found["standard_error"], 6)
        (2.0, 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def update(self, values: Array) -> Self:
        """Add values of shape (samples,)."""
        xp = namespace(values)
        n = values.shape[0]
        if n == 0:
            return self
        mean = float(xp.mean(values))
        squares = float(xp.sum((values - mean) ** 2))
        delta, total = mean - self.mean, self.count + n
        self.squares += squares + delta * delta * self.count * n / total
        self.mean += delta * n / total
        self.count = total
        return self

    def compute(self) -> dict[str, float]:
        """Mean and standard error so far.

        Raises:
            UsageError: if nothing was added.
        """
        if self.count == 0:
            msg = "no value was added: the mean has no value"
            raise UsageError(msg)
        spread = self.squares / max(self.count - 1, 1)
        return {"mean": self.mean, "standard_error": (spread / self.count) ** 0.5}
