"""Likelihoods p(x|z): what decoders' outputs mean, and which values a modality may hold."""

from mvflow.likelihoods.base import (
    ColumnValues,
    Likelihood,
    LikelihoodModule,
    present_log_prob,
)
from mvflow.likelihoods.bernoulli import Bernoulli
from mvflow.likelihoods.bounds import within_bounds
from mvflow.likelihoods.categorical import Categorical
from mvflow.likelihoods.categorical_columns import CategoricalColumns
from mvflow.likelihoods.laplace import Laplace
from mvflow.likelihoods.mixed import Group, Mixed
from mvflow.likelihoods.negative_binomial import NegativeBinomial
from mvflow.likelihoods.normal import Normal
from mvflow.likelihoods.ordinal import Ordinal
from mvflow.likelihoods.poisson import Poisson
from mvflow.likelihoods.student_t import StudentT
from mvflow.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial

__all__ = [
    "Bernoulli",
    "Categorical",
    "CategoricalColumns",
    "ColumnValues",
    "Group",
    "Laplace",
    "Likelihood",
    "LikelihoodModule",
    "Mixed",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "present_log_prob",
    "within_bounds",
]
