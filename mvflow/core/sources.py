"""Arrays in memory as a source of rows, and the checks that all data pass on their way in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.covariates import COVARIATES, Covariate, check_covariates
from mvflow.core.door import UNLABELLED, as_numbers, check_labels
from mvflow.core.errors import DataError, UsageError, unknown_name
from mvflow.core.presence import (
    check_every_row,
    fill_absent,
    pack_column,
    present_columns,
    row_presence,
    unmask,
    with_masks,
)
from mvflow.core.types import PRESENT, Batch, Column, Described, Modality, Source

__all__ = [
    "ArraySource",
    "as_source",
    "by_modality",
    "check_batch",
    "check_rows",
    "check_source",
    "class_name",
    "factor_name",
    "fingerprint",
    "subset_of",
]


class ArraySource:
    """A dict of NumPy arrays as a `Source`.

    Args:
        arrays: name -> (rows, *shape), or (distinct, *shape) where `pairs` says which one a row
            takes. What NumPy's masked arrays mask is absent.
        modalities: specifications; by default `normal` ones with the arrays' shapes.
        labels: class of each row, -1 where it is not known.
        factors: known causes of each row, by name.
        class_names: label -> name of the class, for reports.
        factor_names: factor -> readable name with its unit, for reports.
        pairs: name -> (rows,) positions in the array of that name, -1 where it is absent.
        covariates: name -> (rows,) levels or numbers.
        covariate_specs: how they are encoded; by default as the values suggest.
        present: name -> bool (rows,), which rows have the modality, or bool of the array's shape,
            which of its values are present; others are never read. By default all are.

    Raises:
        DataError: if row counts differ, values are not finite, or a row has no modality.

    Examples:
        >>> s = ArraySource({"a": np.zeros((5, 2)), "b": np.ones((5, 3))})
        >>> len(s), s.modalities[1].shape, s.take([4])["b"].shape
        (5, (3,), (1, 3))
        >>> some = {"a": np.array([True, True, False])}
        >>> s = ArraySource({"a": np.ones((3, 1)), "b": np.ones((3, 1))}, present=some)
        >>> s.take([2, 0])["present/a"]
        array([False,  True])
    """

    def __init__(
        self,
        arrays: Batch,
        modalities: Iterable[Modality] | None = None,
        *,
        labels: ArrayLike | None = None,
        factors: Mapping[str, ArrayLike] | None = None,
        class_names: Mapping[int, str] | None = None,
        factor_names: Mapping[str, str] | None = None,
        pairs: Mapping[str, ArrayLike] | None = None,
        covariates: Mapping[str, Any] | None = None,
        covariate_specs: Iterable[Covariate] | None = None,
        present: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        if not arrays:
            msg = "no modality was given: expected a mapping from names to arrays"
            raise DataError(msg)
        arrays, masks = unmask(arrays, present)
        arrays = {name: as_numbers(x, f"modality {name!r}") for name, x in arrays.items()}
        if modalities is None:
            modalities = [Modality(name, x.shape[1:] or (1,)) for name, x in arrays.items()]
        self.modalities = tuple(modalities)
        _check_names(arrays, self.modalities)
        index = {
            name: None if pairs is None else check_rows(pairs[name], len(x), name, or_absent=True)
            for name, x in arrays.items()
        }
        for name, mask in masks.items():
            rows = None if (of := index[name]) is None else len(of)
            arrays[name] = fill_absent(name, arrays[name], mask, rows)
        values = check_batch(arrays, self.modalities, rows_equal=pairs is None)
        self._columns, lengths = {}, {}
        for name, x in values.items():
            packed = pack_column(x, masks.get(name), index[name])
            self._columns[name] = Column(packed.values, packed.index)
            if packed.mask is not None:
                self._columns[PRESENT + name] = Column(packed.mask, packed.index)
            lengths[name] = len(packed.values if packed.index is None else packed.index)
        self._columns = with_masks(self._columns)
        self.labels = None if labels is None else check_labels(labels)
        self.factors = {name: np.asarray(f) for name, f in (factors or {}).items()}
        self.class_names, self.factor_names = dict(class_names or {}), dict(factor_names or {})
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        lengths |= {name: len(f) for name, f in self.factors.items()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            msg = f"all arrays need the same number of rows, but {listed}"
            raise DataError(msg)
        self._rows = next(iter(lengths.values()))
        if len(self._columns) > len(self.modalities):
            check_every_row(row_presence(self).values())
        self._covariate_values = dict(sorted((covariates or {}).items()))
        self._encode(covariate_specs or ())

    def __len__(self) -> int:
        return self._rows

    def with_covariates(self, specs: Iterable[Covariate]) -> ArraySource:
        """The same rows, with covariates encoded as a model has them."""
        new = copy.copy(self)
        new._columns = dict(self._columns)
        new._encode(specs)
        return new

    def _encode(self, specs: Iterable[Covariate]) -> None:
        known = {c.name: c for c in specs}
        values = self._covariate_values
        self.covariates = {n: known.get(n) or Covariate.of(n, x) for n, x in values.items()}
        for name, covariate in self.covariates.items():
            encoded = covariate.encode(values[name], self._rows)
            self._columns[COVARIATES + name] = Column(encoded, None)

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows, in their order; encoded covariates as `covariates/NAME`.

        Of a modality that some row lacks, or some of whose values are absent, also
        `present/NAME`: bool (rows,) or (rows, *shape). What is absent is zeros, and no data.

        Raises:
            DataError: if a row is not one of 0...len - 1.
            UsageError: if `rows` is not a list of whole numbers.
        """
        at = check_rows(rows, self._rows, "the data")
        return {name: c.take(at) for name, c in self._columns.items()}

    def columns(self) -> dict[str, Column]:
        """All modalities as stored."""
        return dict(self._columns)


