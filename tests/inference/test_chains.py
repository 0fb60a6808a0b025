"""Chains over products: what makes draws of them, and the paper's settings."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from zuko.distributions import DiagNormal

from mvflow.core import REGISTRIES, UsageError
from mvflow.core.parts import create
from mvflow.functional import normal_poe
from mvflow.inference import (
    SIR,
    ChainSampler,
    HMCSampler,
    IndependentChains,
    MarkovChains,
    ProductOfExperts,
    Sampler,
    Target,
    draw,
)
from mvflow.inference.chains import SNAPSHOTS, _thinning, resample, spread
from mvflow.nn import CapturedFunction, captured, seeded
from mvflow.posteriors import MAF, build_posterior
from mvflow.samplers import HMC, run
from mvflow.systems.subsets import PROTOCOLS

LOCS = np.array([[[0.3, -0.2], [0.0, 0.5]], [[-0.1, 0.4], [0.3, 0.1]]])
SCALES = np.array([[[0.5, 0.8], [0.6, 0.6]], [[0.7, 0.6], [0.9, 0.4]]])

PAPER = {k: v for k, v in PROTOCOLS["paper"]["sampler"].items() if k != "kind"}

SAMPLERS = {
    "markov chains": HMCSampler(num_steps=5, warmup=30, draws=30, candidates=64),
    "independent chains": HMCSampler(
        independent=True, step_size=0.3, num_steps=5, draws=10, warmup=10
    ),
    "sir": SIR(),
}


def product(locs=LOCS, scales=SCALES, radius=math.inf):
    experts = [DiagNormal(*map(torch.from_numpy, pair)) for pair in zip(locs, scales, strict=True)]
    return ProductOfExperts(experts, radius)


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS.keys())
def sampler(request):
    return request.param


# Laws of every sampler of products: a new one adds a line to SAMPLERS.


@pytest.mark.parametrize("n", [1, 5])
def test_draws_are_inside_and_diagnosed(sampler, n):
    assert isinstance(sampler, Sampler)
    assert isinstance(product(), Target)
    with seeded(0, "sampler"):
        found = sampler.sample(product(radius=0.7), n)
    assert found.z.shape == (n, 2, 2)
    assert (found.z.norm(dim=-1) <= 0.7).all()
    assert not found.z.requires_grad
    d = found.diagnostics
    assert d.method in ("mcmc", "sir")
    assert len(d.ess) == len(d.contacts) == 2
    assert d.contacts.max() > 0
    json.dumps(d.summary(), allow_nan=False)


def test_the_seed_decides(sampler):
    found = []
    for seed in (0, 0, 1):
        with seeded(seed, "sampler"):
            found.append(sampler.sample(product(), 5).z)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_row_does_not_hear_of_the_data_of_the_others(sampler):
    other = LOCS.copy()
    other[:, 1] += 1
    found = []
    for locs in (LOCS, other):
        with seeded(0, "sampler"):
            found.append(sampler.sample(product(locs), 5).z)
    assert torch.equal(found[0][:, 0], found[1][:, 0])
    assert not torch.equal(found[0][:, 1], found[1][:, 1])


def test_float32_stays_float32(sampler):
    locs, scales = LOCS.astype(np.float32), SCALES.astype(np.float32)
    assert sampler.sample(product(locs, scales), 3).z.dtype == torch.float32


# The paper's settings.


def test_the_papers_settings_make_the_papers_sampler():
    sampler = create("samplers", PROTOCOLS["paper"]["sampler"])
    assert sampler.kernel() == HMC.paper(0.01)
    assert sampler.kernel().num_steps == 10
    for name, divisor in (("paper", "prior"), ("paper-f3", "prior-once")):
        rule = create("subsets", PROTOCOLS[name]["subset"])
        assert (rule.divisor, rule.within_ball) == (divisor, False)
    expected = IndependentChains(HMC.paper(0.01), steps=100, warmup=0)
    found = []
    for each in (sampler, expected):
        with seeded(0, "paper"):
            found.append(each.sample(product(), 3).z)
    assert torch.equal(*found)


def test_each_draw_is_the_last_state_of_its_own_chain():
    """As `run` makes it by hand: from a random expert's draw, unit mass, fixed step size."""
    settings = HMCSampler(**{**PAPER, "draws": 20, "step_size": 0.05})
    with seeded(0, "paper"):
        found = draw(product(), 6, settings)
    with seeded(0, "paper"):
        start = product().mixture_draws(6)

        class Source:
            normal = staticmethod(lambda shape: torch.randn(shape, dtype=torch.float64))
            uniform = staticmethod(lambda shape: torch.rand(shape, dtype=torch.float64))

        kernel = HMC(0.05, num_steps=10, jitter=0.0, adaptive=False)
        chain = run(kernel, start, product().value_and_grad, Source, warmup=0, draws=20)
    assert torch.equal(found.z, chain.positions[-1])
    np.testing.assert_allclose(chain.step_size, 0.05, rtol=1e-12)
    np.testing.assert_allclose(found.diagnostics.acceptance, chain.acceptance, rtol=1e-9)


def test_independent_chains_reach_the_gaussian_product():
    loc, scale = normal_poe(LOCS, SCALES)
    kernel = HMC(0.06, num_steps=10, adaptive=False)  # about a quarter of an orbit a step
    sampler = IndependentChains(kernel, steps=40)
    with seeded(0, "chains"):
        found = sampler.sample(product(), 2000)
    u = (found.z.numpy() - loc) / scale
    assert (np.abs(u.mean(0)) < 4 / math.sqrt(2000)).all()
    assert (np.abs((u**2).mean(0) - 1) < 4 * math.sqrt(2 / 2000)).all()
    assert (found.diagnostics.rhat < 1.1).all()  # ten states of 16 chains: it scatters by .03


