"""A configuration chosen from the data: the recipe `auto`, for data of one's own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mvflow.core import Modality

__all__ = ["AUTO", "auto_config"]

AUTO = "auto"
"""Name of the recipe that `auto_config` stands for."""

JOINT_STEPS, FLOW_STEPS, PROJECTOR_STEPS, CLASSIFIER_STEPS = 4000, 2000, 1000, 1000
TABLE_STEPS = 1200
PATIENCE_STEPS = 400
"""Steps of a flow without a better held-out loss, which is noisy, before its training ends."""
MAX_LATENT, MAX_TABLE_LATENT, MAX_COUNT_LATENT = 20, 128, 10
KERNEL_ROWS = 8192
"""Rows up to which kernel regressions, on some of them, stand for networks."""
INDEPENDENCE = 30.0
"""Of tables with covariates: 100 costs predictions, and leaves as much of a batch as 30."""
COUNT_WIDTH = 0.1
"""Of kernel regressions on counts, which are noisier than other numbers."""
MAX_COLUMNS = 4096
"""Columns of all tables of which a factor analysis is made."""


def auto_config(
    modalities: Iterable[Modality],
    rows: int,
    intensities: Collection[str] = (),
    *,
    covariates: bool = False,
) -> dict[str, Any]:
    """Networks, latent size and length of training for data that no recipe was written for.

    Starting points, to be edited in `config.toml`, not optima: images whose sides can be halved
    get convolutions, all else fully connected layers with a width by its size; the latent space
    is no larger than half the data, a twentieth of the rows, or the paper's 20; the epochs give
    a stated number of steps, within limits; of the joint stage the best epoch counts. One
    amortised posterior serves all subsets of the modalities.

    Where all modalities are tables of numbers, training starts at a factor analysis, scales of
    columns are learned, and posteriors of subsets are kernel regressions where rows are few.
    With counts among them, or with covariates, training starts at random; networks have linear
    paths too, and covariates are kept out of the latents (`joint.independence`).

    Args:
        modalities: specifications; likelihood, scale and weight are taken over.
        rows: number of rows to train on.
        intensities: names of the modalities whose values lie in [0, 1] for certain, so that
            a decoder whose outputs are in the units of the data may end in a sigmoid.
        covariates: whether rows have covariates.

    Returns:
        A plain dict in the form of a recipe's file (see `resolved`).

    Examples:
        >>> raw = auto_config([Modality("rna", (50,)), Modality("scan", (1, 32, 32))], 2000)
        >>> raw["latent_dim"], raw["modalities"]["scan"]["encoder"]
        (20, {'kind': 'conv', 'channels': [32, 64, 128]})
    """
    specs = tuple(modalities)
    raw = _general(specs, rows, intensities)
    if not all(_is_table(m) and m.name not in intensities for m in specs):
        return raw
    if sum(m.size for m in specs) > MAX_COLUMNS:
        return raw
    if covariates or any(_has(m, "library") for m in specs):
        return _of_counts(raw, specs, rows, covariates=covariates)
    return _of_tables(raw, specs, rows)


def _is_table(modality: Modality) -> bool:
    is_numbers = _has(modality, "scale") or _has(modality, "library")
    return len(modality.shape) == 1 and is_numbers


def _has(modality: Modality, setting: str) -> bool:
    return setting in type(modality.likelihood_part).model_fields


def _set_networks(
    raw: dict[str, Any], specs: Sequence[Modality], network: dict[str, Any], rows: int
) -> None:
    """The networks of all tables, learned scales, and what stands for missing modalities."""
    for m in specs:
        section = raw["modalities"][m.name]
        if _has(m, "scale"):
            own = {"kind": m.likelihood_part.kind, "scale": "learned"}
            section["likelihood"] = m.likelihood_part.to_dict() | own
        section |= {"encoder": network, "decoder": network}
        section.setdefault("weight", 1.0)
    raw["data"]["validation"] = 0.2 if rows < 200 else raw["data"]["validation"]


def _set_subset_rule(raw: dict[str, Any], rows: int, **settings: Any) -> dict[str, Any]:
    """Kernel regression where rows are few, else a network; `settings` are of the former."""
    if rows <= KERNEL_ROWS:
        return _with_rule(raw, {"kind": "kernel", **settings})
    network = {"kind": "amortised", "posterior": {"kind": "gaussian"}, "patience": 20}
    return _with_rule(raw, network)


def _with_rule(raw: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    raw["by"]["system"] = {name: {"subset": rule} for name in ("jnf", "jnf-shared")}
    return raw


def _of_counts(
    raw: dict[str, Any], specs: Sequence[Modality], rows: int, *, covariates: bool
) -> dict[str, Any]:
    """What is different where all modalities are tables, with counts or with covariates."""
    batch = _between(2 ** round(math.log2(max(1, rows / 24))), 8, 128)
    _set_networks(raw, specs, {"kind": "linear-mlp", "hidden": [128], "dropout": 0.1}, rows)
    raw["latent_dim"] = min(MAX_COUNT_LATENT, raw["latent_dim"])
    raw["joint"] = {
        "epochs": _epochs(JOINT_STEPS, rows, batch),
        "batch_size": batch,
        "learning_rate": 2e-3,
        "clip": 10.0,
        "weight_decay": 1e-3,
        "patience": 20,
        "merge": [64],
        **({"independence": INDEPENDENCE} if covariates else {}),
    }
    return _set_subset_rule(raw, rows, width=COUNT_WIDTH, components="above-noise")


def _of_tables(raw: dict[str, Any], specs: Sequence[Modality], rows: int) -> dict[str, Any]:
    """What is different where all modalities are tables of numbers."""
    batch = _between(2 ** round(math.log2(max(1, rows / 24))), 8, 128)
    _set_networks(raw, specs, {"kind": "linear-mlp", "hidden": [256, 256], "dropout": 0.3}, rows)
    size = sum(m.size for m in specs)
    raw["latent_dim"] = min(MAX_TABLE_LATENT, max(2, size // 2), max(2, rows // 8))
    raw["joint"] = {
        "epochs": _epochs(TABLE_STEPS, rows, batch),
        "batch_size": batch,
        "learning_rate": 1e-3,
        "schedule": "one-cycle",
        "clip": 100.0,
        "weight_decay": 0.1,
        "keep_best": True,
        "merge": "sum",
        "start": "factor-analysis",
    }
    return _set_subset_rule(raw, rows)


def _general(specs: Sequence[Modality], rows: int, intensities: Collection[str]) -> dict[str, Any]:
    batch = _between(2 ** round(math.log2(max(1, rows / 32))), 16, 128)
    size = sum(m.size for m in specs)
    latent = min(MAX_LATENT, max(2, size // 2), max(2, rows // 20))
    training = {"batch_size": batch, "learning_rate": 2e-3, "schedule": "one-cycle"}
    fitting = {"learning_rate": 1e-3, "schedule": "cosine", "patience": 20}
    large = min(512, 2 ** int(math.log2(max(2, rows))))
    held_out = 0.1 if rows < 4000 else 0.05
    # What DCCA can estimate from such a batch, and measure on such held-out rows.
    dim = max(1, min(10, latent, large // 10, int(held_out * rows) // 10))
    raw = {
        "recipe": AUTO,
        "system": "jnf",
        "latent_dim": latent,
        "data": {"validation": held_out},
        "modalities": {m.name: _modality(m, m.name in intensities) for m in specs},
        "joint": {
            "epochs": _epochs(JOINT_STEPS, rows, batch),
            **training,
            "keep_best": True,
            "merge": [_width(2 * latent * len(specs))] * 2,
        },
        "by": {"projector": {"*": {"projector": {"dim": dim, "dropout": 0.1}}}},
        "projectors": {
            "epochs": _epochs(PROJECTOR_STEPS, rows, large),
            "batch_size": large,
            **fitting,
        },
        "posterior": {"kind": "maf"},
        "flows": {
            "summary_hidden": [128, 128],
            "epochs": _epochs(FLOW_STEPS, rows, 2 * batch),
            "batch_size": 2 * batch,
            **fitting,
            "patience": max(20, math.ceil(PATIENCE_STEPS / max(1, rows // (2 * batch)))),
        },
        "evaluation": {"subsets": 1, "product_rows": 64} if len(specs) > 4 else {},
        "classifiers": {
            "kind": "lenet" if all(_fits_lenet(m) for m in specs) else "mlp",
            "epochs": _epochs(CLASSIFIER_STEPS, rows, batch),
            "batch_size": batch,
        },
    }
    return _with_rule(raw, {"kind": "amortised"})


def _modality(modality: Modality, unit: bool) -> dict[str, Any]:
    spec: dict[str, Any] = {"shape": list(modality.shape), "likelihood": modality.likelihood}
    if modality.weight is not None:
        spec["weight"] = modality.weight
    squashed = unit and modality.likelihood_part.is_location
    output = {"output": "sigmoid"} if squashed else {}
    channels = _channels(modality.shape)
    if channels:
        conv = {"kind": "conv", "channels": channels}
        decoder = {"kind": "conv", "channels": channels[::-1], **output}
        return {**spec, "encoder": conv, "decoder": decoder, "projector": conv}
    mlp = {"kind": "mlp", "hidden": [_width(modality.size)] * 2}
    return {**spec, "encoder": mlp, "decoder": {**mlp, **output}, "projector": mlp}


def _channels(shape: tuple[int, ...]) -> list[int]:
    """Widths of halving convolutions down to a side below 8; none where that cannot be done.

    Examples:
        >>> _channels((3, 64, 96)), _channels((1, 28, 28)), _channels((1, 75, 75))
        ([32, 64, 128, 256], [32, 64], [])
    """
    if len(shape) != 3:
        return []
    channels: list[int] = []
    height, width = shape[1:]
    while min(height, width) >= 8 and height % 2 == width % 2 == 0:
        channels.append(min(256, 32 << len(channels)))
        height, width = height // 2, width // 2
    return channels if max(height, width) <= 16 else []


def _width(size: int) -> int:
    """Hidden width: the power of two from twice the size on, between 64 and 512.

    Examples:
        >>> _width(3), _width(50), _width(5000)
        (64, 128, 512)
    """
    return _between(1 << (2 * size - 1).bit_length(), 64, 512)


def _epochs(steps: int, rows: int, batch: int) -> int:
    """Passes over the rows that make about `steps` steps, between 10 and 300."""
    return _between(round(steps / max(1, math.ceil(rows / batch))), 10, 300)


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def _fits_lenet(modality: Modality) -> bool:
    return len(modality.shape) == 3 and min(modality.shape[1:]) >= 16
