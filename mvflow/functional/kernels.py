"""Kernel ridge regression, a penalty for each output, chosen by leaving rows out one by one."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float64

from mvflow.core import Array, namespace

__all__ = ["KernelRegression", "kernel_regression"]

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-8, 5))
"""Penalties that are tried, from 1e-4 to 100."""

TINY = 1e-30
DROPPED = 1e-3
"""Eigenvalues below this share of the smallest penalty chosen are not kept."""


class KernelRegression(NamedTuple):
    """A Gaussian process with some outputs, given rows; `kernel_regression` makes it."""

    vectors: Float64[Array, "rows kept"]
    """Eigenvectors of the kernel matrix."""
    values: Float64[Array, " kept"]
    """Eigenvalues."""
    weights: Float64[Array, "kept outputs"]
    """Coefficients of the outputs in the eigenvectors."""
    penalty: Float64[Array, " outputs"]
    """Chosen for each output."""
    error: Float64[Array, " outputs"]
    """Mean square of the errors, each in units of the deviation that the process predicts."""
    noise: Float64[Array, " outputs"]
    """Mean variance of the outputs themselves."""
    factor: Float64[Array, "outputs outputs"]
    """Cholesky factor of the covariance of errors, each in units of its predicted deviation."""

    def predict(
        self, kernel: Float64[Array, "new rows"]
    ) -> tuple[Float64[Array, "new outputs"], Float64[Array, "new outputs"]]:
        """Mean and deviation of each output in each new row; `factor` has the correlations.

        Args:
            kernel: of new rows with the rows it was fitted to; 1 for equal rows.
        """
        xp = namespace(kernel)
        projected = kernel @ self.vectors
        inverse = 1 / (self.values[:, None] + self.penalty)
        variance = xp.maximum(1 + self.penalty - projected**2 @ inverse, self.penalty)
        return projected @ self.weights, xp.sqrt(self.error * variance + self.noise)


def kernel_regression(
    kernel: Float64[Array, "rows rows"],
    outputs: Float64[Array, "rows outputs"],
    noise: Float64[Array, "rows outputs"],
    penalties: Sequence[float] = PENALTIES,
) -> KernelRegression:
    """Fit outputs of mean 0 by K (K + penalty)^-1, each with the penalty that errs least.

    Errors are those of rows left out one at a time, in closed form.

    Args:
        kernel: of the rows with each other, with 1 on its diagonal.
        outputs: in float64.
        noise: variances of the outputs, which add to those of the errors.
        penalties: to choose from.

    Examples:
        >>> import numpy as np
        >>> x = np.linspace(0, 1, 20)[:, None]
        >>> line = kernel_regression(np.exp(-((x - x.T) ** 2)), x - 0.5, 0 * x)
        >>> mean, scale = line.predict(np.exp(-((np.array([[0.5]]) - x.T) ** 2)))
        >>> bool(abs(mean[0, 0]) < 1e-3)
        True
    """
    xp = namespace(kernel, outputs)
    values, vectors = xp.linalg.eigh(kernel)
    values = xp.maximum(values, xp.zeros_like(values))
    rotated, squares = xp.matrix_transpose(vectors) @ outputs, vectors**2
    best = xp.full_like(outputs[0, :], xp.inf)
    penalty, errors, spread = best, outputs, outputs
    for each in penalties:
        kept = values / (values + each)
        left = 1 - squares @ kept  # penalty times the diagonal of (K + penalty)^-1
        error = (outputs - vectors @ (kept[:, None] * rotated)) / left[:, None]
        total = xp.sum(error**2, axis=0)
        better = total < best
        best = xp.where(better, total, best)
        penalty = xp.where(better, xp.full_like(penalty, each), penalty)
        errors = xp.where(better, error, errors)
        spread = xp.where(better, (each / left)[:, None], spread)
    # An output that is constant has errors of 0, whatever the process predicts.
    square = xp.mean(errors**2 / spread, axis=0) + TINY
    level = xp.mean(noise, axis=0)
    scale = xp.sqrt(square * spread + level)
    unit = errors / scale
    covariance = xp.matrix_transpose(unit) @ unit / outputs.shape[0]
    diagonal = xp.mean(noise / scale**2, axis=0) + 1e-9
    covariance = covariance + xp.eye(outputs.shape[1], dtype=outputs.dtype) * diagonal
    large = values > DROPPED * xp.min(penalty)
    values, vectors, rotated = values[large], vectors[:, large], rotated[large, :]
    weights = rotated / (values[:, None] + penalty)
    factor = xp.linalg.cholesky(covariance)
    return KernelRegression(vectors, values, weights, penalty, square, level, factor)