def test_the_start_is_a_draw_of_a_random_expert():
    """Two experts far apart in one row: half the draws are of each, independently."""
    locs = np.array([[[-9.0, 0.0]], [[9.0, 0.0]]])
    with seeded(0, "mixture"):
        z = product(locs, np.ones((2, 1, 2))).mixture_draws(4000)[:, 0]
    left = z[:, 0] < 0
    assert abs(left.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert abs(z[left].mean(0)[0] + 9) < 4 / math.sqrt(2000)
    assert abs(z[~left].mean(0)[0] - 9) < 4 / math.sqrt(2000)


def test_chains_that_do_not_arrive_are_seen():
    """Steps too short to leave the starts, of experts that are apart: R-hat says so."""
    locs = np.array([[[-3.0, 0.0]], [[3.0, 0.0]]])
    sampler = IndependentChains(HMC.paper(1e-4), steps=20)
    with seeded(0, "chains"):
        found = sampler.sample(product(locs, np.full((2, 1, 2), 0.3)), 16)
    assert (found.diagnostics.rhat > 1.5).all()


@pytest.mark.parametrize(("steps", "thin"), [(4, 1), (19, 1), (100, 10), (105, 7), (101, 1)])
def test_states_on_the_way_are_evenly_spaced_and_the_last_is_kept(steps, thin):
    assert _thinning(steps) == thin
    assert steps % thin == 0
    assert steps // thin >= min(steps, SNAPSHOTS)


@pytest.mark.bad_input
def test_too_few_steps_are_refused():
    with pytest.raises(UsageError, match="draws is 3, expected at least 4 steps"):
        HMCSampler(**{**PAPER, "draws": 3}).sample(product(), 2)


class Doubled(ChainSampler):
    """Chains of somebody else's kernel, with a setting of its own."""

    leaps: int = 3

    def kernel(self):
        return HMC(0.3, num_steps=2 * self.leaps)


def test_another_kernel_is_one_method_more():
    made = Doubled(leaps=2, chains=2, draws=6, warmup=3)
    with seeded(0, "chains"):
        found = made.sample(product(), 4)
    with seeded(0, "chains"):
        expected = MarkovChains(HMC(0.3, num_steps=4), 2, 3, 6).sample(product(), 4)
    assert torch.equal(found.z, expected.z)
    assert create("samplers", made) is made


def test_every_registered_sampler_has_been_tried():
    """A new one adds a line to SAMPLERS; hamiltorch, which may be absent, has tests of its own."""
    tried = {REGISTRIES["samplers"].name_of(type(s)) for s in SAMPLERS.values()}
    assert tried == set(REGISTRIES["samplers"].names()) - {"hamiltorch"}


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 33, 119, 120])
def test_draws_are_spread_over_all_chains_and_their_whole_length(n):
    steps, chains = (at.tolist() for at in spread(n, 30, 4))
    counts = [chains.count(k) for k in range(4)]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1
    assert len(set(zip(steps, chains, strict=True))) == n  # no state twice
    assert steps[-1] == 29
    gaps = np.diff([-1, *steps])
    assert gaps.min() >= 30 // n
    assert gaps.max() <= -(-30 // n)


def test_chains_draw_as_spread_says():
    """Chains that stand still tell which of them a draw is of."""
    algorithm = HMC(step_size=1e-12, num_steps=1, adaptive=False)
    with seeded(0, "chains"):
        found = MarkovChains(algorithm, warmup=0, draws=6).sample(product(), 8).z
    assert torch.equal(found[:4].round(decimals=6), found[4:].round(decimals=6))
    assert len(found.round(decimals=6).unique(dim=0)) == 4


def test_a_row_without_any_weight_starts_at_the_nearest_candidate_and_has_no_effective_one():
    pool = torch.tensor([[[3.0], [4.0]], [[1.0], [-2.0]], [[2.0], [8.0]]])
    log_weights = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf], [-torch.inf, -torch.inf]])
    with seeded(0, "starts"):
        start, ess = resample(pool, log_weights, 50)
    assert {*start[:, 0, 0].tolist()} == {3.0, 1.0}
    assert {*start[:, 1, 0].tolist()} == {-2.0}
    assert ess.tolist() == [2.0, 0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("independent", [False, True])
def test_draws_on_a_gpu_are_those_of_steps_that_are_not_captured(independent, monkeypatch):
    """Experts that are branches of one CUDA graph have the same densities and gradients."""
    with seeded(0, "experts"):
        flows = [build_posterior(MAF(hidden=(8,)), 3, partial(nn.Linear, 2)) for _ in range(2)]
    x = torch.randn(4, 2, device="cuda")
    product = ProductOfExperts([flow.cuda().eval()(x) for flow in flows], radius=6.0)
    sampler = HMCSampler(warmup=20, draws=20, independent=independent)
    found, made = [], []

    def noted(function, z):
        made.append(captured(function, z))
        return made[-1]

    for way in (noted, lambda function, _: function):
        monkeypatch.setattr("mvflow.inference.chains.captured", way)
        with seeded(0, "draws", device="cuda"):
            found.append(sampler.sample(product, 5).z)
    assert [type(each) for each in made] == [CapturedFunction]
    assert torch.equal(*found)
