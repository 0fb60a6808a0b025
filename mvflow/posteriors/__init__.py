"""Unimodal posteriors q(z|x_j): a Gaussian that depends on x, pushed through a flow (Eq. 10)."""

from mvflow.posteriors.flow import FAMILIES, FlowPosterior, build_posterior

__all__ = ["FAMILIES", "FlowPosterior", "build_posterior"]
