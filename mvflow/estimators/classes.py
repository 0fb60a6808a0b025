"""An estimator class for each system, with the system's settings as its signature."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

from mvflow.config import Config, with_part
from mvflow.core import registry
from mvflow.estimators.estimator import Estimator
from mvflow.runs import RunDirectory

__all__ = ["estimator_class", "load"]


@cache
def estimator_class(system: str) -> type[Estimator]:
    """The estimator of a system, named as the system's class is.

    Raises:
        UsageError: if there is no such system.

    Examples:
        >>> estimator_class("jnf").__name__
        'JNF'
    """
    kind = registry("systems").load(system)
    estimator = type(kind.__name__, (Estimator,), {"system": system, "__module__": __name__})
    estimator.__doc__ = inspect.cleandoc(kind.__doc__ or "") + _ARGUMENTS
    estimator.__signature__ = _signature(kind.Settings)  # type: ignore[attr-defined]
    return estimator


_ARGUMENTS = """

Args:
    modalities: what the data hold.
    latent_dim: dimension of z, or of its shared part.
    networks: modality -> {"encoder": ..., "decoder": ..., "projector": ...}.

The other arguments are the sections and parts of its configuration: a mapping with some of their
settings, the name of a kind, or an object such as `MAF(transforms=3)`.
"""


def _signature(settings: type[Config]) -> inspect.Signature:
    keyword, given = inspect.Parameter.KEYWORD_ONLY, {"modalities", "latent_dim"}
    parameters = [
        inspect.Parameter("modalities", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("latent_dim", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=int),
        inspect.Parameter("networks", keyword, default=None),
    ]
    for name, field in settings.model_fields.items():
        if name not in {*given, "format", "system"}:
            default = field.get_default(call_default_factory=True)
            parameters.append(inspect.Parameter(name, keyword, default=default))
    return inspect.Signature(parameters)


def load(
    path: str | Path, device: str = "cpu", *, objects: dict[str, Any] | None = None, **kinds: Any
) -> Estimator:
    """The estimator of a run directory, with the weights of its finished stages.

    Args:
        path: the directory.
        device: where to compute.
        objects: key of the configuration -> object, for what was passed as an object in Python and
            cannot be written to a file, such as {"modalities.scan.encoder": module}.
        kinds: other kinds of parts, such as subset="amortised" (see `with_parts`).

    Raises:
        UsageError: if `path` is not a run directory.
        DataError: if a file in it is damaged.

    Examples:
        >>> model.save(folder / "mine")
        >>> load(folder / "mine").trained_
        ('joint', 'flows')
        >>> load(folder / "mine", posterior="gaussian").trained_
        ('joint',)
    """
    run = RunDirectory.open(path)
    config = run.config(objects)
    for field, kind in kinds.items():
        config = with_part(config, field, kind)
    return estimator_class(config.system).from_config(config).restore(run, device)
