"""What defines a model, in short lines for tables and reports."""

from __future__ import annotations

from mvflow.config import Config

__all__ = ["facts"]

NAMES = {
    **{"jnf": "JNF", "jnf-shared": "JNF-Shared", "gaussian": "Gaussian", "maf": "MAF"},
    **{"conditional-maf": "conditional MAF", "nsf": "spline flow", "dcca": "DCCA"},
    **{"standard": "N(0, I)", "mixture": "a Gaussian mixture fitted to the latents"},
    **{"product": "product of experts"},
}


def facts(config: Config) -> dict[str, str]:
    """What a model is: system, posterior, projector, subset rule, beta, prior."""

    def name(kind: str) -> str:
        return NAMES.get(kind, kind)

    joint, flows, projectors = config.joint, config.flows, config.projectors
    transforms = "" if flows.posterior == "gaussian" else f", {flows.transforms} transforms"
    found = {"system": name(config.model), "posterior": name(flows.posterior) + transforms}
    if config.model == "jnf-shared":
        found["system"] += f" ({name(projectors.kind)})"
        found["projector"] = f"{name(projectors.kind)}, dimension {projectors.dim}"
    found["subset rule"] = name(config.subset)
    found["beta"] = f"{joint.beta:g}"
    if joint.beta_start not in (None, joint.beta):
        found["beta"] += f", from {joint.beta_start:g} over the first {100 * joint.anneal:.0f} %"
    return {**found, "prior": name(config.prior.kind)}
