"""Products of experts: densities in closed form, draws by HMC, and what may go wrong."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from torch.distributions import Distribution, MultivariateNormal
from zuko.distributions import DiagNormal

from mvflow.core import NumericsError, UsageError
from mvflow.functional import effective_sample_size, normal_poe
from mvflow.inference import (
    SIR,
    AggregateDivisor,
    HMCSampler,
    MarkovChains,
    ProductOfExperts,
    draw,
    into_ball,
)
from mvflow.nn import seeded
from mvflow.posteriors import MAF, NSF, Gaussian, build_posterior
from mvflow.samplers import HMC

SHORT = HMCSampler(warmup=30, draws=30, candidates=64, num_steps=5)


def experts(count=3, rows=4, latent=2, seed=0, scale=(0.4, 0.9)):
    """Gaussian experts in float64: their means and scales, and themselves."""
    rng = np.random.default_rng(seed)
    locs = rng.normal(size=(count, rows, latent))
    scales = rng.uniform(*scale, size=(count, rows, latent))
    made = [DiagNormal(*map(torch.from_numpy, pair)) for pair in zip(locs, scales, strict=True)]
    return locs, scales, made


def standard_error(values):
    """Of the mean of `values` (draws, chains, ...), by their own effective sample size."""
    ess = array_stats.ess(np.asarray(values, float), chain_axis=1, draw_axis=0)
    return values.std((0, 1)) / np.sqrt(ess)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("latent", [1, 2, 8])
def test_the_log_density_is_the_gaussian_product_up_to_a_constant(count, latent):
    locs, scales, made = experts(count, latent=latent)
    exact = DiagNormal(*map(torch.from_numpy, normal_poe(locs, scales)))
    z = torch.randn(50, 4, latent, generator=torch.Generator().manual_seed(0)).double()
    difference = ProductOfExperts(made).log_prob(z) - exact.log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-9)


def test_the_gradient_is_that_of_the_log_density():
    locs, scales, made = experts()
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    value, grad = ProductOfExperts(made).value_and_grad(z)
    torch.testing.assert_close(value, ProductOfExperts(made).log_prob(z), rtol=0, atol=0)
    loc, scale = normal_poe(locs, scales)
    np.testing.assert_allclose(grad, (loc - z.numpy()) / scale**2, rtol=1e-9, atol=1e-9)
    assert not value.requires_grad
    assert not grad.requires_grad


@pytest.mark.parametrize("family", [Gaussian(), MAF(hidden=(8,)), NSF(hidden=(8,))], ids=repr)
def test_the_gradient_of_flows_over_an_aggregate_is_autograds(family):
    """Inside the edge and beyond it."""
    made = []
    for j in range(3):
        with seeded(j, "flow"):
            q = build_posterior(family, 2, lambda n: torch.nn.Linear(2, n))
        made.append(q.double().requires_grad_(False)(torch.ones(4, 2).double() * j))
    loc, scale = torch.tensor([0.3, -0.2]).double(), torch.tensor([0.5, 2.0]).double()
    divisor = AggregateDivisor(loc, scale)
    product = ProductOfExperts(made, divisor=divisor)
    z = 3 * torch.randn(30, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    value, grad = product.value_and_grad(z)
    z.requires_grad_()
    expected = product.log_prob(z)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-10)
    (by_autograd,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(grad, by_autograd, rtol=1e-8, atol=1e-8)


def test_hmc_draws_have_the_moments_of_the_gaussian_product():
    locs, scales, made = experts(rows=3)
    loc, scale = normal_poe(locs, scales)
    with seeded(0, "hmc"):
        chains = MarkovChains(HMC(num_steps=5), chains=16, warmup=60, draws=125)
        found = chains.sample(ProductOfExperts(made), 2000)
    assert (found.diagnostics.rhat < 1.1).all()
    chains = found.z.numpy().reshape(125, 16, 3, 2)  # n is all that was kept
    u = (chains - loc) / scale
    for values, expected in ((u, 0), (u**2, 1), (u.prod(-1, keepdims=True), 0)):
        assert (np.abs(values.mean((0, 1)) - expected) < 4 * standard_error(values)).all()
    # what is reported is the smaller of the effective sizes of the means
    reported = array_stats.ess(chains.astype(float), chain_axis=1, draw_axis=0).min(-1)
    np.testing.assert_allclose(found.diagnostics.ess, reported, rtol=1e-9)


def test_a_product_of_flows_is_drawn_as_a_grid_has_it():
    """Three flows of random weights, normalised on a grid, against the draws' moments."""
    made = []
    for j in range(3):
        with seeded(j, "flow"):
            family = MAF(hidden=(8,), transforms=1)
            q = build_posterior(family, 2, lambda n: torch.nn.Linear(2, n)).double()
            with torch.no_grad():
                for p in q.parameters():
                    p.add_(0.2 * torch.randn_like(p))
            made.append(q(torch.zeros(1, 2).double()))
    # one expert more than |S| - 1 priors: narrow them, so that the product is proper
    product = ProductOfExperts(
        [*made, DiagNormal(torch.zeros(1, 2).double(), torch.ones(1, 2).double() * 0.7)]
    )
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        weight = torch.softmax(product.log_prob(grid)[:, 0], 0).numpy()
    with seeded(0, "hmc"):
        chains = MarkovChains(HMC(num_steps=5), chains=16, warmup=40, draws=40)
        found = chains.sample(product, 640)
    z, at = found.z.numpy().reshape(40, 16, 2), grid[:, 0].numpy()
    for f in (lambda v: v, lambda v: v**2, lambda v: v[..., :1] * v[..., 1:]):
        expected = (weight[:, None] * f(at)).sum(0)
        assert (np.abs(f(z).mean((0, 1)) - expected) < 4 * standard_error(f(z))).all()


