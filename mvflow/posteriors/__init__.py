"""Posteriors of z: a Gaussian that depends on what is observed, pushed through a flow (Eq. 10)."""

from mvflow.posteriors.amortised import AmortisedPosterior
from mvflow.posteriors.base import Family, build_posterior
from mvflow.posteriors.conditional_maf import ConditionalMAF
from mvflow.posteriors.correlated import CorrelatedNormal
from mvflow.posteriors.flow import FlowPosterior
from mvflow.posteriors.gaussian import Gaussian
from mvflow.posteriors.maf import MAF
from mvflow.posteriors.nsf import NSF

__all__ = [
    "MAF",
    "NSF",
    "AmortisedPosterior",
    "ConditionalMAF",
    "CorrelatedNormal",
    "Family",
    "FlowPosterior",
    "Gaussian",
    "build_posterior",
]
