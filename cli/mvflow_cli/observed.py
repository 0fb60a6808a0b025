"""What a sample is conditioned on: rows of the store, or files that the user brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvflow_cli.opening import open_store, recorded_index, run_units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mvflow.config import Config
    from mvflow.runs import RunDirectory
    from mvflow_datasets import Store
    from mvflow_datasets.importing import ModalityRows, Reference

__all__ = ["OBS", "GivenRows", "read_observed"]

DEFAULT_ROWS = 64
OBS = "obs"
"""In place of a file: the first one that is given."""


@dataclass(frozen=True, slots=True)
class GivenRows:
    """Given modalities of some rows."""

    batch: dict[str, NDArray[Any]] = field(default_factory=dict)
    """name -> (rows, *shape); empty for samples from the prior."""
    labels: NDArray[np.int64] | None = None
    """Classes of the rows, if they come from a store that has them."""
    rows: str = ""
    """Rows of the store as `split:start:stop`, if any."""
    origin: dict[str, str] = field(default_factory=dict)
    """name -> "store", or the file that it was read from."""
    notes: tuple[str, ...] = ()
    """What was guessed and done while files were read, a sentence each."""
    row_names: tuple[str, ...] | None = None
    """Names of the rows in the first file that has some."""
    covariates: dict[str, Any] = field(default_factory=dict)
    """Columns `covariates/NAME` of the rows of the store, or name -> what is said of all rows."""
    gaps: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """name -> which rows or values are present, where some are not."""
    originals: dict[str, NDArray[Any]] = field(default_factory=dict)
    """name -> (rows, *shape) in the units of the file that it was read from."""
    numbers: NDArray[np.int64] | None = None
    """Of the rows in their split, where some of `rows` were left out."""
    has: NDArray[np.bool_] | None = None
    """Of all rows those that are here, where nothing was given of some."""
    all_names: tuple[str, ...] | None = None
    """Names of all rows, also of those of which nothing was given."""

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Values, and as columns `present/NAME` which of them are present: as models take them."""
        from mvflow.core import PRESENT

        return {**self.batch, **{PRESENT + name: mask for name, mask in self.gaps.items()}}


def read_observed(
    run: RunDirectory,
    config: Config,
    given: list[str],
    rows: str | None,
    store: Path | None,
    covariates: dict[str, Any] | None = None,
    missing: str | None = None,
    index: Sequence[str] = (),
    otherwise: str = "and are left out",
) -> GivenRows:
    """Read what `--given` and `--rows` name; rows of which nothing is given are left out.

    Args:
        run: the run directory.
        config: its configuration.
        given: modalities, with files or without.
        rows: of the store.
        store: another one.
        covariates: name -> value of all rows, or the column of a file that has one for each, in
            place of those that the store has.
        missing: what a missing value of a file means; if it may mean something, rows may lack
            files, too.
        index: column that names the rows of files, COLUMN or NAME=COLUMN each.
        otherwise: what becomes of rows of which nothing is given, as a note says it.

    Raises:
        UsageError: if a modality, a split or a range of rows does not exist.
        DataError: if a file cannot be used, or the numbers of rows differ.
    """
    from mvflow.core import COVARIATES, UsageError, check_batch, subset_of
    from mvflow_datasets.importing import Reference, read_covariate

    pairs = [text.partition("=")[::2] for text in given]
    names = subset_of([name for name, _ in pairs], config.specifications())
    files = {name: file for name, file in pairs if file}
    stored = [name for name in names if name not in files]
    if rows is not None and not stored:
        msg = "--rows names rows of the store, but no --given takes any: add --given NAME"
        raise UsageError(msg)
    seen = GivenRows()
    if stored:
        with open_store(run, config, store) as opened:
            seen = _stored(opened, config, stored, rows)
    read, notes, row_names = _read(run, config, files, store, missing, index)
    batch = seen.batch | {name: rows.values for name, rows in read.items()}
    check_batch(batch, config.specifications())
    origin = {name: files.get(name, "store") for name in names}
    known = {c.name for c in config.covariate_specs()} - {*(covariates or {})}
    kept = {COVARIATES + name for name in known}
    stored_covariates = {k: x for k, x in seen.covariates.items() if k in kept}
    values = {**stored_covariates, **(covariates or {})}
    count = len(next(iter(batch.values()), ()))
    for name, value in values.items():
        if isinstance(value, Reference):
            values[name] = read_covariate(_in_file(value, files), count, row_names)
    gaps = {name: rows.present for name, rows in read.items() if rows.present is not None}
    return _having_any(
        replace(
            seen,
            batch=batch,
            origin=origin,
            notes=notes,
            row_names=row_names,
            all_names=row_names,
            covariates=values,
            gaps=seen.gaps | gaps,
            originals={n: rows.original for n, rows in read.items() if rows.original is not None},
        ),
        otherwise,
    )