def test_an_improper_product_stays_in_the_ball():
    """Experts wider than the prior: the quotient grows outwards, chains would run to infinity."""
    wide = [DiagNormal(torch.zeros(6, 2), torch.full((6, 2), 2.0)) for _ in range(3)]
    with seeded(0, "hmc"):
        found = draw(ProductOfExperts(wide, radius=4.0), 200, SHORT)
    norm = found.z.norm(dim=-1)
    assert torch.isfinite(found.z).all()
    assert (norm <= 4.0).all()
    assert norm.median() > 3.0  # the mass is at the wall
    assert (found.diagnostics.contacts > 0).all()


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("width", [1.5, 3.0])
def test_wide_experts_have_a_proper_product_under_an_aggregate(count, width):
    """Without a ball: the mass on shells falls outwards, where by the prior it grows."""
    made = [DiagNormal(torch.zeros(1, 2), torch.full((1, 2), width)).expand((1,))] * count
    divisor = AggregateDivisor(torch.zeros(2), torch.ones(2))
    shells = torch.tensor([3.0, 10.0, 30.0, 100.0])
    z = torch.stack([shells, torch.zeros(4)], -1)[:, None]
    masses = {
        "aggregate": ProductOfExperts(made, divisor=divisor).log_prob(z)[:, 0] + 2 * shells.log(),
        "prior": ProductOfExperts(made).log_prob(z)[:, 0] + 2 * shells.log(),
    }
    assert (masses["prior"].diff() > 0).all()
    assert (masses["aggregate"][1:].diff() < 0).all()


def test_wide_experts_are_drawn_as_a_grid_has_their_product():
    """Two experts of standard deviation 2 over N(0, I): nothing from nowhere, and no ball."""
    wide = [DiagNormal(torch.full((1, 2), at), torch.full((1, 2), 2.0)) for at in (-0.5, 0.5)]
    product = ProductOfExperts(wide, divisor=AggregateDivisor(torch.zeros(2), torch.ones(2)))
    axis = torch.linspace(-25, 25, 401)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    weight = torch.softmax(product.log_prob(grid)[:, 0].double(), 0).numpy()
    with seeded(0, "hmc"):
        found = MarkovChains(HMC(num_steps=5), chains=16, warmup=60, draws=150).sample(
            product, 2400
        )
    norm = np.linalg.norm(
        found.z.numpy().reshape(150, 16, 2).astype(float), axis=-1, keepdims=True
    )
    for f in (lambda r: r, lambda r: r**2, lambda r: r > 6.0):
        expected = (weight * f(grid[:, 0].norm(dim=-1).numpy())).sum()
        assert abs(f(norm).mean() - expected) < 4 * standard_error(f(norm).astype(float))
    assert not found.diagnostics.improper.any()


