"""A prior fitted to the latents after training, for draws without any observation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mvflow.functional import GaussianMixture, gaussian_mixture_step

__all__ = ["MixturePrior"]

STEPS = 100
"""Largest number of steps of expectation-maximisation."""

GAIN = 1e-3
"""Nats per row below which a step ends the fit."""


class MixturePrior(nn.Module):
    """A mixture of Gaussians with full covariances, fitted to draws of the aggregated posterior.

    The latents of a trained joint VAE do not fill N(0, I): a draw that falls where none are is
    decoded to modalities that do not belong together. This is for generation without an
    observation alone; likelihoods and products of experts keep the prior of the model.

    Args:
        components: how many Gaussians.
        latent: dimension of z.

    Examples:
        >>> prior = MixturePrior(2, latent=1)
        >>> z = np.array([[-3.0], [-3.1], [-2.9], [5.0], [5.1], [4.9]])
        >>> likelihoods = prior.fit(z, np.random.default_rng(0))
        >>> prior().mean.shape, prior.means.flatten().sort().values.round().tolist()
        (torch.Size([1, 1]), [-3.0, 5.0])
    """

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.log_weights: Tensor
        self.means: Tensor
        self.factors: Tensor
        self.register_buffer("log_weights", torch.full((components,), -np.log(components)))
        self.register_buffer("means", torch.zeros(components, latent))
        self.register_buffer("factors", torch.eye(latent).repeat(components, 1, 1))

    def forward(self) -> MixtureSameFamily:
        """The distribution of z: batch shape (1,), event shape (latent,)."""
        gaussians = MultivariateNormal(self.means[None], scale_tril=self.factors[None])
        return MixtureSameFamily(Categorical(logits=self.log_weights[None]), gaussians)

    def fit(self, z: NDArray[np.floating], generator: np.random.Generator) -> list[float]:
        """Fit it to rows z (rows, latent); components begin at the clusters of k-means++.

        Covariances are drawn to that of all rows as if each component had seen `latent` rows
        more, so that components with few rows do not collapse.

        Returns:
            The penalised log-likelihood before each step, in nats per row.
        """
        from scipy.cluster.vq import kmeans2  # a quarter of a second, for who fits

        z = z.astype(np.float64)
        rows, latent = z.shape
        components = min(len(self.means), rows)
        covariance = np.atleast_2d(np.cov(z.T, ddof=0)) + 1e-6 * np.eye(latent)
        apart = 1e-3 * np.sqrt(covariance.diagonal()) * generator.standard_normal(z.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty cluster keeps its centre
            centres, _ = kmeans2(z + apart, components, minit="++", seed=generator)
        mixture = GaussianMixture(
            np.full(components, -np.log(components)),
            centres,
            np.repeat(np.linalg.cholesky(covariance)[None], components, 0),
        )
        found: list[float] = []
        for _ in range(STEPS):
            mixture, value = gaussian_mixture_step(z, mixture, covariance, float(latent))
            found.append(float(value) / rows)
            if len(found) > 1 and found[-1] - found[-2] < GAIN:
                break
        for name, value in mixture._asdict().items():
            getattr(self, name)[:components] = torch.from_numpy(value)
        self.log_weights[components:] = -torch.inf
        return found
