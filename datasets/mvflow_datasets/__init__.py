"""Datasets of mvflow: the HDF5 store, and the builders that make stores from published files."""

from mvflow_datasets.builders import (
    Builder,
    Content,
    Parameter,
    SourceFile,
    find_builder,
    known_builders,
)
from mvflow_datasets.store import Split, SplitData, Store, write_store

__all__ = [
    "Builder",
    "Content",
    "Parameter",
    "SourceFile",
    "Split",
    "SplitData",
    "Store",
    "find_builder",
    "known_builders",
    "write_store",
]