def _having_any(seen: GivenRows, otherwise: str) -> GivenRows:
    """Those rows of which anything is given, and a note of how many are left out.

    Raises:
        UsageError: if there are none.
    """
    import numpy as np

    from mvflow.core import UsageError, listed

    masks = [seen.gaps.get(name) for name in seen.batch]
    if not masks or any(mask is None for mask in masks):
        return seen
    has = np.any([mask.reshape(len(mask), -1).any(1) for mask in masks if mask is not None], 0)
    names = ", ".join(sorted(seen.batch))
    of_rows = f"of the rows {seen.rows}" if seen.rows else f"of {len(has):,} rows"
    if not has.any():
        hint = "choose others (--rows)" if seen.rows else "give a file that has values"
        msg = f"none {of_rows} has {names}: {hint}"
        raise UsageError(msg)
    kept, left_out = np.flatnonzero(has), np.flatnonzero(~has)
    if not len(left_out):
        return seen
    start = int(seen.rows.split(":")[1]) if seen.rows else 0
    which = (
        [seen.row_names[i] for i in left_out] if seen.row_names else (start + left_out).tolist()
    )
    counted = "" if seen.row_names else ", counted from 0"
    return replace(
        seen,
        batch={k: x[kept] for k, x in seen.batch.items()},
        gaps={k: x[kept] for k, x in seen.gaps.items() if not x[kept].all()},
        covariates={k: x[kept] if np.ndim(x) else x for k, x in seen.covariates.items()},
        originals={k: x[kept] for k, x in seen.originals.items()},
        row_names=None if seen.row_names is None else tuple(seen.row_names[i] for i in kept),
        labels=None if seen.labels is None else seen.labels[kept],
        numbers=start + kept if seen.rows else None,
        has=has,
        notes=(
            f"{len(left_out):,} {of_rows} lack {names} {otherwise}: {listed(which)}{counted}",
            *seen.notes,
        ),
    )


def _in_file(reference: Reference, files: Mapping[str, str]) -> Reference:
    """A column, where `obs:COLUMN` is one of the first file that is given."""
    from mvflow.core import UsageError
    from mvflow_datasets.importing import Reference

    if str(reference.path) != OBS:
        return reference
    if not files:
        msg = f"--covariate ...={OBS}:{reference.part}: no --given names a file that has it"
        raise UsageError(msg)
    return Reference(Reference.parse(next(iter(files.values()))).path, reference.part)


def _stored(store: Store, config: Config, names: list[str], rows: str | None) -> GivenRows:
    import numpy as np

    from mvflow.core import PRESENT, DataError, UsageError, covariate_columns, present_columns

    split, start, stop = _parsed(rows or f"{config.data.test}:0:")
    source = store[split]
    if stop is None:
        stop = min(len(source), start + DEFAULT_ROWS)
    if not 0 <= start < stop <= len(source):
        msg = (
            f"--rows {rows} is out of range: split {split!r} has the rows 0 to {len(source) - 1}, "
            f"so the widest is {split}:0:{len(source)}"
        )
        raise UsageError(msg)
    batch = source.take(np.arange(start, stop))
    missing = [name for name in names if name not in batch]
    if missing:
        msg = f"store {store.path} has no modality {missing[0]!r}"
        raise DataError(msg)
    labels = None if source.labels is None else source.labels[start:stop]
    return GivenRows(
        {n: batch[n] for n in names},
        labels,
        f"{split}:{start}:{stop}",
        covariates=covariate_columns(batch),
        gaps={
            name: mask
            for key, mask in present_columns(batch).items()
            if (name := key.removeprefix(PRESENT)) in names
        },
    )


def _parsed(rows: str) -> tuple[str, int, int | None]:
    from mvflow.core import UsageError

    split, *numbers = rows.split(":")
    try:
        start, stop = (int(number) if number else None for number in numbers)
    except ValueError:
        msg = f"cannot read --rows {rows!r}: expected split:start:stop, as in test:0:64"
        raise UsageError(msg) from None
    return split, start or 0, stop


def _read(
    run: RunDirectory,
    config: Config,
    files: Mapping[str, str],
    store: Path | None,
    missing: str | None,
    index: Sequence[str],
) -> tuple[dict[str, ModalityRows], tuple[str, ...], tuple[str, ...] | None]:
    """Files of the user's in the units of the store, rows in the order of their names."""
    from mvflow.core import Units
    from mvflow_datasets.importing import ReadOptions, join_rows, pair_rows, read_modality

    if not files:
        return {}, (), None
    specs = {m.name: m for m in config.specifications()}
    units = run_units(run, config, store)
    options = ReadOptions(missing=missing)
    columns, usual = _index_columns(index, files), recorded_index(run, config, store)
    read = {}
    for name, file in files.items():
        own = replace(options, index=columns.get(name), usual_index=usual.get(name))
        read[name] = read_modality(file, specs[name], units.get(name, Units()), own)
    notes = tuple(dict.fromkeys(note for rows in read.values() for note in rows.notes))
    if options.takes_missing:
        read, names = join_rows(read)
        return read, notes, None if names is None else tuple(names.tolist())
    named = [rows.row_names for rows in read.values() if rows.row_names is not None]
    row_names = tuple(named[0].tolist()) if named else None
    paired = pair_rows(read)
    return {n: replace(rows, values=paired[n]) for n, rows in read.items()}, notes, row_names


def _index_columns(index: Sequence[str], files: Mapping[str, str]) -> dict[str, str]:
    """Modality -> the column that names its rows; one without a modality is of all files."""
    of_one = [text.partition("=")[::2] for text in index if text.partition("=")[0] in files]
    of_all = [text for text in index if text.partition("=")[0] not in files]
    return {**dict.fromkeys(files, of_all[-1]), **dict(of_one)} if of_all else dict(of_one)