@pytest.mark.parametrize("radius", [4.0, math.inf])
@pytest.mark.parametrize(("scale", "improper"), [(0.5, False), (1.2, False), (1.6, True)])
@pytest.mark.parametrize("latent", [1, 2, 20])
def test_an_improper_product_is_known_before_sampling(radius, scale, improper, latent):
    """Two Gaussians divided by N(0, 1): proper up to a variance of 2, in each dimension alone."""
    scales = torch.full((3, latent), 0.3)
    scales[:, -1] = scale
    product = ProductOfExperts([DiagNormal(torch.zeros(3, latent), scales)] * 2, radius)
    with seeded(0, "pool"):
        pool, _ = product.candidates(64)
    assert product.is_improper(pool).tolist() == [improper] * 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_product_that_is_improper_between_the_axes_is_known(sign):
    """Its precision is 2 / variance - 1: below zero along one diagonal, 4 along each axis."""
    variances = 0.2, 4.0
    along = torch.tensor([1.0, sign]) / 2**0.5
    covariance = variances[0] * torch.eye(2) + (variances[1] - variances[0]) * along.outer(along)
    assert (2 * torch.linalg.inv(covariance).diagonal() - 1 > 4).all()
    expert = MultivariateNormal(torch.tensor([[3.0, 3.0]]), covariance)
    product = ProductOfExperts([expert, expert], 4.0)
    with seeded(0, "pool"):
        pool, _ = product.candidates(64)
    assert product.is_improper(pool).all()


def test_a_lone_draw_does_not_make_a_product_improper():
    """It is its own centre, so that there is no direction towards it."""
    product = ProductOfExperts([DiagNormal(torch.zeros(3, 2), torch.full((3, 2), 0.5))] * 2, 4.0)
    assert not product.is_improper(product.mixture_draws(1)).any()


@pytest.mark.parametrize("latent", [2, 8])
def test_experts_outside_the_ball_are_drawn_inside(latent):
    """Even where no draw of any expert lies in the ball, and weights all vanish."""
    far = [DiagNormal(torch.full((3, latent), 5.0), torch.full((3, latent), 0.1)) for _ in "ab"]
    with seeded(0, "hmc"):
        found = draw(ProductOfExperts(far, radius=2.0), 40, SHORT)
    assert torch.isfinite(found.z).all()
    assert (found.z.norm(dim=-1) <= 2.0).all()
    assert (found.diagnostics.start_ess == 0).all()


@pytest.mark.parametrize("radius", [1.0, 0.01])
def test_no_draw_of_a_single_posterior_lies_outside_the_ball(radius):
    wide = DiagNormal(torch.zeros(7, 3), torch.full((7, 3), 5.0))
    with seeded(0, "draw"):
        found = draw(wide, 30, SHORT, radius)
    assert (found.z.norm(dim=-1) <= radius).all()
    assert (found.diagnostics.contacts > 0.9).all()


def test_draws_in_the_ball_follow_the_truncated_density():
    """Not those moved to its surface: with radius 2 of N(0, I) in 2-d, E|z|^2 is known."""
    with seeded(0, "draw"):
        found = draw(DiagNormal(torch.zeros(1, 2), torch.ones(1, 2)), 20_000, SHORT, 2.0)
    squared = found.z.square().sum(-1).double()
    t = 2.0  # |z|^2 / 2 is exponential, cut at 2
    expected = 2 * (1 - t * math.exp(-t) / (1 - math.exp(-t)))
    assert abs(float(squared.mean()) - expected) < 4 * float(squared.std()) / math.sqrt(20_000)
    error = math.sqrt(math.exp(-t) * (1 - math.exp(-t)) / 20_000)
    assert abs(found.diagnostics.contacts[0] - math.exp(-t)) < 4 * error


