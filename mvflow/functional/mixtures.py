"""Mixtures of Gaussians with full covariances: density, and the step that fits them."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_sum_exp

__all__ = ["GaussianMixture", "gaussian_mixture_log_joint", "gaussian_mixture_step"]


class GaussianMixture(NamedTuple):
    """sum_k w_k N(m_k, L_k L_k')."""

    log_weights: Float[Array, " components"]
    means: Float[Array, "components latent"]
    factors: Float[Array, "components latent latent"]
    """Lower Cholesky factors L_k of the covariances."""


def gaussian_mixture_log_joint(
    z: Float[Array, "rows latent"], mixture: GaussianMixture
) -> Float[Array, "rows components"]:
    """Return log w_k + log N(z; m_k, L_k L_k'); `log_sum_exp` of it is the mixture's log density.

    Examples:
        >>> import numpy as np
        >>> one = GaussianMixture(np.zeros(1), np.zeros((1, 2)), np.eye(2)[None])
        >>> gaussian_mixture_log_joint(np.zeros((1, 2)), one).round(3)
        array([[-1.838]])
    """
    xp = namespace(z)
    parts = []
    for k in range(mixture.means.shape[0]):
        factor = mixture.factors[k, :, :]
        whiten = xp.matrix_transpose(xp.linalg.inv(factor))
        away = z @ whiten - mixture.means[k, :] @ whiten
        log_volume = xp.sum(xp.log(xp.linalg.diagonal(factor)))
        parts.append(mixture.log_weights[k] - 0.5 * xp.sum(away * away, axis=1) - log_volume)
    return xp.stack(parts, axis=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def gaussian_mixture_step(
    z: Float[Array, "rows latent"],
    mixture: GaussianMixture,
    covariance: Float[Array, "latent latent"],
    strength: float,
) -> tuple[GaussianMixture, Float[Array, ""]]:
    r"""One step of expectation-maximisation, and the penalised log-likelihood before it.

    The penalty keeps components from collapsing: each counts as if it had seen `strength` more
    rows with the given covariance (an inverse Wishart prior), and one more row in its weight. The
    penalised log-likelihood, in nats of all rows,

    .. math:: \sum_i \log p(z_i) + \sum_k \log w_k
              - \tfrac{\nu}{2} \sum_k (\log |S_k| + \mathrm{tr}\, S_k^{-1} S_0)

    falls at no step (Dempster, Laird and Rubin 1977).

    Args:
        z: rows to fit.
        mixture: where to start.
        covariance: S_0, to which covariances are drawn.
        strength: nu > 0, in rows.
    """
    xp = namespace(z)
    log_joint = gaussian_mixture_log_joint(z, mixture)
    log_density = log_sum_exp(log_joint, axis=1)
    share = xp.exp(log_joint - log_density[:, None])
    count = xp.sum(share, axis=0)
    some = xp.where(count > 0, count, 1.0)[:, None]
    means = xp.where(count[:, None] > 0, xp.matrix_transpose(share) @ z / some, mixture.means)
    penalty, factors = xp.sum(mixture.log_weights), []
    for k in range(means.shape[0]):
        inverse = xp.linalg.inv(mixture.factors[k, :, :])
        log_volume = -2 * xp.sum(xp.log(xp.linalg.diagonal(inverse)))
        trace = xp.sum((inverse @ covariance) * inverse)
        penalty = penalty - 0.5 * strength * (log_volume + trace)
        away = (z - means[k, :]) * xp.sqrt(share[:, k])[:, None]
        spread = xp.matrix_transpose(away) @ away + strength * covariance
        factors.append(xp.linalg.cholesky(spread / (count[k] + strength)))
    weights = (count + 1) / (z.shape[0] + means.shape[0])
    updated = GaussianMixture(xp.log(weights), means, xp.stack(factors))
    return updated, xp.sum(log_density) + penalty
