"""A joint VAE that starts at a factor analysis of the training rows, with linear paths only.

In p(x|z) = N(W z + m, diag(psi)) the posterior of z is Gaussian with precision I + W'W/psi. W is
turned so that this is diagonal, as q(z|X) is: decoders, encoder and scales of columns then start
at the maximum of the ELBO among linear ones, and training adds what is not linear.

Values that are absent are filled by what the factors say of the others, a few times over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvflow.core import ConfigError, Observed
from mvflow.likelihoods.scales import LOG_BOUND, ScaledLikelihood
from mvflow.nn.linear_mlp import LinearMLP
from mvflow.stages import Rows
from mvflow.systems.joint_vae import JointVAE
from mvflow.systems.merging import MaskedMerge

__all__ = ["check_linear", "factor_analysis", "start_at_factors"]

EM_STEPS = 20
FILLS = 5
"""Times that absent values are filled."""

FLOOR = 0.02
"""Smallest share of a column's variance that is noise: what is below is learned in training."""


def factor_analysis(covariance: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """Loadings (columns, factors) and noise variances of a correlation matrix, by EM.

    Starts at probabilistic principal components; the columns of the loadings, in units of the
    noise, are orthogonal. Factors that are more than the columns have no loadings.

    Examples:
        >>> loading = torch.tensor([[0.8], [0.6], [0.7]], dtype=torch.float64)
        >>> covariance = loading @ loading.T + torch.diag(1 - loading[:, 0] ** 2)
        >>> w, psi = factor_analysis(covariance, 1)
        >>> torch.allclose(w @ w.T + psi.diag(), covariance, atol=1e-2)
        True
    """
    columns = len(covariance)
    kept = min(factors, columns)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    mean_noise = values[kept:].mean() if kept < columns else values.new_zeros(())
    loadings = vectors[:, :kept] * (values[:kept] - mean_noise).clamp_min(0).sqrt()
    noise = (covariance.diagonal() - loadings.square().sum(1)).clamp_min(FLOOR)
    identity = torch.eye(kept, dtype=covariance.dtype)
    for _ in range(EM_STEPS):
        scaled = loadings / noise[:, None]
        inner = torch.linalg.inv(identity + loadings.T @ scaled)
        cross = covariance @ scaled @ inner
        moment = inner + inner @ scaled.T @ cross
        loadings = torch.linalg.solve(moment, cross.T).T
        noise = (covariance.diagonal() - (loadings * cross).sum(1)).clamp_min(FLOOR)
    _, turned = torch.linalg.eigh(loadings.T @ (loadings / noise[:, None]))
    empty = loadings.new_zeros(columns, factors - kept)
    return torch.cat([loadings @ turned.flip(1), empty], 1), noise


def check_linear(joint: JointVAE) -> None:
    """Refuse networks that have no linear path from end to end.

    Raises:
        ConfigError: saying what `joint.start` needs.
    """
    for modality in joint.modalities:
        parts = (joint.heads[modality.name], joint.decoders[modality.name])
        if (
            not all(isinstance(_linear(part), LinearMLP) for part in parts)
            or not isinstance(modality.likelihood_part, ScaledLikelihood)
            or len(modality.shape) != 1
            or joint.decoders.covariates
            or not joint.is_additive
        ):
            msg = (
                f'joint.start="factor-analysis" cannot start {modality.name!r}: it needs '
                'joint.merge="sum", tables with networks "linear-mlp" and a likelihood with a '
                'scale, such as "normal", and no covariates; or use joint.start="random"'
            )
            raise ConfigError(msg)


@torch.no_grad()
def start_at_factors(joint: JointVAE, rows: Rows) -> None:
    """Set linear paths and scales to a factor analysis of the rows, and the hidden paths to 0."""
    names = [m.name for m in joint.modalities]
    blocks = [Observed.from_columns(batch) for batch in rows.batches(2048)]
    x = torch.cat([torch.cat([b.x[n] for n in names], 1).double().cpu() for b in blocks])
    if any(b.present for b in blocks):
        here = torch.cat([torch.cat([_mask(b, n) for n in names], 1).cpu() for b in blocks])
        mean, std, loadings, noise = _factors_of_incomplete(x, here, joint.latent_dim)
    else:
        mean, std = x.mean(0), x.std(0, correction=0)
        std = torch.where(std > 0, std, 1.0)
        unit = (x - mean) / std
        loadings, noise = factor_analysis(unit.T @ unit / len(x), joint.latent_dim)
    precision = loadings.square() / noise[:, None]
    variance = 1 / (1 + precision.sum(0))
    projection = variance[:, None] * (loadings / noise[:, None]).T / std
    sizes = [math.prod(m.shape) for m in joint.modalities]
    log_scale = LOG_BOUND * torch.atanh(variance.sqrt().log() / LOG_BOUND)
    weights, projections, centres, noises = (
        t.split(sizes) for t in (loadings * std[:, None], projection.T, mean, noise)
    )
    for i, name in enumerate(names):
        head, decoder = _linear(joint.heads[name]), _linear(joint.decoders[name])
        into = projections[i].T
        head.linear.weight.zero_()  # flags of absent values, if any, stand beside the values
        head.linear.weight[:, : into.shape[1]].copy_(torch.cat([into, torch.zeros_like(into)]))
        _only_bias(head, torch.cat([-into @ centres[i], log_scale * (i == 0)]))
        decoder.linear.weight.copy_(weights[i])
        _only_bias(decoder, centres[i])
        scale = joint.decoders.likelihood(name).learned
        if "log_scale" in scale:  # in units of the column's spread
            relative = noises[i].sqrt().log()
            scale["log_scale"].copy_(LOG_BOUND * torch.atanh(relative / LOG_BOUND))
        if isinstance(joint.merge, MaskedMerge):  # the posterior without this modality alone
            without = 1 / (1 / variance - precision.split(sizes)[i].sum(0))
            joint.merge.stretch[i].copy_((without / variance).log())
            joint.merge.shift[i].copy_((without / variance).log() / 2)


def _mask(observed: Observed, name: str) -> Tensor:
    """Which values of a table are present, bool (rows, columns)."""
    x, present = observed.x[name], (observed.present or {}).get(name)
    if present is None:
        return torch.ones_like(x, dtype=torch.bool)
    return present.reshape(len(x), -1).expand_as(x)


def _factors_of_incomplete(
    x: Tensor, here: Tensor, factors: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means, scales, loadings and noise variances from the values that are there.

    It begins at the covariances of each two columns over the rows that have both.
    """
    count = here.sum(0).clamp_min(1)
    mean = torch.where(here, x, 0.0).sum(0) / count
    std = (torch.where(here, x - mean, 0.0).square().sum(0) / count).sqrt()
    std = torch.where(std > 0, std, 1.0)
    unit, seen = torch.where(here, (x - mean) / std, 0.0), here.double()
    covariance = unit.T @ unit / (seen.T @ seen).clamp_min(1)
    loadings, noise = factor_analysis(covariance, factors)
    patterns, which = torch.unique(here, dim=0, return_inverse=True)
    identity = torch.eye(factors, dtype=x.dtype)
    for _ in range(FILLS):
        filled, spread = unit.clone(), torch.zeros_like(noise)
        scaled = loadings / noise[:, None]
        for i, pattern in enumerate(patterns):
            at, known = which == i, pattern.double()[:, None]
            covariance = torch.linalg.inv(identity + (known * scaled).T @ loadings)
            guess = unit[at] @ scaled @ covariance @ loadings.T
            filled[at] = torch.where(pattern, unit[at], guess)
            doubt = ((loadings @ covariance) * loadings).sum(1) + noise
            spread += torch.where(pattern, 0.0, doubt) * at.sum()
        covariance = (filled.T @ filled + spread.diag()) / len(x)
        loadings, noise = factor_analysis(covariance, factors)
    return mean, std, loadings, noise


def _linear(network: nn.Module) -> LinearMLP:
    return next((m for m in network.modules() if isinstance(m, LinearMLP)), network)  # type: ignore[return-value]


def _only_bias(network: LinearMLP, bias: Tensor) -> None:
    last = network.mlp[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.copy_(bias)