class Broken(Distribution):
    """N(0, 1/4) whose log density is `value` in one row, and whose draws there are `draws`."""

    def __init__(self, row, value, draws=0.0):
        super().__init__(torch.Size([4]), torch.Size([2]), validate_args=False)
        self.row, self.value, self.draws = row, value, draws
        self.q = DiagNormal(torch.zeros(4, 2), torch.full((4, 2), 0.5))

    def log_prob(self, z):
        bad = torch.arange(4) == self.row
        return torch.where(bad, self.value + 0 * z.sum(-1), self.q.log_prob(z))

    def sample(self, shape=()):
        z = self.q.sample(shape)
        bad = torch.arange(4)[:, None] == self.row
        return torch.where(bad, z + self.draws, z)


def test_a_row_without_mass_is_finite_and_known_and_leaves_the_others_alone():
    good = DiagNormal(torch.ones(4, 2), torch.full((4, 2), 0.5))
    with seeded(0, "hmc"):
        broken = draw(ProductOfExperts([Broken(2, -math.inf), good], 3.0), 100, SHORT)
    with seeded(0, "hmc"):
        whole = draw(ProductOfExperts([Broken(9, -math.inf), good], 3.0), 100, SHORT)
    assert torch.isfinite(broken.z).all()
    assert (broken.z.norm(dim=-1) <= 3.0).all()
    found = broken.diagnostics
    assert found.acceptance[2] == 0
    assert found.start_ess[2] == 0
    assert found.rhat[2] >= 1e3
    others = [0, 1, 3]
    assert torch.equal(broken.z[:, others], whole.z[:, others])
    assert (found.rhat[others] < 1.2).all()
    assert found.divergences[others].sum() == 0


@pytest.mark.parametrize("draws", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", [SHORT, HMCSampler(independent=True, draws=4), SIR()])
def test_an_expert_that_draws_no_numbers_stops(draws, sampler):
    """Its draws are not moved to zero or to the sphere."""
    good = DiagNormal(torch.ones(4, 2), torch.full((4, 2), 0.5))
    with pytest.raises(NumericsError, match=r"in 1 of 4 rows \(the first is row 2\)"):
        draw(ProductOfExperts([Broken(2, 0.0, draws), good], 3.0), 5, sampler)


@pytest.mark.parametrize("sampler", [SHORT, SIR()])
def test_a_density_that_is_not_a_number_stops(sampler):
    good = DiagNormal(torch.ones(4, 2), torch.full((4, 2), 0.5))
    with pytest.raises(NumericsError, match="density of a product"):
        draw(ProductOfExperts([Broken(2, math.nan), good], 3.0), 5, sampler)


class EverySecond(DiagNormal):
    """A Gaussian of which every second draw is not a number."""

    def sample(self, shape=()):
        z = super().sample(shape)
        z[::2] = math.nan
        return z


def test_a_candidate_that_is_not_a_number_has_no_weight_and_is_not_moved():
    law = torch.full((3, 2), 0.5), torch.full((3, 2), 0.5)
    pool, log_weights = ProductOfExperts([EverySecond(*law), DiagNormal(*law)]).candidates(100)
    assert pool.isfinite().all()
    assert not (pool == 0).any()
    assert torch.isneginf(log_weights[:100:2]).all()
    assert log_weights[1:100:2].isfinite().all()
    assert log_weights[100:].isfinite().all()


@pytest.mark.parametrize("draws", [math.nan, math.inf])
def test_draws_of_one_posterior_that_are_not_numbers_stop(draws):
    with pytest.raises(NumericsError, match=r"in 1 of 4 rows \(the first is row 2\)"):
        draw(Broken(2, 0.0, draws), 5, SHORT, radius=3.0)


def test_draws_moved_to_the_surface_are_counted():
    far = DiagNormal(torch.tensor([[0.0, 0.0], [99.0, 0.0]]), torch.full((2, 2), 0.1))
    found = draw(far, 6, SHORT, radius=3.0)
    assert found.diagnostics.moved.tolist() == [0, 1]
    assert found.diagnostics.summary()["rows_moved"] == 1
    assert (found.z[:, 1].norm(dim=-1) <= 3.0).all()


def test_rows_drawn_alone_follow_the_same_distribution():
    locs, scales, made = experts(rows=3, seed=5)
    loc, scale = normal_poe(locs, scales)
    for row in range(3):
        alone = [
            DiagNormal(q.base_dist.loc[row : row + 1], q.base_dist.scale[row : row + 1])
            for q in made
        ]
        with seeded(row, "hmc"):
            chains = MarkovChains(HMC(num_steps=5), chains=16, warmup=40, draws=50)
            found = chains.sample(ProductOfExperts(alone), 800)
        error = scale[row] / np.sqrt(found.diagnostics.ess[0])
        assert (np.abs(found.z[:, 0].numpy().mean(0) - loc[row]) < 4 * error).all()


def test_a_row_does_not_hear_of_the_data_of_the_others():
    """With the same noise, changing the experts of one row leaves the draws of the others."""
    locs, scales, made = experts(rows=3)
    other_locs = locs.copy()
    other_locs[:, 1] += 1
    other = [DiagNormal(*map(torch.from_numpy, p)) for p in zip(other_locs, scales, strict=True)]
    found = []
    for each in (made, other):
        with seeded(0, "hmc"):
            found.append(draw(ProductOfExperts(each), 50, SHORT).z)
    assert torch.equal(found[0][:, [0, 2]], found[1][:, [0, 2]])
    assert not torch.equal(found[0][:, 1], found[1][:, 1])


def test_the_start_is_resampled_by_importance():
    """Its effective share of candidates equals that of weights computed by hand."""
    locs, scales, made = experts(count=2, rows=2)
    product = ProductOfExperts(made)
    with seeded(0, "candidates"):
        found = MarkovChains(HMC(), warmup=0, draws=1, candidates=200).sample(product, 1)
    with seeded(0, "candidates"):
        pool = torch.cat([q.sample((200,)) for q in made])
    terms = torch.stack([q.log_prob(pool) for q in made])
    log_weights = product.log_prob(pool) - torch.logsumexp(terms, 0)
    expected = effective_sample_size(log_weights) / 400
    np.testing.assert_allclose(found.diagnostics.start_ess, expected, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 3, 7, 500])
