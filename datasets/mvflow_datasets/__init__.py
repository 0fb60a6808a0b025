"""Datasets of mvflow: the HDF5 store, and the builders that make stores from published files."""

from mvflow_datasets.builders import (
    Builder,
    Content,
    Parameter,
    SourceArchive,
    SourceFile,
    SourceFolder,
    find_builder,
    known_builders,
)
from mvflow_datasets.downloading import Download
from mvflow_datasets.store import Split, SplitData, Store, write_store
from mvflow_datasets.writing import Blocks

__all__ = [
    "Blocks",
    "Builder",
    "Content",
    "Download",
    "Parameter",
    "SourceArchive",
    "SourceFile",
    "SourceFolder",
    "Split",
    "SplitData",
    "Store",
    "find_builder",
    "known_builders",
    "write_store",
]
