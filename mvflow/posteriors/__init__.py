"""Posteriors of z: a Gaussian that depends on what is observed, pushed through a flow (Eq. 10)."""

from mvflow.posteriors.amortised import AmortisedPosterior
from mvflow.posteriors.flow import FAMILIES, FlowPosterior, build_posterior

__all__ = ["FAMILIES", "AmortisedPosterior", "FlowPosterior", "build_posterior"]
