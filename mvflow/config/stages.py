"""Which stages a model has, and what each depends on: the key that tells a stale result."""

from __future__ import annotations

import hashlib
import json

from mvflow.config.schema import Config

__all__ = ["all_stages", "stage_key", "stage_names", "stages_before"]

LAYOUT = {"jnf": 2, "jnf-shared": 3}
"""Raised when the networks of a model's posteriors change, so that older weights are stale."""


def stage_names(config: Config) -> tuple[str, ...]:
    """Stages of the configured model, prior and kind of posterior, in the order of training."""
    prior = ("prior",) if config.prior.kind == "mixture" else ()
    return (*_earlier(config), *prior, "flows" if config.subset == "product" else "amortised")


def all_stages(config: Config) -> tuple[str, ...]:
    """Stages that a run of the configured model may have, whatever is asked for."""
    return (*_earlier(config), "prior", "flows", "amortised")


def stages_before(config: Config, stage: str) -> tuple[str, ...]:
    """Stages without which `stage` cannot be trained.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> config = config_from_dict({"latent_dim": 2, "modalities": {"a": {"shape": [3]}}})
        >>> stages_before(config, "flows"), stages_before(config, "joint")
        (('joint',), ())
    """
    if stage == "prior":
        return ("joint",)
    return _earlier(config) if stage in ("flows", "amortised") else ()


def _earlier(config: Config) -> tuple[str, ...]:
    """What the posteriors rest on."""
    return ("projectors", "joint") if config.model == "jnf-shared" else ("joint",)


def stage_key(config: Config, stage: str, fingerprint: str) -> str:
    """Hash of all that the weights of `stage` depend on: data, settings, seed, earlier stages.

    Two runs with equal keys train the same weights, so one can take them from the other.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> a = config_from_dict({"latent_dim": 2, "modalities": {"a": {"shape": [3]}}})
        >>> b = a.model_copy(update={"model": "jnf-shared"})
        >>> stage_key(a, "joint", "") == stage_key(b, "joint", "")
        True
    """
    parts = config.model_dump(mode="json")
    data, modalities = parts["data"], parts["modalities"]
    inputs = {
        "data": [fingerprint, data["train"], data["validation"]],
        "seed": config.seed,
        "settings": parts[stage],
    }
    if stage == "projectors":
        inputs["networks"] = {n: [m["shape"], m["projector"]] for n, m in modalities.items()}
    elif stage == "joint":
        inputs["latent_dim"] = config.latent_dim
        inputs["networks"] = {
            name: {k: v for k, v in m.items() if k != "projector"}
            for name, m in modalities.items()
        }
    else:
        inputs["layout"] = 1 if stage == "prior" else LAYOUT[config.model]
        before = stages_before(config, stage)
        inputs["earlier"] = [stage_key(config, s, fingerprint) for s in before]
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
