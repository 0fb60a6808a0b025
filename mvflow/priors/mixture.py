"""A mixture of Gaussians fitted to the latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mvflow.functional import GaussianMixture, gaussian_mixture_step
from mvflow.nn import seeded
from mvflow.priors.base import Prior, latent_draws
from mvflow.stages import Rows, StageSpec

__all__ = ["Mixture", "MixturePrior"]

STEPS = 100
"""Largest number of steps of expectation-maximisation."""

GAIN = 1e-3
"""Nats per row below which a step ends the fit."""


class Mixture(Prior):
    """A mixture of Gaussians, fitted to one draw of q(z|X) for each of some training rows."""

    title: ClassVar[str] = "a Gaussian mixture fitted to the latents"

    components: PositiveInt = 20
    """Number of Gaussians."""
    rows: PositiveInt = 10_000
    """Number of training rows that it is fitted to, at most."""

    def build(self, system: Any) -> MixturePrior:
        """The mixture, not yet fitted."""
        return MixturePrior(self.components, system.latent.dim)

    def stages(self, system: Any, module: nn.Module) -> Sequence[StageSpec]:
        """One stage in closed form: expectation-maximisation."""
        assert isinstance(module, MixturePrior)

        def fit(rows: Rows, generator: np.random.Generator) -> None:
            chosen = rows.subset(np.sort(generator.permutation(len(rows))[: self.rows]))
            with seeded(int(generator.integers(2**31)), "latents", device=system.device):
                z = torch.cat(list(latent_draws(system, chosen)))
            module.fit(z.numpy(), generator)

        needs = getattr(system, "encoder_stages", None) or tuple(s.name for s in system.stages())
        return [StageSpec("prior", module, needs=needs, reads=self.model_dump(), fit=fit)]


class MixturePrior(nn.Module):
    """A mixture of Gaussians with full covariances, fitted to draws of the aggregated posterior.

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
        log_likelihoods: list[float] = []
        for _ in range(STEPS):
            mixture, value = gaussian_mixture_step(z, mixture, covariance, float(latent))
            log_likelihoods.append(float(value) / rows)
            if len(log_likelihoods) > 1 and log_likelihoods[-1] - log_likelihoods[-2] < GAIN:
                break
        for name, value in mixture._asdict().items():
            getattr(self, name)[:components] = torch.from_numpy(value)
        self.log_weights[components:] = -torch.inf
        return log_likelihoods
