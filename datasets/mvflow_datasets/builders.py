"""Builders: how a dataset is made from the files that its authors published, or from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mvflow import __version__, plugins
from mvflow.core import DataError, Modality, UsageError, unknown_name
from mvflow_datasets.writing import SplitData, write_store

__all__ = [
    "Builder",
    "Content",
    "Parameter",
    "SourceFile",
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
    """

    name: str
    where_published: str
    folder: str = "."

    def find(self, source: Path) -> Path | None:
        """Where the file lies under the source folder, or None."""
        names = dict.fromkeys([self.name, self.name.removesuffix(".gz")])
        places = (source / folder / name for folder in (".", self.folder) for name in names)
        return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True, slots=True)
class Content:
    """What a builder makes and a store holds."""

    modalities: tuple[Modality, ...]
    splits: Mapping[str, SplitData]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Builder:
    """A dataset that can be built; registered as an entry point of the group `mvflow.datasets`.

    Args:
        name: name of the dataset.
        summary: one line that says what it is.
        make: called with the found files by published name, the seed and all parameters.
        parameters: what a user may choose.
        files: what it reads; none for a dataset that is drawn from the seed alone.
    """

    name: str
    summary: str
    make: Callable[..., Content]
    parameters: tuple[Parameter, ...] = ()
    files: tuple[SourceFile, ...] = ()

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
        files = self._located(source)
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
            sources={file.name: _sha256(file) for file in files.values()},
            note=content.note,
        )

    def _chosen(self, given: Mapping[str, int | str]) -> dict[str, int]:
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                raise UsageError(unknown_name(f"parameter of {self.name!r}", name, known))
        return {name: p.parse(given.get(name, p.default)) for name, p in known.items()}

    def _located(self, source: str | Path | None) -> dict[str, Path]:
        if not self.needs_source:
            if source is not None:
                msg = f"dataset {self.name!r} is drawn from the seed: it takes no source folder"
                raise UsageError(msg)
            return {}
        if source is None:
            msg = (
                f"dataset {self.name!r} is made from published files: "
                f"name the folder that holds {', '.join(f.name for f in self.files)}"
            )
            raise UsageError(msg)
        found = {file.name: file.find(Path(source)) for file in self.files}
        missing = [f"{f.name} ({f.where_published})" for f in self.files if not found[f.name]]
        if missing:
            msg = f"source files are not in {source}: {'; '.join(missing)}"
            raise DataError(msg)
        return {name: place for name, place in found.items() if place}


def known_builders() -> list[str]:
    """Names of all datasets that can be built here, ours and other people's.

    Examples:
        >>> "toy" in known_builders()
        True
    """
    return plugins.known("datasets")


def find_builder(name: str) -> Builder:
    """The builder of a dataset.

    Raises:
        UsageError: if there is none of that name; the message lists those that there are.

    Examples:
        >>> find_builder("toy").needs_source
        False
    """
    builder = plugins.find("datasets", name)
    if not isinstance(builder, Builder):
        msg = f"the plug-in registered as dataset {name!r} is {builder!r}: expected a Builder"
        raise UsageError(msg)
    return builder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
