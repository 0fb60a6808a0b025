"""mvflow: learn several modalities jointly, generate any of them from any others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvflow.core import ArraySource as ArraySource
    from mvflow.core import Modality as Modality
    from mvflow.estimators import JNF as JNF
    from mvflow.estimators import JNFShared as JNFShared
    from mvflow.estimators import load as load
    from mvflow.evaluation import check_calibration as check_calibration
    from mvflow.evaluation import evaluate as evaluate

__version__ = "0.1.0"

__all__ = [
    "JNF",
    "ArraySource",
    "JNFShared",
    "Modality",
    "check_calibration",
    "evaluate",
    "load",
]

_HOMES = {
    "ArraySource": "mvflow.core",
    "JNF": "mvflow.estimators",
    "JNFShared": "mvflow.estimators",
    "Modality": "mvflow.core",
    "check_calibration": "mvflow.evaluation",
    "evaluate": "mvflow.evaluation",
    "load": "mvflow.estimators",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mvflow` costs little."""
    if name not in _HOMES:
        msg = f"module 'mvflow' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)
