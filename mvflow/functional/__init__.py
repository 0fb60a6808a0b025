"""Formulas as pure functions of arrays: NumPy, torch, JAX, or any array API library."""

from mvflow.functional.bounds import crmvae_bound, jmvae_bound, mvtcae_bound
from mvflow.functional.calibration import (
    coverage,
    ecdf_band,
    ecdf_difference,
    rank_counts,
    rank_statistics,
)
from mvflow.functional.cca import (
    canonical_correlations,
    pairwise_total_correlation,
    total_correlation,
)
from mvflow.functional.coherence import accuracy, agreement, chance_agreement
from mvflow.functional.contrastive import info_nce, pairwise_info_nce
from mvflow.functional.densities import (
    bernoulli_log_prob,
    categorical_log_prob,
    laplace_log_prob,
    normal_log_prob,
    standard_normal_log_prob,
)
from mvflow.functional.dependence import squared_correlations
from mvflow.functional.diversity import pairwise_distance
from mvflow.functional.frechet import (
    covariance_factor,
    frechet_distance,
    frechet_distance_of_rows,
)
from mvflow.functional.importance import (
    effective_sample_size,
    importance_log_likelihood,
    importance_weights,
    mixture_log_prob,
)
from mvflow.functional.kernels import KernelRegression, kernel_regression
from mvflow.functional.kl import average_divergence_bounds, normal_kl, normal_kl_standard
from mvflow.functional.logspace import log_mean_exp, log_sum_exp
from mvflow.functional.manifolds import inside_balls, neighbour_radii, squared_distances
from mvflow.functional.mixtures import (
    GaussianMixture,
    gaussian_mixture_log_joint,
    gaussian_mixture_step,
)
from mvflow.functional.ode import heun
from mvflow.functional.poe import (
    inside_ball,
    normal_poe,
    normal_product,
    poe_log_density,
    power_tail_log_density,
)

__all__ = [
    "GaussianMixture",
    "KernelRegression",
    "accuracy",
    "agreement",
    "average_divergence_bounds",
    "bernoulli_log_prob",
    "canonical_correlations",
    "categorical_log_prob",
    "chance_agreement",
    "covariance_factor",
    "coverage",
    "crmvae_bound",
    "ecdf_band",
    "ecdf_difference",
    "effective_sample_size",
    "frechet_distance",
    "frechet_distance_of_rows",
    "gaussian_mixture_log_joint",
    "gaussian_mixture_step",
    "heun",
    "importance_log_likelihood",
    "importance_weights",
    "info_nce",
    "inside_ball",
    "inside_balls",
    "jmvae_bound",
    "kernel_regression",
    "laplace_log_prob",
    "log_mean_exp",
    "log_sum_exp",
    "mixture_log_prob",
    "mvtcae_bound",
    "neighbour_radii",
    "normal_kl",
    "normal_kl_standard",
    "normal_log_prob",
    "normal_poe",
    "normal_product",
    "pairwise_distance",
    "pairwise_info_nce",
    "pairwise_total_correlation",
    "poe_log_density",
    "power_tail_log_density",
    "rank_counts",
    "rank_statistics",
    "squared_correlations",
    "squared_distances",
    "standard_normal_log_prob",
    "total_correlation",
]
