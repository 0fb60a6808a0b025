"""A Gaussian with common correlations: torch's own density and moments of draws."""

import torch
from torch.distributions import MultivariateNormal

from mvflow.posteriors import CorrelatedNormal


def example():
    torch.manual_seed(0)
    factor = torch.eye(3, dtype=torch.float64) + torch.randn(3, 3, dtype=torch.float64).tril(-1)
    loc, scale = torch.randn(2, 4, 3, dtype=torch.float64)
    return loc, scale.exp(), factor


def test_density_and_variance_are_those_of_the_dense_gaussian():
    loc, scale, factor = example()
    q, dense = (
        CorrelatedNormal(loc, scale, factor),
        MultivariateNormal(loc, scale_tril=scale[..., None] * factor),
    )
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), dense.log_prob(z))
    torch.testing.assert_close(q.variance, dense.variance)


def test_draws_have_its_moments():
    loc, scale, factor = example()
    unit = (CorrelatedNormal(loc, scale, factor).sample((20_000,)) - loc) / scale
    covariance = torch.einsum("nri,nrj->ij", unit, unit) / unit[..., 0].numel()
    torch.testing.assert_close(covariance, factor @ factor.T, rtol=0.05, atol=0.05)  # 80,000 draws
