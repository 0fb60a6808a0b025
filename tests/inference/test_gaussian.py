"""Products of Gaussian experts in closed form, row by row, and by chains where there is none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from zuko.distributions import DiagNormal

from mvflow.core import Observed
from mvflow.inference import (
    AggregateDivisor,
    HMCSampler,
    PartlyProperProduct,
    PriorDivisor,
    ProductOfExperts,
    draw,
    normal_moments,
    product_of,
)
from mvflow.nn import seeded
from mvflow.posteriors import MAF, FlowPosterior, build_posterior
from mvflow.systems.subsets import Product

SHORT = HMCSampler(chains=2, warmup=20, draws=40)


def experts(*scales, rows=3, latent=2):
    rng = torch.Generator().manual_seed(0)
    locs = torch.randn(len(scales), rows, latent, generator=rng, dtype=torch.float64)
    return [DiagNormal(m, torch.full_like(m, s)) for m, s in zip(locs, scales, strict=True)]


DIVISORS = {
    "prior": PriorDivisor(),
    "prior, half": PriorDivisor(0.5),
    "aggregate": AggregateDivisor(
        torch.tensor([0.5, -1.0], dtype=torch.float64),
        torch.tensor([2.0, 1.5], dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("kind", DIVISORS)
@pytest.mark.parametrize("scales", [(0.5, 0.8), (0.9, 1.1, 0.7)])
def test_it_is_the_normalised_product(kind, scales):
    made, divisor = experts(*scales), DIVISORS[kind]
    q = product_of(made, divisor=divisor)
    assert isinstance(q, DiagNormal)
    z = 0.2 * torch.randn(50, 3, 2, dtype=torch.float64)  # inside the edge of the aggregate
    difference = ProductOfExperts(made, divisor=divisor).log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(
        difference, difference[:1].expand_as(difference), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_prior_is_divided_out_as_often_as_the_rule_says(count):
    """Precisions of the experts less |S|-1 (Eq. 12), or less one (F.3), by hand."""
    made = experts(*(0.5, 0.8, 0.6, 0.7)[:count])
    joint = SimpleNamespace(
        expert=lambda name, x, covariates: made[int(name)], radius=torch.tensor(torch.inf)
    )
    x = Observed({str(j): torch.zeros(3, 1) for j in range(count)})
    precision = sum(q.base_dist.scale.numpy() ** -2 for q in made)
    for divisor, times in (("prior", count - 1), ("prior-once", 1)):
        q = Product(divisor=divisor).combine(joint, None, x)
        np.testing.assert_allclose(q.stddev, (precision - times) ** -0.5)


def test_a_gaussian_of_standardised_latents_is_found_and_a_flow_is_not():
    gaussian = FlowPosterior(nn.Linear(3, 4), latent=2).double()
    gaussian.standardise(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    x = torch.randn(5, 3, dtype=torch.float64)
    q = gaussian(x)
    loc, scale = (m.detach().numpy() for m in normal_moments(q))
    z = np.random.default_rng(0).normal(size=(5, 2))
    expected = stats.norm(loc, scale).logpdf(z).sum(1)
    np.testing.assert_allclose(q.log_prob(torch.from_numpy(z)).detach(), expected, rtol=1e-10)
    flow = build_posterior(MAF(transforms=1), 2, lambda n: nn.Linear(3, n))
    assert normal_moments(flow(x.float())) is None
    assert isinstance(product_of([flow(x.float()), flow(x.float())]), ProductOfExperts)


def test_where_no_row_is_proper_all_is_as_it_was():
    wide = experts(2.0, 2.0)
    q = product_of(wide, 4.0)
    assert type(q) is ProductOfExperts
    assert q.experts == tuple(wide)


def half_proper():
    """Rows 0 and 2 are proper; row 1, of experts wider than the prior, is not."""
    locs = torch.tensor([[0.5, 0.0], [0.3, 0.3], [-1.0, 1.0]])
    scales = torch.tensor([[0.5], [2.0], [0.8]]).expand(3, 2)
    return [DiagNormal(locs, scales), DiagNormal(locs + 0.2, scales)]


def test_each_row_is_drawn_in_the_way_that_it_allows():
    made, radius = half_proper(), 6.0
    q = product_of(made, radius)
    assert isinstance(q, PartlyProperProduct)
    assert q.proper.tolist() == [True, False, True]
    with seeded(0, "draws"):
        drawn = draw(q, 4000, SHORT, radius)
    precision = 2 / torch.tensor([0.25, 0.64]) - 1
    mean = (2 / torch.tensor([[0.25], [0.64]])) * (made[0].mean[[0, 2]] + 0.1) / precision[:, None]
    error = precision[:, None].rsqrt() / 4000**0.5
    assert ((drawn.z[:, [0, 2]].mean(0) - mean).abs() < 4 * error).all()
    assert (drawn.z[:, 1].norm(dim=-1) <= radius).all()
    assert drawn.z[:, 1].norm(dim=-1).median() > 3  # its mass is at the ball's surface
    found = drawn.diagnostics
    assert found.method == "mcmc"
    assert found.improper.tolist() == [False, True, False]
    assert found.acceptance[[0, 2]].tolist() == [1.0, 1.0]
    assert found.acceptance[1] < 1
    assert found.contacts.shape == found.moved.shape == (3,)
    assert found.summary()["rows_improper"] == 1


def test_the_density_of_a_row_does_not_depend_on_the_others():
    made = half_proper()
    z = torch.randn(7, 3, 2)
    together = product_of(made, 6.0).log_prob(z)
    for row in range(3):
        one = [DiagNormal(q.mean[[row]], q.stddev[[row]]) for q in made]
        alone = product_of(one, 6.0).log_prob(z[:, [row]])[:, 0]
        torch.testing.assert_close(together[:, row], alone)
