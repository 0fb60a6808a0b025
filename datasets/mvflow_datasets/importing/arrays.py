"""Arrays in `.npy` and `.npz` files; never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, unknown_name
from mvflow_datasets.archives import check_zip
from mvflow_datasets.importing.missing import refuse_bad
from mvflow_datasets.importing.references import Raw, ReadOptions, Reference

__all__ = ["read_array"]


def read_array(at: Reference, options: ReadOptions | None = None) -> Raw:
    """The array of a `.npy` file (mapped, not read), or one array of a `.npz` file.

    Raises:
        DataError: if the file is damaged, has no such array, or holds what is not numbers.
    """
    values = _npz(at) if at.path.suffix.lower() == ".npz" else _npy(at)
    if values.ndim == 0:
        msg = f"{at} holds a single value: expected rows"
        raise DataError(msg)
    if values.dtype.kind not in "biufSU":
        msg = f"{at} has values of type {values.dtype}: expected numbers"
        raise DataError(msg)
    refuse_bad(values, str(at), options=options)
    return Raw(values)


def _npy(at: Reference) -> NDArray[Any]:
    if at.part:
        msg = f"{at.path} holds one array and has no part {at.part!r}: leave ':{at.part}' out"
        raise DataError(msg)
    try:
        with at.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        _refuse_objects(at, dtype)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.load(at.path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except (ValueError, EOFError) as error:
        msg = f"{at.path} is truncated or not a .npy file: save it again with numpy.save"
        raise DataError(msg) from error


def _npz(at: Reference) -> NDArray[Any]:
    try:
        if not zipfile.is_zipfile(at.path):
            raise zipfile.BadZipFile
        with np.load(at.path, allow_pickle=False) as archive:
            names = list(archive.files)
            if not at.part and len(names) != 1:
                msg = (
                    f"{at.path} holds the arrays {', '.join(names) or 'none'}: "
                    f"name one, as in {at.path}:{(names or ['x'])[0]}"
                )
                raise DataError(msg)
            name = at.part or names[0]
            if name not in names:
                raise DataError(f"{at.path}: {unknown_name('array', name, names)}")
            inside = name if name in archive.zip.namelist() else f"{name}.npy"
            check_zip(archive.zip, inside, f"array {name!r} of {at.path}")
            values = archive[name]
    except DataError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            _refuse_objects(at, np.dtype(object))
        msg = f"{at.path} is truncated or not a .npz file: save it again with numpy.savez"
        raise DataError(msg) from error
    return np.asarray(values)


def _refuse_objects(at: Reference, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        msg = (
            f"{at} holds Python objects, and reading them could run code of its author: "
            "save an array of numbers or texts"
        )
        raise DataError(msg)