def by_modality(data: Any) -> Any:
    """A data frame whose columns have two levels, modality and column, as a dict; all else as is.

    Examples:
        >>> import pandas as pd
        >>> frame = pd.DataFrame([[1.0, 2.0]], columns=[["a", "b"], ["x", "x"]])
        >>> {name: part.to_numpy() for name, part in by_modality(frame).items()}
        {'a': array([[1.]]), 'b': array([[2.]])}
    """
    if getattr(getattr(data, "columns", None), "nlevels", 1) != 2:  # of pandas
        return data
    return {name: data[name] for name in data.columns.unique(0)}


def as_source(
    data: Source | Batch,
    modalities: Iterable[Modality] | None = None,
    *,
    labels: ArrayLike | None = None,
    covariates: Mapping[str, Any] | None = None,
    covariate_specs: Iterable[Covariate] | None = None,
    present: Mapping[str, ArrayLike] | None = None,
) -> Source:
    """Return `data` as a `Source`; a dict of arrays, or a data frame by modality, becomes one.

    The dict may have masks `present/NAME` in it, as `Source.take` gives them.

    Raises:
        DataError: if the values do not fit the modalities.
        UsageError: if it is neither, or covariates or masks are given beside a source, which has
            its own.

    Examples:
        >>> len(as_source({"a": np.zeros((3, 2), np.float32)}))
        3
    """
    data = by_modality(data)
    if isinstance(data, Mapping):
        masks = {k.removeprefix(PRESENT): mask for k, mask in present_columns(data).items()}
        return ArraySource(
            {name: x for name, x in data.items() if not name.startswith(PRESENT)},
            modalities,
            labels=labels,
            covariates=covariates,
            covariate_specs=covariate_specs,
            present={**masks, **(present or {})},
        )
    for key, what, own in (
        ("covariates", "covariates", covariates),
        ("present", "masks", present),
    ):
        if own is not None:
            msg = f"{key}= goes with a dict of arrays: a source has {what} of its own"
            raise UsageError(msg)
    if isinstance(data, ArraySource) and data.covariates and covariate_specs is not None:
        return data.with_covariates(covariate_specs)
    if not isinstance(data, Source):
        kind = type(data).__name__
        msg = (
            f"the data are a {kind}: expected a dict from modality to array, a data frame whose "
            "columns have two levels, modality and column, or a Source"
        )
        raise UsageError(msg)
    return data


