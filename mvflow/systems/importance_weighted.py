"""The importance-weighted bound of a joint VAE (Burda et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor
from zuko.distributions import DiagNormal

from mvflow.core import Observed
from mvflow.functional import importance_log_likelihood, standard_normal_log_prob
from mvflow.stages import Losses
from mvflow.systems.joint_vae import JointVAE
from mvflow.systems.sampling import doubly_reparametrised

__all__ = ["importance_weighted_losses"]


def importance_weighted_losses(
    joint: JointVAE, q: DiagNormal, observed: Observed, beta: float | Tensor, samples: int
) -> Losses:
    """Minus log 1/K sum_k p(X|z_k) (p(z_k) / q(z_k|X))^beta, from K draws of q(z|X) per row.

    At beta = 1 and without weights it is a bound on log p(X) that rises with K to log p(X); at
    K = 1 it is the ELBO, whose divergence is here an estimate. The encoder's gradients are doubly
    reparametrised. Terms are means over draws, unweighted.

    Args:
        joint: whose decoders and weights count.
        q: q(z|X) of the rows.
        observed: the rows.
        beta: factor of log p(z) - log q(z|X).
        samples: K.
    """
    loc, scale = q.base_dist.loc, q.base_dist.scale
    z = q.rsample(torch.Size([samples]))
    fits = joint.decoders.log_prob(z, observed)
    total = torch.stack([joint.weights[name] * fit for name, fit in fits.items()]).sum(0)
    fixed = DiagNormal(loc.detach(), scale.detach())
    log_ratio = standard_normal_log_prob(z) - fixed.log_prob(z)
    log_weights = total + beta * log_ratio
    doubly_reparametrised(z, log_weights)
    terms = {"kl": -log_ratio.mean(), **{name: fit.mean() for name, fit in fits.items()}}
    terms["elbo"] = sum(terms[name] for name in fits) - terms["kl"]
    return Losses(-importance_log_likelihood(log_weights).mean(), terms)
