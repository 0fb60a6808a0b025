"""Drawing samples, and the HDF5 file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvflow_cli.observed import GivenRows
from mvflow_cli.output import finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mvflow.estimators import Estimator

__all__ = ["Samples", "check_replaceable", "draw_samples", "write_samples"]

FORMAT = "mvflow-samples"
FORMAT_VERSION = 1


class Samples(NamedTuple):
    """What was drawn."""

    generated: dict[str, NDArray[np.float32]]
    """name -> (n, rows, *shape)."""
    latent: NDArray[np.float32]
    """(n, rows, latent_dim)."""
    diagnostics: dict[str, Any]
    """Summary of the draws' quality."""
    noise: dict[str, bool]
    """name -> whether values are draws of p(x|z), rather than its means."""


def draw_samples(
    model: Estimator,
    seen: GivenRows,
    n: int,
    *,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    sampler: str | Mapping[str, Any] | None = None,
    noise: bool | None = None,
    hold: Mapping[str, Any] | None = None,
) -> Samples:
    """Draw z given what is observed and decode it; by default all that is not observed.

    Args:
        model: a trained model.
        seen: what is observed.
        n: draws per row.
        targets: what to decode.
        seed: of the draws.
        sampler: another sampler, or changes to the configured one.
        noise: whether to draw x; None: as the likelihoods have it.
        hold: covariates at which to generate.

    Raises:
        NumericsError: if a value is not finite.
        UsageError: if a target is unknown.
    """
    import numpy as np

    from mvflow.core import NumericsError, subset_of

    names = [m.name for m in model.modalities]
    missing = [name for name in names if name not in seen.batch] or names
    wanted = subset_of(targets or missing, model.modalities)
    generated, draws = model.generate(
        seen.columns or None,
        n,
        targets=wanted,
        noise=noise,
        hold=hold,
        seed=seed,
        sampler=sampler,
        covariates=seen.covariates or None,
        full_output=True,
    )
    for name, values in {"latent": draws.z, **generated}.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][1])
            msg = f"samples of {name!r} are not finite at row {row}: nothing was written"
            raise NumericsError(msg)
    summary = draws.diagnostics.summary()
    return Samples(generated, draws.z, summary, model.has_noise(wanted, noise))


def check_replaceable(path: Path) -> None:
    """Check the name of a file of samples, and that nothing but older ones would be replaced.

    Raises:
        UsageError: if there is another kind of file, or the name is that of one.
    """
    import h5py

    from mvflow.core import DataError, UsageError
    from mvflow.core.files import open_regular
    from mvflow_datasets.hdf5 import check_hdf5_name

    check_hdf5_name(path, "samples are")
    if not path.exists():
        return
    try:
        with open_regular(path) as raw, h5py.File(raw, "r") as file:
            is_samples = file.attrs.get("format") == FORMAT
    except (DataError, OSError):
        is_samples = False
    if not is_samples:
        msg = f"{path} exists and is not a file of samples: choose another name for --out"
        raise UsageError(msg)


def write_samples(path: Path, samples: Samples, seen: GivenRows, about: Mapping[str, Any]) -> None:
    """Write samples, whole or not at all.

    Args:
        path: of the HDF5 file.
        samples: what was drawn.
        seen: what it was drawn from.
        about: attributes; mappings are written as JSON.

    Raises:
        DataError: if the disk is full or the folder cannot be written.
    """
    from mvflow import __version__
    from mvflow_datasets.hdf5 import create_hdf5

    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "mvflow": __version__,
        **{k: json.dumps(finite(v)) if isinstance(v, Mapping) else v for k, v in about.items()},
        "noise": json.dumps(samples.noise),
        "diagnostics": json.dumps(finite(samples.diagnostics)),
        **{f"diagnostics.{k}": v for k, v in samples.diagnostics.items()},
    }
    arrays: dict[str, NDArray[Any]] = {
        f"samples/{name}": x for name, x in samples.generated.items()
    }
    arrays["latent"] = samples.latent
    arrays |= {f"given/{name}": x for name, x in seen.columns.items()}
    if seen.numbers is not None:
        arrays["rows"] = seen.numbers
    if seen.labels is not None:
        arrays["labels"] = seen.labels
    with create_hdf5(path) as file:
        file.attrs.update(attributes)
        for key, array in arrays.items():
            file.create_dataset(key, data=array)