def test_any_number_of_draws(n):
    _, _, made = experts(rows=2)
    with seeded(0, "hmc"):
        found = draw(ProductOfExperts(made), n, SHORT)
    assert found.z.shape == (n, 2, 2)
    assert len(found.z.unique(dim=0)) > 0.5 * n


def test_the_seed_decides():
    _, _, made = experts()
    product = ProductOfExperts([DiagNormal(q.base_dist.loc, q.base_dist.scale) for q in made])
    before = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with seeded(seed, "hmc"):
            found.append(draw(product, 5, SHORT).z)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_into_ball_keeps_what_is_inside_and_directions():
    z = torch.tensor([[0.1, 0.2], [30.0, 40.0], [math.nan, 1.0], [0.0, 0.0]])
    found = into_ball(z, 1.0)
    assert torch.equal(found[[0, 3]], z[[0, 3]])
    torch.testing.assert_close(found[1], 0.999 * torch.tensor([0.6, 0.8]))
    assert found[2].isnan().any()
    far = into_ball(torch.tensor([[3e30, 4e30]]), 1.0)  # whose norm overflows
    torch.testing.assert_close(far, 0.999 * torch.tensor([[0.6, 0.8]]))
    assert torch.equal(into_ball(z[:2], math.inf), z[:2])


def test_a_sampler_is_its_settings():
    """The part makes the chains and the kernel that it describes."""
    settings = {"chains": 5, "warmup": 6, "draws": 7, "candidates": 8}
    part = HMCSampler(num_steps=3, step_size=0.2, **settings)
    kernel = HMC(num_steps=3, step_size=0.2)
    assert part.kernel() == kernel
    _, _, made = experts()
    found = []
    for sampler in (part, MarkovChains(kernel, **settings)):
        with seeded(0, "hmc"):
            found.append(sampler.sample(ProductOfExperts(made), 9).z)
    assert torch.equal(*found)


@pytest.mark.bad_input
@pytest.mark.parametrize("n", [0, -3])
def test_no_draws_are_refused(n):
    with pytest.raises(UsageError, match=f"n={n}: expected at least one draw"):
        draw(experts()[2][0], n, SHORT)