def check_source(
    source: Source, modalities: Iterable[Modality], covariates: Iterable[Covariate] = ()
) -> None:
    """Check all values of a source against the modalities and covariates of a model.

    A store was checked when it was written: it is read here only where the model's likelihood is
    not the store's.

    Raises:
        DataError: naming what is missing, has another shape, or cannot be used.
    """
    specs = {m.name: m for m in modalities}
    present = {m.name: m for m in source.modalities}
    check_covariates(getattr(source, "covariates", {}), covariates)
    for name, modality in specs.items():
        if name not in present:
            msg = (
                f"the data have no modality {name!r}: expected {', '.join(specs)}, "
                f"found {', '.join(present)}"
            )
            raise DataError(msg)
        if present[name].shape != modality.shape:
            msg = (
                f"modality {name!r} of the data has shape {present[name].shape}, "
                f"but the model expects {modality.shape}"
            )
            raise DataError(msg)
    known = isinstance(source, ArraySource) or hasattr(source, "fingerprint")
    for name, column in source.columns().items():
        if name in specs and not (known and present[name].kind == specs[name].kind):
            _checked(column.values, specs[name])


def check_rows(
    rows: ArrayLike, count: int, of: str, *, or_absent: bool = False
) -> NDArray[np.int64]:
    """Row numbers as int64, checked against the number of rows there are.

    Args:
        rows: row numbers.
        count: how many rows there are.
        of: names them in messages.
        or_absent: whether -1 may stand for none of them.

    Raises:
        DataError: if a row is not one of 0...count - 1.
        UsageError: if `rows` is not a list of whole numbers.

    Examples:
        >>> check_rows([2, 0], 3, "the data")
        array([2, 0])
    """
    at = np.asarray(rows)
    if at.ndim != 1 or (at.size and at.dtype.kind not in "iu"):
        msg = f"rows must be a list of whole numbers: got {at.dtype} of shape {at.shape}"
        raise UsageError(msg)
    outside = at[(at < (-1 if or_absent else 0)) | (at >= count)]
    if outside.size:
        msg = f"row {outside[0]} is out of range: {of} has the rows 0 to {count - 1}"
        raise DataError(msg)
    return at.astype(np.int64)


def fingerprint(source: Source) -> str:
    """Hash of all values of a source; a store has its own, computed when it was written.

    Examples:
        >>> a, b = ArraySource({"a": np.zeros((2, 2))}), ArraySource({"a": np.ones((2, 2))})
        >>> fingerprint(a) == fingerprint(b)
        False
    """
    known = getattr(source, "fingerprint", None)
    if isinstance(known, str):
        return known
    digest = hashlib.sha256()
    for name, column in sorted(source.columns().items()):
        for array in (column.values, column.index):
            if array is not None:
                digest.update(f"{name}{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def class_name(source: Source, label: int) -> str:
    """What a class is called: its name where the source has names, else its number.

    Examples:
        >>> rows = ArraySource({"a": np.zeros((2, 1))}, class_names={1: "dog"})
        >>> class_name(rows, 1), class_name(rows, 0), class_name(rows, -1)
        ('dog', 'class 0', 'unknown class')
    """
    if label == UNLABELLED:
        return "unknown class"
    names = source.class_names if isinstance(source, Described) else {}
    name = names.get(label, str(label))
    return f"class {name}" if name.isdecimal() else name


def factor_name(source: Source, factor: str) -> str:
    """What a factor is called: its readable name where the source has names, else its key."""
    names = source.factor_names if isinstance(source, Described) else {}
    return names.get(factor, factor.replace("_", " "))


def subset_of(names: Iterable[str], modalities: Iterable[Modality]) -> tuple[str, ...]:
    """Sorted names of observed modalities, checked against the known ones.

    Raises:
        UsageError: if a name is unknown or given twice.

    Examples:
        >>> subset_of(["b", "a"], [Modality("a", (1,)), Modality("b", (1,))])
        ('a', 'b')
    """
    known = [m.name for m in modalities]
    chosen = list(names)
    for name in chosen:
        if name not in known:
            raise UsageError(unknown_name("modality", name, known))
    if len(set(chosen)) != len(chosen):
        msg = f"a modality is named twice in {chosen}"
        raise UsageError(msg)
    return tuple(sorted(chosen))


def check_batch(
    batch: Batch, modalities: Iterable[Modality], *, rows_equal: bool = True
) -> dict[str, NDArray[Any]]:
    """Arrays of the named modalities as uint8, int64 (categorical) or float32, checked.

    Args:
        batch: name -> (rows, *shape); every name must be a known modality.
        modalities: the known modalities; those absent from `batch` are simply not observed.
        rows_equal: whether all arrays must have the same number of rows.

    Returns:
        A new dict in the order of `modalities`.

    Raises:
        DataError: on a wrong shape, unequal row counts, or values that are not finite; the
            message names the modality, the row and what was expected.
        UsageError: if a name is unknown.

    Examples:
        >>> out = check_batch({"a": [[1.0, 2.0]]}, [Modality("a", (2,))])
        >>> out["a"].dtype
        dtype('float32')
    """
    specs = tuple(modalities)
    subset_of(batch, specs)
    out = {m.name: _checked(batch[m.name], m) for m in specs if m.name in batch}
    counts = {name: len(x) for name, x in out.items()}
    if rows_equal and len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in counts.items())
        msg = f"all modalities need the same number of rows, but {listed}"
        raise DataError(msg)
    return out


