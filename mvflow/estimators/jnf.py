"""JNF and JNF-Shared, the two systems of the paper."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from mvflow.core import Modality
from mvflow.estimators.base import Estimator
from mvflow.runs import RunDirectory

__all__ = ["JNF", "JNFShared", "load"]


class JNF(Estimator):
    """Joint VAE with normalizing-flow posteriors (paper 3.1 to 3.3).

    Args:
        modalities: what the data hold.
        latent_dim: dimension of z.
        posterior: family of the unimodal posteriors: "gaussian", "maf", "conditional-maf", "nsf".
        sections: further sections of the configuration, such as `joint={"epochs": 50}`, and
            `networks={"image": {"encoder": {"kind": "conv", "channels": [32, 64]}}}`.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
        >>> model = JNF([Modality("a", (3,)), Modality("b", (3,))], latent_dim=2,
        ...             joint={"epochs": 1}, flows={"epochs": 1})
        >>> model.fit({"a": x, "b": -x}, seed=0).generate(given={"a": x[:5]}, n=4)["b"].shape
        (4, 5, 3)
    """

    kind: ClassVar[str] = "jnf"

    def __init__(
        self,
        modalities: Iterable[Modality],
        latent_dim: int,
        *,
        posterior: str = "maf",
        **sections: Any,
    ) -> None:
        sections["flows"] = {"posterior": posterior, **sections.get("flows", {})}
        super().__init__(list(modalities), latent_dim, **sections)


class JNFShared(Estimator):
    """JNF whose posteriors see only what the modalities share, g_j(x_j) (paper 3.4).

    Args:
        modalities: what the data hold.
        latent_dim: dimension of z.
        posterior: family of the unimodal posteriors.
        projector: how g_j are trained: "contrastive" or "dcca".
        shared_dim: dimension of g_j(x_j).
        sections: as in `JNF`.
    """

    kind: ClassVar[str] = "jnf-shared"

    def __init__(
        self,
        modalities: Iterable[Modality],
        latent_dim: int,
        *,
        posterior: str = "maf",
        projector: str = "contrastive",
        shared_dim: int = 10,
        **sections: Any,
    ) -> None:
        sections["flows"] = {"posterior": posterior, **sections.get("flows", {})}
        projectors = {"kind": projector, "dim": shared_dim, **sections.get("projectors", {})}
        super().__init__(list(modalities), latent_dim, **{**sections, "projectors": projectors})

    @property
    def can_project(self) -> bool:
        """Whether there are projections of single modalities, which `project` gives."""
        return True

    def project(self, x: Any) -> dict[str, Any]:
        """Shared information g_j(x_j) of each given modality, name -> (rows, shared_dim)."""
        projectors = self.model_.projectors
        assert projectors is not None
        return {k: projectors[k](v).float().cpu().numpy() for k, v in self._checked(x).items()}


CLASSES: dict[str, type[Estimator]] = {c.kind: c for c in (JNF, JNFShared)}


def load(path: str | Path, device: str = "cpu") -> Estimator:
    """The estimator of a run directory, with the weights of its finished stages.

    Raises:
        UsageError: if `path` is not a run directory.
        DataError: if a file in it is damaged.
    """
    run = RunDirectory.open(path)
    config = run.config()
    return CLASSES[config.model].from_config(config).restore(run, device)
