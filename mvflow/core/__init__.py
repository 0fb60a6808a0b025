"""Types, errors, seeds and arrays: what every other module relies on. Imports no backend."""

from mvflow.core.arrays import Array, namespace
from mvflow.core.errors import (
    ConfigError,
    DataError,
    LostError,
    MvflowError,
    NotFittedError,
    NumericsError,
    StageError,
    UsageError,
    unknown_name,
)
from mvflow.core.random import derive_seed, generator
from mvflow.core.sources import (
    ArraySource,
    as_source,
    check_batch,
    check_rows,
    fingerprint,
    subset_of,
)
from mvflow.core.types import (
    Batch,
    Column,
    Likelihood,
    Modality,
    Source,
    Subset,
    rescale_weights,
)

__all__ = [
    "Array",
    "ArraySource",
    "Batch",
    "Column",
    "ConfigError",
    "DataError",
    "Likelihood",
    "LostError",
    "Modality",
    "MvflowError",
    "NotFittedError",
    "NumericsError",
    "Source",
    "StageError",
    "Subset",
    "UsageError",
    "as_source",
    "check_batch",
    "check_rows",
    "derive_seed",
    "fingerprint",
    "generator",
    "namespace",
    "rescale_weights",
    "subset_of",
    "unknown_name",
]
