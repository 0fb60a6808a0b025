"""Likelihoods p(x|z): what decoders' outputs mean, and which values a modality may hold."""

from mvflow.likelihoods.base import Likelihood, LikelihoodModule
from mvflow.likelihoods.bernoulli import Bernoulli
from mvflow.likelihoods.categorical import Categorical
from mvflow.likelihoods.laplace import Laplace
from mvflow.likelihoods.normal import Normal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Laplace",
    "Likelihood",
    "LikelihoodModule",
    "Normal",
]
