"""The vocabulary of the library: modalities, batches, sources of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.errors import DataError, unknown_name

__all__ = [
    "Batch",
    "Column",
    "Described",
    "Likelihood",
    "Modality",
    "Source",
    "Subset",
    "rescale_weights",
]

Batch: TypeAlias = Mapping[str, NDArray[Any]]
"""Modality name -> array (rows, *shape). uint8 means intensities 0...255 of the range [0, 1]."""

Subset: TypeAlias = tuple[str, ...]
"""Names of observed modalities, sorted."""

Likelihood: TypeAlias = Literal["normal", "laplace", "bernoulli", "categorical"]


@dataclass(frozen=True, slots=True)
class Modality:
    """One kind of data: its name, the shape of one row and the decoder's distribution.

    Args:
        name: letters, digits, `_` and `-`; it names arrays, columns and files.
        shape: shape of one row, images as (channels, height, width). A `categorical` modality
            has one integer per row and the shape (classes,).
        likelihood: p(x|z). `normal` and `laplace` have the fixed `scale`; `bernoulli` data lie
            in [0, 1].
        scale: standard deviation (`normal`) or diversity b (`laplace`), in units of the data.
        weight: factor of this modality's log-likelihood in the ELBO (lambda_j of the paper,
            Appendix E). None: the largest dimension divided by this one's.

    Raises:
        DataError: if a field cannot be used.

    Examples:
        >>> Modality("svhn", (3, 32, 32), "laplace", scale=0.75).size
        3072
    """

    name: str
    shape: tuple[int, ...]
    likelihood: Likelihood = "normal"
    scale: float = 1.0
    weight: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            msg = (
                f"modality name {self.name!r} is not usable: "
                "use letters, digits, '_' or '-', and begin with a letter or a digit"
            )
            raise DataError(msg)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not self.shape or min(self.shape) < 1:
            msg = f"modality {self.name!r} has shape {self.shape}: expected positive lengths"
            raise DataError(msg)
        if self.likelihood not in get_args(Likelihood):
            raise DataError(unknown_name("likelihood", self.likelihood, get_args(Likelihood)))
        if not self.scale > 0 or not math.isfinite(self.scale):
            msg = f"modality {self.name!r} has scale {self.scale}: expected a positive number"
            raise DataError(msg)
        if self.weight is not None and not self.weight > 0:
            msg = f"modality {self.name!r} has weight {self.weight}: expected a positive number"
            raise DataError(msg)

    @property
    def size(self) -> int:
        """Number of values in one row."""
        return math.prod(self.shape)


def rescale_weights(modalities: tuple[Modality, ...]) -> dict[str, float]:
    """Factor of each modality's log-likelihood: its own, or max_k size_k / size_j (paper, E.1).

    Examples:
        >>> rescale_weights((Modality("a", (4,)), Modality("b", (2,))))
        {'a': 1.0, 'b': 2.0}
    """
    largest = max(m.size for m in modalities)
    return {m.name: largest / m.size if m.weight is None else m.weight for m in modalities}


@dataclass(frozen=True, slots=True)
class Column:
    """A modality of a source as it is stored: distinct values, and which one each row takes."""

    values: NDArray[Any]
    """(distinct, *shape), uint8 or float32."""
    index: NDArray[np.integer[Any]] | None
    """(rows,): row -> position in `values`; None when row i is `values[i]`."""


@runtime_checkable
class Source(Protocol):
    """Rows of several modalities. Training, generation and metrics see nothing else."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specification of each modality, in the order of the source."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each row, (rows,), or None."""
        ...

    @property
    def factors(self) -> Mapping[str, NDArray[Any]]:
        """Known causes of each row that no model sees (sizes, writers...): name -> (rows,)."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays (len(rows), *shape) of the given rows, in their order, as stored."""
        ...

    def columns(self) -> dict[str, Column]:
        """All modalities as they are stored, without repeating what rows share."""
        ...


@runtime_checkable
class Described(Protocol):
    """What a `Source` may have besides: names by which reports call its classes and factors."""

    @property
    def class_names(self) -> Mapping[int, str]:
        """Label -> name of the class; labels without one are called by their number."""
        ...

    @property
    def factor_names(self) -> Mapping[str, str]:
        """Factor -> readable name with its unit; others are called by their key."""
        ...
