"""Data of one's own: arrays, tables, images and annotated matrices become a store."""

from mvflow.core import Units
from mvflow_datasets.importing.frames import as_frame
from mvflow_datasets.importing.importer import Imported, Wanted, import_data
from mvflow_datasets.importing.pairing import split_shares
from mvflow_datasets.importing.references import ReadOptions, Reference
from mvflow_datasets.importing.rereading import (
    ModalityRows,
    join_rows,
    pair_rows,
    read_covariate,
    read_modality,
)
from mvflow_datasets.importing.units import read_units

__all__ = [
    "Imported",
    "ModalityRows",
    "ReadOptions",
    "Reference",
    "Units",
    "Wanted",
    "as_frame",
    "import_data",
    "join_rows",
    "pair_rows",
    "read_covariate",
    "read_modality",
    "read_units",
    "split_shares",
]
