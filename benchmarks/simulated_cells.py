"""Simulated cells with RNA and protein counts: library sizes, two batches, cell types."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "simulate_cells"]

TYPES = (0.3, 0.25, 0.18, 0.12, 0.09, 0.06)
"""Shares of the cell types."""

STATES = 6
"""Dimensions of what varies within a type, such as activation and cycle."""


class Cells(NamedTuple):
    """Counts of cells and what is known of them."""

    rna: NDArray[np.int64]
    """(cells, genes)."""
    protein: NDArray[np.int64]
    """(cells, proteins)."""
    batch: NDArray[np.str_]
    """"A" or "B", in every type alike."""
    kind: NDArray[np.int64]
    """Cell type."""


def simulate_cells(
    cells: int = 2000, genes: int = 200, proteins: int = 20, seed: int = 0
) -> Cells:
    """Cells of six types in two batches.

    A cell's state is the centre of its type plus what varies within. Log rates of genes are linear
    in it, with an effect of the batch on each gene; RNA is negative binomial with a library size
    (log-normal, a third smaller in B) times shares. Proteins follow a smooth, saturating function
    of the state over a background, with an effect of the batch and a staining strength of each
    cell, and are negative binomial, too.

    Args:
        cells: how many.
        genes: columns of RNA.
        proteins: columns of protein.
        seed: of all random numbers.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(TYPES), cells, p=TYPES)
    is_b = rng.random(cells) < 0.5
    centres = rng.normal(0, 1.6, (len(TYPES), STATES))
    state = centres[kind] + 0.7 * rng.normal(size=(cells, STATES))

    loads = rng.normal(0, 0.45, (STATES, genes)) * (rng.random((STATES, genes)) < 0.5)
    base, shift = rng.normal(0, 1.0, genes), rng.normal(0, 0.5, genes)
    logs = base + state @ loads + is_b[:, None] * shift
    shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
    library = np.exp(rng.normal(np.log(2500), 0.4, cells)) * np.where(is_b, 2 / 3, 1)
    rna = _negative_binomial(library[:, None] * shares, rng.gamma(4, 1, genes) + 0.5, rng)

    ways = rng.normal(0, 0.6, (STATES, proteins))
    signal = 1 / (1 + np.exp(-(state @ ways + rng.normal(0, 0.5, proteins))))
    level, background = rng.uniform(3.5, 6.0, proteins), rng.uniform(1.0, 2.5, proteins)
    mean = np.exp(background) + np.exp(level) * signal
    stained = np.exp(0.15 * rng.normal(size=(cells, 1)))
    mean = mean * stained * np.exp(is_b[:, None] * rng.normal(0, 0.4, proteins))
    protein = _negative_binomial(mean, rng.gamma(10, 1, proteins) + 2, rng)
    return Cells(rna, protein, np.where(is_b, "B", "A"), kind)


def _negative_binomial(
    mean: NDArray[np.float64], dispersion: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    return rng.poisson(mean * rng.gamma(dispersion, 1 / dispersion, mean.shape))