def _check_names(arrays: Batch, modalities: tuple[Modality, ...]) -> None:
    names = [m.name for m in modalities]
    for name in names:
        if name not in arrays:
            msg = f"modality {name!r} has no array: the arrays are {', '.join(arrays)}"
            raise DataError(msg)
        if names.count(name) > 1:
            msg = f"modality {name!r} is specified twice"
            raise DataError(msg)


def _checked(given: Any, modality: Modality) -> NDArray[Any]:
    x = as_numbers(given, f"modality {modality.name!r}")
    likelihood = modality.likelihood_part
    expected = likelihood.row_shape(modality.shape)
    if x.shape[1:] != expected or x.ndim != len(expected) + 1:
        lengths = f" {', '.join(map(str, expected))}"
        each = likelihood.expects(modality.shape).removeprefix("expected ")
        what = f"{lengths})" if expected else f"), {each} in each row"
        msg = f"modality {modality.name!r} has shape {x.shape}: expected (rows,{what}"
        raise DataError(msg)
    if x.dtype == np.uint8 and likelihood.takes_bytes:
        if x.size and x.max() == 1:
            msg = (
                f"modality {modality.name!r} holds only 0 and 1 as uint8, which means intensities "
                "of 0...255: give a mask as bool or float32, or multiply it by 255"
            )
            raise DataError(msg)
        return np.ascontiguousarray(x)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(x, np.float32)
    bad = _first_bad_row(values, lambda chunk: ~np.isfinite(chunk))
    if bad is not None:
        value = x[bad][~np.isfinite(values[bad])].flat[0]
        msg = (
            f"modality {modality.name!r}, row {bad} contains {value}: "
            "expected finite float32 numbers; mark what is absent, by numpy.ma.masked_invalid or "
            f"present={{{modality.name!r}: mask}}, or remove such rows first"
        )
        raise DataError(msg)
    wrong = _first_bad_row(values, lambda chunk: ~likelihood.is_valid(chunk, modality.shape))
    if wrong is not None:
        row = slice(wrong, wrong + 1)
        value = x[row][~likelihood.is_valid(values[row], modality.shape)].flat[0]
        shown = f"{'is' if x[row].size == 1 else 'contains'} {value}"
        expects = likelihood.expects(modality.shape)
        msg = f"modality {modality.name!r}, row {wrong} {shown}: {expects}"
        raise DataError(msg)
    return values.astype(likelihood.dtype, copy=False)


def _first_bad_row(x: NDArray[Any], is_bad: Any, chunk: int = 4096) -> int | None:
    """First row with a bad value, found in chunks so that memory stays bounded."""
    for start in range(0, len(x), chunk):
        bad = np.asarray(is_bad(x[start : start + chunk]))
        if bad.any():
            return start + int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    return None
