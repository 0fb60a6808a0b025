"""Types, errors, seeds and arrays: what every other module relies on. Imports no backend."""

from mvflow.core.arrays import Array, namespace
from mvflow.core.covariates import COVARIATES, Covariate, check_covariates, covariate_columns
from mvflow.core.door import as_array, as_numbers, check_count, check_labels, check_seed
from mvflow.core.errors import (
    ConfigError,
    DataError,
    LostError,
    MvflowError,
    NotFittedError,
    NumericsError,
    StageError,
    UnreliableDrawsWarning,
    UsageError,
    unknown_name,
)
from mvflow.core.latent import LatentPart, LatentSpace
from mvflow.core.observed import Observed
from mvflow.core.random import derive_seed, generator
from mvflow.core.registry import REGISTRIES, Registry, registry, trust
from mvflow.core.sources import (
    ArraySource,
    as_source,
    check_batch,
    check_rows,
    check_source,
    class_name,
    factor_name,
    fingerprint,
    subset_of,
)
from mvflow.core.types import (
    Batch,
    Column,
    Described,
    Modality,
    Source,
    Subset,
    rescale_weights,
)
from mvflow.core.units import Knots, Units

__all__ = [
    "COVARIATES",
    "REGISTRIES",
    "Array",
    "ArraySource",
    "Batch",
    "Column",
    "ConfigError",
    "Covariate",
    "DataError",
    "Described",
    "Knots",
    "LatentPart",
    "LatentSpace",
    "LostError",
    "Modality",
    "MvflowError",
    "NotFittedError",
    "NumericsError",
    "Observed",
    "Registry",
    "Source",
    "StageError",
    "Subset",
    "Units",
    "UnreliableDrawsWarning",
    "UsageError",
    "as_array",
    "as_numbers",
    "as_source",
    "check_batch",
    "check_count",
    "check_covariates",
    "check_labels",
    "check_rows",
    "check_seed",
    "check_source",
    "class_name",
    "covariate_columns",
    "derive_seed",
    "factor_name",
    "fingerprint",
    "generator",
    "namespace",
    "registry",
    "rescale_weights",
    "subset_of",
    "trust",
    "unknown_name",
]
