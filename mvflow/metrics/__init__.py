"""Streaming metrics: `update` with a batch, `compute` at any time. Memory does not grow."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from mvflow.core import Array, UsageError, namespace
from mvflow.functional import agreement, frechet_distance

__all__ = ["Coherence", "FrechetDistance", "MeanAndCovariance", "MeanAndError", "Moments"]


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


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: Array
    """(features,)."""
    covariance: Array
    """(features, features), divided by one less than the number of rows."""


class MeanAndCovariance:
    """Mean and covariance of rows of features, by Welford's method merged over batches.

    It holds one number for each pair of features, in float64, however many rows are added.

    Examples:
        >>> import numpy as np
        >>> rows = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        >>> MeanAndCovariance().update(rows[:1]).update(rows[1:]).compute().covariance
        array([[4., 4.],
               [4., 4.]])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.scatter: Any = 0.0

    def update(self, features: Array) -> Self:
        """Add rows of shape (samples, features)."""
        xp = namespace(features)
        n = features.shape[0]
        if n == 0:
            return self
        features = xp.astype(features, xp.float64)
        mean = xp.mean(features, axis=0)
        centred = features - mean[None, :]
        delta, total = mean - self.mean, self.count + n
        between = delta[:, None] * delta[None, :] * (self.count * n / total)
        self.scatter = self.scatter + xp.matrix_transpose(centred) @ centred + between
        self.mean = self.mean + delta * (n / total)
        self.count = total
        return self

    def compute(self) -> Moments:
        """Mean and covariance so far; of one row the covariance is zero.

        Raises:
            UsageError: if nothing was added.
        """
        if self.count == 0:
            msg = "no row was added: the covariance has no value"
            raise UsageError(msg)
        return Moments(self.mean, self.scatter / max(self.count - 1, 1))


class FrechetDistance:
    """Fréchet distance of rows of features from those of a reference.

    Few rows make it too large, by about as much as as many rows of the reference itself are away:
    compare values of equal numbers of rows.

    Args:
        reference: moments of the real rows, computed once for all that is compared with them.

    Examples:
        >>> import numpy as np
        >>> real = MeanAndCovariance().update(np.array([[0.0], [2.0]])).compute()
        >>> float(FrechetDistance(real).update(np.array([[3.0], [5.0]])).compute())
        9.0
    """

    def __init__(self, reference: Moments) -> None:
        self.reference = reference
        self.rows = MeanAndCovariance()

    def update(self, features: Array) -> Self:
        """Add rows of shape (samples, features)."""
        self.rows.update(features)
        return self

    def compute(self) -> float:
        """Distance so far.

        Raises:
            UsageError: if nothing was added.
        """
        return float(frechet_distance(*self.rows.compute(), *self.reference))
