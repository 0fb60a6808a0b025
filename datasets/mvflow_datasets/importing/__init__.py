"""Data of one's own: arrays, tables, images and annotated matrices become a store."""

from mvflow_datasets.importing.importer import Imported, Wanted, import_data
from mvflow_datasets.importing.pairing import split_shares
from mvflow_datasets.importing.references import ReadOptions
from mvflow_datasets.importing.units import Units, read_units

__all__ = [
    "Imported",
    "ReadOptions",
    "Units",
    "Wanted",
    "import_data",
    "read_units",
    "split_shares",
]
