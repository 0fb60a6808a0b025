"""Posteriors of z: a Gaussian that depends on what is observed, pushed through a flow (Eq. 10)."""

from mvflow.posteriors.amortised import AmortisedPosterior
from mvflow.posteriors.base import Family, build_posterior
from mvflow.posteriors.conditional_maf import ConditionalMAF
from mvflow.posteriors.correlated import CorrelatedNormal
from mvflow.posteriors.flow import FlowPosterior
from mvflow.posteriors.gaussian import Gaussian
from mvflow.posteriors.maf import MAF
from mvflow.posteriors.matched import GuidedFlow, MatchedFlow
from mvflow.posteriors.matching import MatchingPosterior
from mvflow.posteriors.nsf import NSF
from mvflow.posteriors.velocity import ConditionalVelocity, path_moments

__all__ = [
    "MAF",
    "NSF",
    "AmortisedPosterior",
    "ConditionalMAF",
    "ConditionalVelocity",
    "CorrelatedNormal",
    "Family",
    "FlowPosterior",
    "Gaussian",
    "GuidedFlow",
    "MatchedFlow",
    "MatchingPosterior",
    "build_posterior",
    "path_moments",
]
