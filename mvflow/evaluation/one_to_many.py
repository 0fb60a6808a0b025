"""From one modality to many: do generated targets agree on what the given one leaves open?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import derive_seed
from mvflow.evaluation.parts import OneToManyPart
from mvflow.evaluation.result import OneToMany
from mvflow.functional import agreement, chance_agreement
from mvflow.metrics import Estimate, mean_and_error

if TYPE_CHECKING:
    from mvflow.evaluation.generation import Generation

__all__ = ["agreement_on_targets", "agreement_rows", "one_to_many"]


def agreement_rows(of: Generation) -> NDArray[np.int64]:
    """The rows conditioned on: few, which have all modalities."""
    few, present = of.rows.few, of.rows.present
    return few if present is None else few[present.complete[few]]


def one_to_many(of: Generation) -> OneToManyPart:
    """Classes of all targets given one modality: from one draw of z, and from one each.

    Args:
        of: the model and its rows.
    """
    together: dict[str, list[bool]] = {}
    apart: dict[str, list[bool]] = {}
    chance: dict[str, float] = {}
    at = agreement_rows(of)
    is_measured = of.classifiers is not None and len(of.names) > 2 and len(at) > 0
    for given in of.names if is_measured else ():
        targets = [name for name in of.names if name != given]
        x = of.taken(at, [given])
        seed = derive_seed(of.seed, "one to many", given)
        draws = of.estimator.draw(x, len(targets), seed=seed)
        covariates = getattr(draws, "covariates", {})
        same = _classes(of, draws.z[[0]], targets, covariates)
        each = [_classes(of, draws.z[[i]], [name], covariates) for i, name in enumerate(targets)]
        own = np.concatenate(each)
        together[given], apart[given] = agreement(same).tolist(), agreement(own).tolist()
        chance[given] = float(chance_agreement(own))
    return OneToManyPart(together=together, apart=apart, chance=chance)


def _classes(
    of: Generation,
    z: NDArray[Any],
    targets: Sequence[str],
    covariates: Mapping[str, NDArray[Any]],
) -> NDArray[np.int64]:
    """Classes (targets, rows) of what draws of z (1, rows, latent_dim) are decoded to."""
    assert of.classifiers is not None
    made = of.estimator.decode(z, targets, covariates=covariates)
    return np.stack([of.classifiers.predict(name, made[name][0]) for name in targets])


def agreement_on_targets(part: OneToManyPart, clusters: NDArray[np.int64]) -> OneToMany | None:
    """Whether targets generated from one modality agree; None where there is one target.

    Args:
        part: what was generated.
        clusters: of its rows, or more: those of one number depend on each other.
    """
    if not part.together:
        return None
    together, apart = (
        {given: np.array(rows, float) for given, rows in of.items()}
        for of in (part.together, part.apart)
    )
    a, c = (np.mean([*of.values()], axis=0) for of in (together, apart))
    shared = None
    if c.mean() < 1:
        share = float((a - c).mean() / (1 - c).mean())
        # by how much a row moves the ratio of two means
        error = mean_and_error((a - c - share * (1 - c)) / (1 - c).mean(), clusters[: len(a)])
        shared = Estimate(share, error.standard_error)
    return OneToMany(
        rows=len(a),
        together={given: mean_and_error(rows, clusters) for given, rows in together.items()},
        apart={given: mean_and_error(rows, clusters) for given, rows in apart.items()},
        chance=part.chance,
        together_mean=mean_and_error(a, clusters),
        apart_mean=mean_and_error(c, clusters),
        chance_mean=float(np.mean([*part.chance.values()])),
        shared=shared,
    )
