"""Every kind of file that can be imported, by its suffix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mvflow.core import DataError
from mvflow.core.files import open_regular
from mvflow_datasets.importing.annotated import read_annotated, read_observations
from mvflow_datasets.importing.arrays import read_array
from mvflow_datasets.importing.images import image_files, read_images
from mvflow_datasets.importing.missing import absent
from mvflow_datasets.importing.references import (
    HINT,
    Raw,
    ReadOptions,
    Reference,
    refuse_missing,
)
from mvflow_datasets.importing.tables import read_column, read_table

__all__ = ["checksum", "read_row_values", "read_values"]

ARRAYS, TABLES, ANNOTATED = {".npy", ".npz"}, {".csv", ".tsv", ".parquet"}, {".h5ad", ".h5mu"}


def read_values(
    at: Reference,
    without: Collection[str] = (),
    options: ReadOptions | None = None,
    columns: Sequence[str] | None = None,
    levels: Mapping[str, tuple[str, ...]] | None = None,
) -> Raw:
    """Values of a modality, NaN where one is absent.

    Args:
        at: where they lie.
        without: columns of a table to leave out.
        options: what the user says of the file.
        columns: of a table that are read, where the reference names none.
        levels: column of a table -> its classes, where they are known already.

    Raises:
        DataError: if they cannot be read or used; the message names the place.
    """
    raw = _by_kind(
        at,
        folder=lambda at: read_images(at, options),
        array=lambda at: read_array(at, options),
        table=lambda at: read_table(at, without, options, columns, levels),
        annotated=lambda at: read_annotated(at, options),
    )
    if not raw.values.shape[0]:
        msg = f"{at} has no rows"
        raise DataError(msg)
    return _settled(raw, at, options or ReadOptions())


def read_row_values(at: Reference, options: ReadOptions | None = None) -> Raw:
    """One value for each row: labels, groups, keys or a covariate.

    Raises:
        DataError: if they cannot be read, are not one value for each row, or one is missing.
    """
    raw = _by_kind(
        at,
        folder=_names,
        array=lambda at: read_array(at, options),
        table=lambda at: read_column(at, options),
        annotated=lambda at: read_observations(at, options),
    )
    values = raw.values
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        msg = f"{at} has shape {values.shape}: expected one value for each row"
        raise DataError(msg)
    raw = Raw(values, raw.columns, raw.keys, lacks=raw.lacks)
    return _settled(raw, at, options or ReadOptions())


def _settled(raw: Raw, at: Reference, options: ReadOptions) -> Raw:
    """What was read, with what is missing as the options say."""
    if not options.takes_missing:
        refuse_missing(raw.values, str(at), options, f"; {HINT}")
        return raw
    raw = absent(raw, str(at), options)
    if raw.lacks is not None and raw.lacks.all():
        msg = f"{at}: no row has a value that is not missing"
        raise DataError(msg)
    return raw


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all images of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for image in image_files(path):
        digest.update(f"{image.name} {checksum(image)}\n".encode())
    return digest.hexdigest()


def _by_kind(
    at: Reference,
    *,
    folder: Callable[[Reference], Raw],
    array: Callable[[Reference], Raw],
    table: Callable[[Reference], Raw],
    annotated: Callable[[Reference], Raw],
) -> Raw:
    suffix = at.path.suffix.lower()
    with _readable(at.path):
        if not at.path.exists():
            msg = f"there is no file or folder {at}"
            raise DataError(msg)
        if at.path.is_dir():
            return folder(at)
        open_regular(at.path).close()
        for known, read in ((ARRAYS, array), (TABLES, table), (ANNOTATED, annotated)):
            if suffix in known:
                return read(at)
    listed = ", ".join(sorted(ARRAYS | TABLES | ANNOTATED))
    what = f"ends in {suffix!r}" if suffix else "has no suffix"
    msg = f"{at.path} {what}: known are {listed} and folders of images"
    raise DataError(msg)


def _names(at: Reference) -> Raw:
    keys = np.array([f.stem for f in image_files(at.path)], np.str_)
    return Raw(keys, keys=keys)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        msg = f"cannot read {str(path)[:200]}: {reason}"
        raise DataError(msg) from error
    except MemoryError as error:
        msg = f"{path} is larger than the memory: import fewer columns or rows"
        raise DataError(msg) from error
