"""mvflow: learn several modalities jointly, generate any of them from any others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvflow.core import ArraySource as ArraySource
    from mvflow.core import Covariate as Covariate
    from mvflow.core import Modality as Modality
    from mvflow.core import UnreliableDrawsWarning as UnreliableDrawsWarning
    from mvflow.estimators import Estimator as Estimator
    from mvflow.estimators import estimator_class as estimator_class
    from mvflow.estimators import load as load
    from mvflow.evaluation import check_calibration as check_calibration
    from mvflow.evaluation import evaluate as evaluate
    from mvflow.training import Callback as Callback
    from mvflow.training import EarlyStopping as EarlyStopping
    from mvflow.training import ModelCheckpoint as ModelCheckpoint

__version__ = "0.1.0"

_HOMES = {
    "ArraySource": "mvflow.core",
    "Callback": "mvflow.training",
    "Covariate": "mvflow.core",
    "EarlyStopping": "mvflow.training",
    "Estimator": "mvflow.estimators",
    "Modality": "mvflow.core",
    "ModelCheckpoint": "mvflow.training",
    "UnreliableDrawsWarning": "mvflow.core",
    "check_calibration": "mvflow.evaluation",
    "estimator_class": "mvflow.estimators",
    "evaluate": "mvflow.evaluation",
    "load": "mvflow.estimators",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mvflow` costs little.

    Besides the names of `__all__` there is an estimator for each registered system, by the name
    of the system's class: `mvflow.JNF`.
    """
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if not name.startswith("_"):
        from mvflow.core.registry import registry

        system = registry("systems").by_class_name(name)
        if system is not None:
            return importlib.import_module("mvflow.estimators").estimator_class(system)
    msg = f"module 'mvflow' has no attribute {name!r}"
    raise AttributeError(msg)
