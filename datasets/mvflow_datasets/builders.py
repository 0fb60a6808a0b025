"""Builders: how a dataset is made from the files that its authors published, or from a seed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from mvflow import __version__
from mvflow.core import DataError, Modality, UsageError, registry, unknown_name
from mvflow.core.files import open_regular, reading
from mvflow_datasets.archives import ENDINGS
from mvflow_datasets.downloading import Download, Watcher, fetch, readable_size
from mvflow_datasets.writing import SplitData, write_store

__all__ = [
    "Builder",
    "Content",
    "Parameter",
    "Published",
    "SourceArchive",
    "SourceFile",
    "SourceFolder",
    "find_builder",
    "known_builders",
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A whole number that a user may choose: how many rows, how many pairings."""

    name: str
    default: int
    help: str
    minimum: int = 1

    def parse(self, value: int | str) -> int:
        """The value as a whole number, also from text as the command line has it.

        Raises:
            UsageError: if it is not a whole number, or below the minimum.

        Examples:
            >>> Parameter("rows", 100, "rows to draw").parse("20")
            20
        """
        try:
            number = int(str(value))
        except ValueError:
            number = None
        if number is None or number < self.minimum:
            msg = f"{self.name} is {value!r}: expected a whole number, at least {self.minimum}"
            raise UsageError(msg)
        return number


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a builder reads, in the form in which it is published.

    Args:
        name: published file name; one that ends in `.gz` may also lie there unpacked.
        where_published: the page that publishes it, for the message when it is missing.
        folder: subfolder of the source folder in which it is also looked for.
        download: where it can be fetched, if that is known.
    """

    name: str
    where_published: str
    folder: str = "."
    download: Download | None = None

    def destination(self, source: Path) -> Path:
        """Where it lies once it is fetched."""
        return source / self.folder / self.name

    def find(self, source: Path) -> Path | None:
        """Where the file lies under the source folder, or None."""
        names = dict.fromkeys([self.name, self.name.removesuffix(".gz")])
        places = (source / folder / name for folder in (".", self.folder) for name in names)
        return next((place for place in places if place.is_file()), None)

    def checksums(self, place: Path) -> dict[str, str]:
        """SHA-256 of what `find` found, by the name that the store records."""
        return {place.name: _sha256(place)}


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder of files that a builder reads all alike; how many is up to who fills it.

    Args:
        name: what `make` finds it by, and the first of the names that it may have.
        where_published: what is to be put there, for the message when it is missing.
        endings: ends of the names of its files, in lower case; other files are not looked at.
        also: other names that it may have.
    """

    name: str
    where_published: str
    endings: tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def download(self) -> None:
        """It cannot be fetched: what is in it is up to who fills it."""
        return

    def find(self, source: Path) -> Path | None:
        """The folder under the source folder, or None if there is none that holds such files."""
        places = (source / name for name in (self.name, *self.also))
        return next((place for place in places if self.members(place)), None)

    def members(self, place: Path) -> list[Path]:
        """Its files in the order of their names, numbers in them by value: 2.jpg before 10.jpg."""
        if not place.is_dir():
            return []
        files = (file for file in place.iterdir() if not file.name.startswith("."))
        return sorted(
            (file for file in files if file.name.lower().endswith(self.endings)), key=_by_number
        )

    def checksums(self, place: Path) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        return {file.name: _sha256(file) for file in self.members(place)}


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """A folder of so many files that they are published in an archive: either will do.

    Args:
        name: name of the folder; the archive has the same with `.zip`, `.tar` or `.tar.gz`.
        where_published: the page that publishes it, for the message when it is missing.
        inside: a folder that the folder holds, by which it is recognised.
        also: other names that it may have.
        download: where the archive can be fetched, under a name that `find` knows.
    """

    name: str
    where_published: str
    inside: str
    also: tuple[str, ...] = ()
    download: Download | None = None

    def destination(self, source: Path) -> Path:
        """Where the archive lies once it is fetched."""
        return source / (self.download.name if self.download else self.name)

    def find(self, source: Path) -> Path | None:
        """The folder or the archive; the source may itself be one of them."""
        if source.is_file():
            return source if source.name.lower().endswith(ENDINGS) else None
        names = (self.name, *self.also)
        folders = (source, *(source / name for name in names))
        inner = (folder / name for folder in folders for name in ("", *names))
        archives = (source / f"{name}{ending}" for name in names for ending in ENDINGS)
        inside = next((place for place in inner if (place / self.inside).is_dir()), None)
        return inside or next((place for place in archives if place.is_file()), None)

    def checksums(self, place: Path) -> dict[str, str]:
        """SHA-256 of the archive; of a folder, that of what `sha256sum` lists, sorted by name."""
        if place.is_file():
            return {place.name: _sha256(place)}
        files = sorted(str(f.relative_to(place)) for f in place.rglob("*") if f.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{_sha256(place / file)}  {file}\n".encode())
        return {self.name: digest.hexdigest()}


Published: TypeAlias = SourceFile | SourceFolder | SourceArchive
"""What a builder may read."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a builder makes and a store holds."""

    modalities: tuple[Modality, ...]
    splits: Mapping[str, SplitData]
    note: str = ""
    class_names: Mapping[int, str] = field(default_factory=dict)
    factor_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Builder:
    """A dataset that can be built; registered as an entry point of the group `mvflow.datasets`.

    Args:
        name: name of the dataset.
        summary: one line that says what it is.
        make: called with the found files by published name, the seed and all parameters.
        parameters: what a user may choose.
        files: what it reads; none for a dataset that is drawn from the seed alone.
        alternatives: what it reads instead where `files` are not all there, the first that is
            complete.
        about: how it is made, a few sentences for its data card.
        licence: under what terms the data may be used.
    """

    name: str
    summary: str
    make: Callable[..., Content]
    parameters: tuple[Parameter, ...] = ()
    files: tuple[Published, ...] = ()
    alternatives: tuple[tuple[Published, ...], ...] = ()
    about: str = ""
    licence: str = ""

    @property
    def forms(self) -> tuple[tuple[Published, ...], ...]:
        """The sets of files of which one must be there; none for a dataset that is drawn."""
        return (self.files, *self.alternatives) if self.files else ()

    @property
    def needs_source(self) -> bool:
        """Whether published files are read."""
        return bool(self.files)

    def build(
        self,
        path: str | Path,
        *,
        source: str | Path | None = None,
        seed: int = 0,
        **parameters: int | str,
    ) -> Path:
        """Build the dataset and write it as a store; the same arguments give the same bytes.

        Args:
            path: the file to write.
            source: the folder that holds the published files.
            seed: of all that is drawn.
            **parameters: see `parameters`.

        Returns:
            The path.

        Raises:
            UsageError: if a parameter is unknown or out of range, or `source` does not fit.
            DataError: if a file is missing or damaged, or the store cannot be written.
        """
        chosen = self._chosen(parameters)
        with reading(source or path):
            form, files = self._located(source)
        content = self.make(files, seed, **chosen)
        return write_store(
            path,
            name=self.name,
            modalities=content.modalities,
            splits=content.splits,
            builder={
                "name": self.name,
                "parameters": chosen,
                "seed": seed,
                "mvflow": __version__,
            },
            sources={
                name: digest
                for file in form
                for name, digest in file.checksums(files[file.name]).items()
            },
            note=content.note,
            class_names=content.class_names,
            factor_names=content.factor_names,
        )

    def download(self, source: str | Path, watcher: Watcher) -> None:
        """Fetch what is not in the source folder, so far as its address is known.

        What is there is not fetched again; a checksum other than the published one is a note, for
        the file may be a subset, or packed anew.

        Args:
            source: the folder into which the files are put.
            watcher: hears how it goes.

        Raises:
            UsageError: if the dataset is drawn from the seed.
            DataError: if a file cannot be fetched or written, or one is missing in the end.
        """
        if not self.needs_source:
            msg = f"dataset {self.name!r} is drawn from the seed: it has no files to download"
            raise UsageError(msg)
        folder = Path(source)
        with reading(folder):
            places = {file: file.find(folder) for file in self._nearest_form(folder)}
        for file, place in places.items():
            if isinstance(file, SourceFolder) or file.download is None:
                continue
            if place is None:
                fetch(file.download, file.destination(folder), watcher)
            elif place.name == file.download.name and (
                (other := file.download.checksum_of(place)) != file.download.checksum
            ):
                watcher.on_note(
                    f"{place} is not as published: expected the checksum "
                    f"{file.download.checksum}, found {other}; it is kept and used as it is "
                    "(remove it to fetch it anew)"
                )
        try:
            self._located(folder)
        except DataError as error:
            msg = f"{error}; no address is known to fetch from: put them there by hand"
            raise DataError(msg) from error

    def _nearest_form(self, source: Path) -> tuple[Published, ...]:
        """The form for which least must be found by hand, then for which most is there."""

        def lack(form: tuple[Published, ...]) -> tuple[int, int, int]:
            missing = [file for file in form if not file.find(source)]
            by_hand = sum(file.download is None for file in missing)
            return by_hand, len(missing) - len(form), -len(missing)

        return min(self.forms, key=lack)

    def _offer(self, source: Path | None) -> str:
        """What `--download` would do; empty if it would do nothing."""
        form = self._nearest_form(source) if source else self.forms[0]
        missing = [file for file in form if not (source and file.find(source))]
        downloads = [file.download for file in missing if file.download]
        if not downloads:
            return ""
        sizes = [d.size for d in downloads]
        size = f"{readable_size(sum(sizes))}{'' if all(sizes) else ' and more'}"
        is_complete = len(downloads) == len(missing) and len(self.forms) == 1
        what = "them" if is_complete else ", ".join(d.name for d in downloads)
        hosts = " and ".join(dict.fromkeys(d.host for d in downloads))
        how_much = size if any(sizes) else "size not known"
        return f"; --download would fetch {what} ({how_much}) from {hosts}"

    def _chosen(self, given: Mapping[str, int | str]) -> dict[str, int]:
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                raise UsageError(unknown_name(f"parameter of {self.name!r}", name, known))
        return {name: p.parse(given.get(name, p.default)) for name, p in known.items()}

    def _located(self, source: str | Path | None) -> tuple[tuple[Published, ...], dict[str, Path]]:
        """The form that is there, and where its files lie."""
        if not self.needs_source:
            if source is not None:
                msg = f"dataset {self.name!r} is drawn from the seed: it takes no source folder"
                raise UsageError(msg)
            return (), {}
        if source is None:
            listed = (", ".join(f.name for f in form) for form in self.forms)
            msg = (
                f"dataset {self.name!r} is made from published files: "
                f"name the folder that holds {'; or '.join(listed)}{self._offer(None)}"
            )
            raise UsageError(msg)
        lacking = []
        for form in self.forms:
            places = {file.name: file.find(Path(source)) for file in form}
            missing = [f"{f.name} ({f.where_published})" for f in form if not places[f.name]]
            if not missing:
                return form, {name: place for name, place in places.items() if place}
            lacking.append("; ".join(missing))
        listing = ", or else ".join(lacking)
        msg = f"source files are not in {source}: {listing}{self._offer(Path(source))}"
        raise DataError(msg)


def known_builders() -> list[str]:
    """Names of all datasets that can be built here, ours and other people's.

    Examples:
        >>> "toy" in known_builders()
        True
    """
    return registry("datasets").names()


def find_builder(name: str) -> Builder:
    """The builder of a dataset.

    Raises:
        UsageError: if there is none of that name; the message lists those that there are.

    Examples:
        >>> find_builder("toy").needs_source
        False
    """
    builder = registry("datasets").load(name)
    if not isinstance(builder, Builder):
        msg = f"the plug-in registered as dataset {name!r} is {builder!r}: expected a Builder"
        raise UsageError(msg)
    return builder


def _by_number(file: Path) -> list[tuple[int, str]]:
    """Sorts the numbers in a name by value, and before letters."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in parts]


def _sha256(path: Path) -> str:
    with open_regular(path) as file, reading(path):
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
