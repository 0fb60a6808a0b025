"""What a store says of itself at its beginning: where every array lies, and the hash of it.

A store is an HDF5 file behind a block that HDF5 leaves to its user. The block holds

    mvflow-store FORMAT LENGTH SHA-256      (and line feeds, up to 128 bytes)
    {"name": ..., "arrays": {"train/image": {"dtype": ..., "offset": ..., "blocks": ...}}, ...}

and zeros. FORMAT is 2; where rows lack a modality, some of its values or their class, it is 3, so
that a mvflow that does not know of such rows refuses the store. Arrays are contiguous and hashed
in blocks of whole rows; `rest` is the hash of all other bytes of the file. So each byte is covered
by one hash, and no array needs HDF5 to be read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvflow.core import Covariate, DataError, Modality
from mvflow.core.files import check_shape, parse_json
from mvflow_datasets.opened import OpenedFile

__all__ = [
    "ABOUT",
    "BLOCK_BYTES",
    "FORMATS",
    "Entry",
    "Manifest",
    "Misfit",
    "block_rows",
    "damaged",
    "hash_of",
]

ABOUT = "_about/"
"""Where arrays lie that no source reads."""

BLOCK_BYTES = 1 << 20
"""Bytes of a block of rows: what is made, hashed or written at a time stays in the cache."""

COMPLETE, INCOMPLETE = 2, 3
FORMATS = (COMPLETE, INCOMPLETE)
"""Formats that are read; a store of the second says where something is absent."""

MAX_BYTES = 1 << 26
"""Bytes that a manifest, or all that is neither manifest nor array, may have."""

MAX_ROW = 1 << 40
"""Values that one row may have."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_FLAGS = slice(20, 24)  # of HDF5's superblock: whether somebody has the file open for writing
_HEADER = 128
_DIGEST = 64
_TYPES = r"\|[bui]1|<[ui][248]|<f[248]|\|S[1-9]\d{0,6}"
_ALTERED = "its manifest was altered"
_MODALITY = {
    "name": str,
    "shape": [int],
    "likelihood": (str, dict),
    "scale": float,
    "weight": (float, type(None)),
}
_BUILDER = {
    **{"name": str, "parameters": dict, "seed": (int, type(None)), "mvflow": str},
    "reading": {str: dict},
}
_OPTIONAL = {"covariates": {str: dict}, "absent": {str: {str: int}}}
"""Keys that a manifest has only where there is something to say."""
_SHAPE = {
    "name": str,
    "note": str,
    "modalities": [_MODALITY],
    "splits": {str: int},
    "builder": dict,
    "sources": {str: str},
    "arrays": {str: {"dtype": str, "shape": [int], "offset": int, "blocks": str}},
    "start": int,
    "size": int,
    "rest": str,
}


class Misfit(Exception):
    """A part of a store does not fit the rest; its message is a part of a sentence."""


