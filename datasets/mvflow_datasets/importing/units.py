"""Units of the modalities of a store, and how they are kept in it."""

from __future__ import annotations

from pathlib import Path

from mvflow.core import Units
from mvflow_datasets.store import Store

__all__ = ["read_units"]


def read_units(path: str | Path) -> dict[str, Units]:
    """Units of each modality of a store; those of a store that was built have no effect.

    Raises:
        DataError: if the store cannot be read.
    """
    with Store.open(path) as store:
        return dict(store.units)
