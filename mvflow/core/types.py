"""The vocabulary of the library: modalities, batches, sources of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.errors import DataError, unknown_name
from mvflow.core.registry import registry

__all__ = [
    "PRESENT",
    "Batch",
    "Column",
    "Described",
    "Modality",
    "Source",
    "Subset",
    "intensities",
    "rescale_weights",
    "take_present",
]

Batch: TypeAlias = Mapping[str, NDArray[Any]]
"""Modality name -> array (rows, *shape). uint8 means intensities 0...255 of the range [0, 1]."""

Subset: TypeAlias = tuple[str, ...]
"""Names of observed modalities, sorted."""

PRESENT = "present/"
"""Columns of a source whose names begin so say which rows, or which of their values, are there."""

Settings: TypeAlias = str | Mapping[str, Any]
"""Name of a kind, or a mapping with `kind` and its settings."""


@dataclass(frozen=True, slots=True)
class Modality:
    """One kind of data: its name, the shape of one row and the decoder's distribution.

    Args:
        name: letters, digits, `_` and `-`; it names arrays, columns and files.
        shape: shape of one row, images as (channels, height, width). A `categorical` modality
            has one integer per row and the shape (classes,).
        likelihood: p(x|z): the name of a registered likelihood, or a mapping with its `kind` and
            settings, such as {"kind": "laplace", "scale": 0.75}, or the likelihood itself.
        weight: factor of this modality's log-likelihood in the ELBO (lambda_j of the paper,
            Appendix E). None: the largest dimension divided by this one's.

    Raises:
        DataError: if a field cannot be used. The settings of a likelihood are checked later.

    Examples:
        >>> m = Modality("svhn", (3, 32, 32), {"kind": "laplace", "scale": 0.75})
        >>> m.size, m.kind
        (3072, 'laplace')
    """

    name: str
    shape: tuple[int, ...]
    likelihood: Any = "normal"
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
            msg = (
                f"modality {self.name!r} has shape {self.shape}: expected the lengths of one "
                "row's value, each 1 or more: (1,) for one number, (classes,) for a class"
            )
            raise DataError(msg)
        if not isinstance(self.likelihood, str | Mapping):
            from mvflow.core.parts import dump  # a part itself: kept as its settings

            object.__setattr__(self, "likelihood", dump(self.likelihood, "likelihoods"))
        if isinstance(self.likelihood, Mapping) and set(self.likelihood) == {"kind"}:
            object.__setattr__(self, "likelihood", self.likelihood["kind"])
        kind, known = self.kind, registry("likelihoods").names()
        if isinstance(kind, str) and ":" not in kind and kind not in known:
            raise DataError(unknown_name("likelihood", kind, known))
        if self.weight is not None and not self.weight > 0:
            msg = f"modality {self.name!r} has weight {self.weight}: expected a positive number"
            raise DataError(msg)

    @property
    def kind(self) -> Any:
        """Name of the likelihood."""
        if isinstance(self.likelihood, Mapping):
            return self.likelihood.get("kind")
        return self.likelihood

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the scale of a likelihood stands beside its name, as in stores of format 1.

        Examples:
            >>> Modality("a", (3,), {"kind": "laplace", "scale": 0.5}).to_dict()["scale"]
            0.5
            >>> Modality("a", (3,), {"kind": "laplace", "scale": "learned"}).to_dict()["scale"]
            1.0
        """
        settings = dict(self.likelihood) if isinstance(self.likelihood, Mapping) else {}
        is_plain = isinstance(settings.get("scale", 1.0), int | float)
        scale = settings.get("scale", 1.0) if is_plain else 1.0
        plain = {"kind", "scale"} if is_plain else {"kind"}
        likelihood = settings if {*settings} - plain else self.kind
        return {
            "name": self.name,
            "shape": self.shape,
            "likelihood": likelihood,
            "scale": scale,
            "weight": self.weight,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Modality:
        """From JSON that `to_dict` gave.

        Raises:
            ConfigError: if the likelihood is unknown or a setting of it is wrong.
            DataError: if a field is missing or cannot be used.
        """
        missing = [key for key in ("name", "shape", "likelihood") if key not in raw]
        if missing:
            msg = f"a modality has no {missing[0]}: expected a name, a shape and a likelihood"
            raise DataError(msg)
        likelihood, scale = raw["likelihood"], raw.get("scale", 1.0)
        if isinstance(likelihood, str) and scale != 1.0:
            likelihood = {"kind": likelihood, "scale": scale}
        return cls(raw["name"], tuple(raw["shape"]), likelihood, raw.get("weight"))

    @property
    def likelihood_part(self) -> Any:
        """The likelihood itself (`mvflow.likelihoods.Likelihood`); imports torch."""
        from mvflow.core.parts import create  # pydantic: only for who checks values

        return create("likelihoods", self.likelihood)

    @property
    def size(self) -> int:
        """Number of values in one row."""
        return math.prod(self.shape)


def intensities(x: NDArray[Any]) -> NDArray[Any]:
    """Stored values as decoders make them: bytes as intensities in [0, 1], all else as it is.

    Examples:
        >>> intensities(np.array([0, 255], np.uint8)).tolist(), intensities(np.arange(2)).tolist()
        ([0.0, 1.0], [0, 1])
    """
    return x / np.float32(255) if x.dtype == np.uint8 else x


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
    """(rows,): row -> position in `values`, -1 where the row lacks the modality, of which nothing
    is stored then; None when row i is `values[i]`."""

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Values of the given rows, in their order; zeros where a row has none.

        Examples:
            >>> Column(np.array([[3.0]]), np.array([0, -1])).take(np.array([1, 0])).tolist()
            [[0.0], [3.0]]
        """
        at = rows if self.index is None else self.index[rows]
        return take_present(self.values, at)


def take_present(values: NDArray[Any], at: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Values at some positions, with zeros for the position -1, for which nothing is read.

    Examples:
        >>> take_present(np.array([5.0, 6.0]), np.array([1, -1, 0])).tolist()
        [6.0, 0.0, 5.0]
    """
    is_there = at >= 0
    if is_there.all():
        return values.take(at, 0)
    out = np.zeros((len(at), *values.shape[1:]), values.dtype)
    out[is_there] = values.take(at[is_there], 0)
    return out


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
        """Arrays (len(rows), *shape) of the given rows, in their order, as stored.

        Of a modality that some row of the source lacks, also `present/NAME`: bool (len(rows),),
        or (len(rows), *shape) where entries are missing. What is absent is zeros, and no data.
        """
        ...

    def columns(self) -> dict[str, Column]:
        """All modalities as they are stored, without repeating what rows share.

        A row that lacks a modality has the index -1. Masks of entries are columns `present/NAME`
        of booleans, with the index of the modality.
        """
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