def block_rows(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Rows of an array that make one block.

    Examples:
        >>> block_rows(np.dtype("f4"), (60000, 1, 64, 64)), block_rows(np.dtype("u1"), (3, 10**7))
        (64, 1)
    """
    return max(1, BLOCK_BYTES // (dtype.itemsize * math.prod(shape[1:])))


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a store: what it is, where it lies, and the hash of each of its blocks."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    blocks: str

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def digest(self, block: int) -> str:
        """SHA-256 of a block."""
        return self.blocks[_DIGEST * block : _DIGEST * (block + 1)]


class Gap(NamedTuple):
    """Bytes of a file that belong to no array."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a store says of itself.

    Args:
        name: of the data set.
        note: what a reader of results must know.
        modalities: specifications.
        splits: name -> rows.
        builder: what made the data.
        sources: SHA-256 of each file that the data came from.
        arrays: every array by its place in the HDF5 file.
        start: where the HDF5 file begins, a power of two.
        size: bytes of the whole file.
        rest: SHA-256 of what is behind `start` and in no array.
        covariates: what is known of each row; stores without any do not mention them.
        absent: split -> modality -> rows that lack it, `present/NAME` -> values that are missing
            in those that have it, `labels` -> rows of unknown class; only where there are some.
    """

    name: str
    note: str
    modalities: tuple[Modality, ...]
    splits: Mapping[str, int]
    builder: Mapping[str, Any]
    sources: Mapping[str, str]
    arrays: Mapping[str, Entry]
    start: int
    size: int
    rest: str
    covariates: Mapping[str, Covariate] = field(default_factory=dict)
    absent: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def format_version(self) -> int:
        """Of the store: another one where something is absent."""
        return INCOMPLETE if self.absent else COMPLETE

    def encode(self) -> bytes:
        """The block at the beginning of the file, without the zeros behind it."""
        text = self._text()
        digest = hashlib.sha256(text).hexdigest()
        line = f"mvflow-store {self.format_version} {len(text)} {digest}"
        return line.encode().ljust(_HEADER, b"\n") + text

    def room(self) -> int:
        """Bytes that HDF5 leaves for such a block: a power of two, at least 512."""
        return 1 << max(9, (len(self.encode()) - 1).bit_length())

    def _text(self) -> bytes:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["modalities"] = [m.to_dict() for m in self.modalities]
        values["arrays"] = {key: asdict(entry) for key, entry in self.arrays.items()}
        values |= self._covariate_specs()
        told = {key: x for key, x in values.items() if key not in _OPTIONAL or x}
        return json.dumps(told).encode()

    def _covariate_specs(self) -> dict[str, Any]:
        specs = {name: c.to_dict() for name, c in self.covariates.items()}
        return {"covariates": specs} if specs else {}

    @classmethod
    def read(cls, file: OpenedFile) -> Manifest:
        """Read the block at the beginning of a store, and check all of the file but its arrays.

        Raises:
            DataError: if it is no store, one of another version, or damaged.
        """
        version, length, digest = _header(file)
        text = file.read(_HEADER, min(file.size, _HEADER + min(length, MAX_BYTES)))
        try:
            if hashlib.sha256(text).hexdigest() != digest:
                raise Misfit(_ALTERED)
            manifest = cls._decoded(text)
            if manifest.format_version != version:
                raise Misfit(_ALTERED)
            manifest._check(file)
        except Misfit as error:
            raise damaged(file.path, error) from error
        return manifest

    @classmethod
    def _decoded(cls, text: bytes) -> Manifest:
        try:
            values = parse_json(text, "its manifest", _SHAPE)
            for key in _BUILDER.keys() & values["builder"]:
                known = values["builder"][key]
                check_shape(known, _BUILDER[key], "its manifest", f"builder.{key}")
            modalities = tuple(
                Modality.from_dict({key: spec[key] for key in _MODALITY})
                for spec in values["modalities"]
            )
            for key in _OPTIONAL.keys() & values:
                check_shape(values[key], _OPTIONAL[key], "its manifest", key)
            specs = values.get("covariates", {})
            covariates = {name: Covariate.from_dict(name, raw) for name, raw in specs.items()}
        except (DataError, TypeError, ValueError) as error:
            raise Misfit(str(error)) from error
        if set(values) - set(_OPTIONAL) != set(_SHAPE):
            raise Misfit(_ALTERED)
        entries = {
            key: Entry(a["dtype"], tuple(a["shape"]), a["offset"], a["blocks"])
            for key, a in values["arrays"].items()
        }
        typed = {"modalities": modalities, "arrays": entries, "covariates": covariates}
        manifest = cls(**values | typed)
        if manifest._text() != text:
            raise Misfit(_ALTERED)
        return manifest

    def fingerprint(self, split: str = "", names: Iterable[str] = ()) -> str:
        """SHA-256 of the specifications and of arrays, by place: type, shape and hashes.

        Args:
            split: whose arrays; by default those of all splits, with labels and factors.
            names: which arrays of the split.
        """
        digest = hashlib.sha256(json.dumps([m.to_dict() for m in self.modalities]).encode())
        if self.covariates:
            digest.update(json.dumps(self._covariate_specs()).encode())
        arrays = {name: self.arrays[f"{split}/{name}"] for name in names} if split else self.arrays
        for key, entry in sorted(arrays.items()):
            if not key.startswith(ABOUT):
                line = f"{key} {entry.dtype} {entry.shape} {entry.blocks}\n"
                digest.update(line.encode())
        return digest.hexdigest()

    def gaps(self) -> list[Gap]:
        """Where the bytes lie that are in no array.

        Raises:
            Misfit: if arrays overlap, or lie outside the file.
        """
        at, gaps = self.start, []
        for key, entry in sorted(self.arrays.items(), key=lambda item: item[1].offset):
            if not entry.nbytes:
                continue
            if entry.offset < at or entry.offset + entry.nbytes > self.size:
                msg = f"{key} lies outside the file or over another array"
                raise Misfit(msg)
            gaps.append(Gap(at, entry.offset))
            at = entry.offset + entry.nbytes
        return [*gaps, Gap(at, self.size)]

    def _check(self, file: OpenedFile) -> None:
        """Check that the entries fit the file, and all of it that is in no array its hash."""
        if file.size != self.size:
            msg = f"it has {file.size:,} bytes, expected {self.size:,}"
            raise Misfit(msg)
        for key, entry in self.arrays.items():
            _check_entry(key, entry)
        head = _HEADER + len(self._text())
        gaps = self.gaps()
        if self.start < head or sum(gap.stop - gap.start for gap in gaps) > MAX_BYTES:
            raise Misfit(_ALTERED)
        if any(file.read(self.start + _FLAGS.start, self.start + _FLAGS.stop)):
            msg = (
                f"{file.path} is open for writing in another program, or was not closed by it: "
                "close it there, or copy the store again"
            )
            raise DataError(msg)
        if any(file.read(head, self.start)) or hash_of(file, gaps) != self.rest:
            msg = "what HDF5 says of its arrays was altered"
            raise Misfit(msg)


def hash_of(file: OpenedFile, gaps: Iterable[Gap]) -> str:
    """SHA-256 of parts of a file."""
    digest = hashlib.sha256()
    for gap in gaps:
        digest.update(file.read(gap.start, gap.stop))
    return digest.hexdigest()


def damaged(path: Path, reason: object) -> DataError:
    """The error of a store that is not as it was written."""
    return DataError(f"store {path} is damaged ({reason}): build it or copy it again")


def _header(file: OpenedFile) -> tuple[int, int, str]:
    """Format, length of the manifest and SHA-256 of it."""
    head = file.read(0, min(file.size, _HEADER))
    match = re.fullmatch(rb"mvflow-store ([1-9]\d{0,8}) ([1-9]\d{0,8}) ([0-9a-f]{64})\n+", head)
    if not match or len(head) != _HEADER:
        if head.startswith(_HDF5):
            msg = (
                f"{file.path} is an HDF5 file but not an mvflow store of format {COMPLETE}: "
                f"if mvflow 0.1 wrote it, run 'mvflow data convert {file.path} NEW.h5', "
                "else build one with 'mvflow data build' or 'mvflow data import'"
            )
        else:
            msg = (
                f"{file.path} is not an mvflow store, or its beginning is damaged: "
                "build it with 'mvflow data build' or 'mvflow data import', or copy it again"
            )
        raise DataError(msg)
    version = int(match[1])
    if version not in FORMATS:
        newer = version > max(FORMATS)
        age, cure = ("a newer", "upgrade mvflow") if newer else ("an older", "build it anew")
        msg = (
            f"{file.path} was written by {age} mvflow (store format {version}, "
            f"this one reads {COMPLETE} and {INCOMPLETE}): {cure}"
        )
        raise DataError(msg)
    return version, int(match[2]), match[3].decode()


def _check_entry(key: str, entry: Entry) -> None:
    row = math.prod(entry.shape[1:])
    plain = key.isascii() and key.isprintable() and re.fullmatch(_TYPES, entry.dtype)
    lengths = entry.shape and entry.shape[0] >= 0 and min(entry.shape[1:], default=1) > 0
    if not plain or not lengths or row > MAX_ROW:
        msg = f"array {key[:40]!r} is {entry.dtype[:9]} of shape {entry.shape[:9]}"
        raise Misfit(msg)
    blocks = -(-entry.shape[0] // block_rows(np.dtype(entry.dtype), entry.shape))
    if len(entry.blocks) != _DIGEST * blocks:
        msg = f"array {key!r} has {len(entry.blocks) // _DIGEST} hashes, expected {blocks}"
        raise Misfit(msg)
