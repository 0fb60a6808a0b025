import array_api_compat.numpy as numpy_xp
import array_api_compat.torch as torch_xp
import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from scipy import stats

from mvflow.core import UsageError
from mvflow.functional import (
    inside_ball,
    normal_log_prob,
    normal_poe,
    poe_log_density,
    standard_normal_log_prob,
)
from mvflow.samplers import HMC, Noise, NumpyRandom, run
from mvflow.samplers.hmc import init, step


def random(seed=0):
    return NumpyRandom(np.random.default_rng(seed))


def noises(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    return [Noise(rng.normal(size=shape), rng.uniform(size=shape[:-1])) for _ in range(count)]


# The kernel.


def walk(xp, target, start, noise, step_size, inverse_mass):
    state = init(xp.asarray(start), target)
    infos = []
    for n in noise:
        state, info = step(
            state,
            Noise(*(xp.asarray(a) for a in n)),
            target,
            step_size=xp.asarray(step_size),
            inverse_mass=xp.asarray(inverse_mass),
            num_steps=5,
        )
        infos.append(info)
    return state, infos


SHAPE = (4, 3, 2)
STEP_SIZE = np.array([0.1, 0.3, 0.6])
INVERSE_MASS = np.random.default_rng(1).uniform(0.5, 2, size=SHAPE[1:])


def test_every_library_makes_the_same_chain(xp, banana):
    start = np.random.default_rng(2).normal(size=SHAPE)
    args = banana, start, noises(SHAPE, 20), STEP_SIZE, INVERSE_MASS
    got, infos = walk(xp, *args)
    expected, expected_infos = walk(numpy_xp, *args)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-10, atol=1e-10)
    for a, b in zip(infos, expected_infos, strict=True):
        np.testing.assert_array_equal(np.asarray(a.is_accepted), b.is_accepted)
    accepted = np.stack([b.is_accepted for b in expected_infos])
    assert 0 < accepted.mean() < 1


def test_torch_autograd_makes_the_chain_of_the_closed_form(banana):
    def by_autograd(z):
        z = z.detach().requires_grad_()
        bend = z[..., 1] - z[..., 0] ** 2
        value = -0.5 * (z[..., 0] ** 2 + 4 * bend**2)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    start = np.random.default_rng(2).normal(size=SHAPE)
    args = start, noises(SHAPE, 20), STEP_SIZE, INVERSE_MASS
    got, _ = walk(torch_xp, by_autograd, *args)
    expected, _ = walk(numpy_xp, banana, *args)
    np.testing.assert_allclose(got.position.numpy(), expected.position, rtol=1e-10, atol=1e-10)


def test_acceptance_is_the_metropolis_ratio(banana):
    """min(1, exp(-H' + H)), from the proposal of the same noise."""
    start = np.random.default_rng(2).normal(size=SHAPE)
    (noise,) = noises(SHAPE, 1)
    state = init(start, banana)
    _, info = step(
        state, noise, banana, step_size=STEP_SIZE, inverse_mass=INVERSE_MASS, num_steps=1
    )
    p = noise.momentum / np.sqrt(INVERSE_MASS)
    half = p + 0.5 * STEP_SIZE[:, None] * state.grad
    end = half + 0.5 * STEP_SIZE[:, None] * banana(info.proposal)[1]
    kinetic = 0.5 * (INVERSE_MASS * (p * p - end * end)).sum(-1)
    expected = np.exp(np.minimum(0, banana(info.proposal)[0] - state.log_density + kinetic))
    np.testing.assert_allclose(info.acceptance_rate, expected, rtol=1e-10)
    np.testing.assert_array_equal(info.is_accepted, noise.uniform < expected)


def test_value_and_gradient_stay_with_the_position_also_after_rejection(banana):
    state = init(np.random.default_rng(2).normal(size=SHAPE), banana)
    accepted = []
    for noise in noises(SHAPE, 20):
        state, info = step(
            state, noise, banana, step_size=STEP_SIZE, inverse_mass=INVERSE_MASS, num_steps=5
        )
        value, grad = banana(state.position)
        np.testing.assert_array_equal(state.log_density, value)
        np.testing.assert_array_equal(state.grad, grad)
        accepted.append(info.is_accepted)
    assert 0.1 < np.mean(accepted) < 0.9


# Numbers that break.


def half_space(beyond, grad_beyond=np.nan, constant=0.0):
    """N(0, I) times e^constant, with the value `beyond` where the first coordinate is above 1."""

    def value_and_grad(z):
        bad = z[..., 0] > 1
        value = np.where(bad, beyond, constant - 0.5 * (z * z).sum(-1))
        return value, np.where(bad[..., None], grad_beyond, -z)

    return value_and_grad


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf, -1e300])
def test_chains_stay_out_of_broken_regions_and_say_so(beyond):
    proposals = []
    chains = run(
        HMC(step_size=0.3),
        np.zeros((50, 2, 2)),
        half_space(beyond),
        random(),
        warmup=0,
        draws=100,
        on_step=lambda info: proposals.append(info.proposal),
    )
    assert np.isfinite(chains.positions).all()
    assert chains.positions[..., 0].max() <= 1
    outside = (np.stack(proposals)[..., 0] > 1).sum(axis=(0, 1))
    assert outside.min() > 50
    # outside the support is a plain rejection, every other breakdown a divergence
    expected = 0 * outside if beyond == -np.inf else outside
    np.testing.assert_array_equal(chains.divergences, expected)


def test_a_truncated_target_keeps_its_law_despite_missing_gradients(z_scores):
    """Zeroed gradients beyond the edge keep the trajectory reversible: no bias."""
    start = stats.truncnorm.rvs(-np.inf, 1, size=(2000, 1, 1), random_state=0)
    chains = run(
        HMC(step_size=0.3), start, half_space(np.nan), random(1), warmup=0, draws=20
    ).positions
    law = stats.truncnorm(-np.inf, 1)
    assert z_scores(chains, law.mean()).max() < 4
    assert z_scores((chains - law.mean()) ** 2, law.var()).max() < 4


def test_one_broken_chain_leaves_the_others_alone(normal_target):
    start = np.random.default_rng(0).normal(size=SHAPE)
    broken = start.copy()
    broken[1, 2] = np.nan
    healthy, broken = (
        run(HMC(), z, normal_target(), random(), warmup=0, draws=20).positions
        for z in (start, broken)
    )
    others = np.ones(SHAPE[:2], bool)
    others[1, 2] = False
    np.testing.assert_array_equal(healthy[:, others], broken[:, others])


@pytest.mark.parametrize("start", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_divergent_whatever_their_density(start):
    def flat(z):
        return np.zeros(z.shape[:-1]), np.zeros_like(z)

    position = np.full((4, 2, 3), start)
    chains = run(HMC(), position, flat, random(), warmup=5, draws=3)
    np.testing.assert_array_equal(chains.divergences, [12, 12])
    np.testing.assert_array_equal(chains.acceptance, [0, 0])


def test_runaway_trajectories_are_divergent_without_a_warning(normal_target):
    """A step 1e4 times too long: each leapfrog step multiplies the position by about 1e8."""
    for dtype in (np.float32, np.float64):
        start = np.ones((4, 2, 3), dtype)
        noise = NumpyRandom(np.random.default_rng(0), dtype)
        algorithm = HMC(step_size=1e4, num_steps=5, adaptive=False)
        chains = run(algorithm, start, normal_target(), noise, warmup=0, draws=3)
        np.testing.assert_array_equal(chains.positions, np.broadcast_to(start, (3, 4, 2, 3)))
        np.testing.assert_array_equal(chains.divergences, [12, 12])
        np.testing.assert_array_equal(chains.acceptance, [0, 0])


@pytest.mark.parametrize("beyond", [np.nan, -np.inf])
@pytest.mark.parametrize("grad_beyond", [-1.0, np.nan])
def test_starts_outside_the_support_come_in(beyond, grad_beyond):
    target = half_space(beyond, grad_beyond, constant=-1e4)
    start = np.full((30, 1, 2), 1.5)
    state = init(start, target)
    assert (state.log_density == -np.inf).all()
    (noise,) = noises(start.shape, 1)
    moved, info = step(
        state, noise, target, step_size=0.2, inverse_mass=np.ones((1, 2)), num_steps=5
    )
    inside = info.proposal[..., 0] <= 1
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(info.is_accepted, inside)
    np.testing.assert_array_equal(info.is_divergent, ~inside & np.isnan(beyond))
    np.testing.assert_array_equal(moved.log_density > -np.inf, inside)
    chains = run(HMC(step_size=0.3), start, target, random(), warmup=0, draws=50)
    assert chains.positions[-1, ..., 0].max() <= 1


# The law of the draws.

LOCS = np.array([[1.0, -0.5], [0.4, 0.3], [1.5, 0.0]])
SCALES = np.array([[0.6, 0.7], [0.5, 0.6], [0.7, 0.5]])


def three_experts(divisions):
    """Three Gaussian experts over the prior, which is divided out `divisions` times."""

    def value_and_grad(z):
        experts = normal_log_prob(z, LOCS[:, None, None], SCALES[:, None, None]).sum(-1)
        prior = standard_normal_log_prob(z)
        value = poe_log_density(experts, prior) + (2 - divisions) * prior
        pulls = (LOCS - z[..., None, :]) / SCALES**2
        return value, pulls.sum(-2) + divisions * z

    return value_and_grad


def product_scores(divisions, z_scores):
    start = np.random.default_rng(3).normal(size=(512, 1, 2))
    draws = run(HMC(), start, three_experts(divisions), random(), warmup=100, draws=60).positions
    loc, scale = normal_poe(LOCS, SCALES)
    z = draws - loc
    products = z[..., :, None] * z[..., None, :]
    return z_scores(draws, loc), z_scores(products, np.diag(scale**2))


def test_three_experts_have_mean_and_covariance_of_the_closed_form(z_scores):
    mean, covariance = product_scores(2, z_scores)
    assert mean.max() < 4
    assert covariance.max() < 4


def test_the_prior_divided_only_once_is_found_out(z_scores):
    """Eq. F.3 as printed: with three experts the test above must fail, and does."""
    mean, covariance = product_scores(1, z_scores)
    assert mean.max() > 4
    assert covariance.max() > 4


@pytest.mark.parametrize("latent", [1, 3])
def test_the_ball_is_never_left_and_its_moments_are_right(latent, z_scores, normal_target):
    """E[|z|^2; |z| < R] of N(0, I_d) is d F_{d+2}(R^2) / F_d(R^2), F of chi-square."""
    radius = 1.2

    def target(z):
        value, grad = normal_target()(z)
        return inside_ball(value, z, radius), grad

    contacts = []
    chains = run(
        HMC(),
        np.zeros((400, 1, latent)),
        target,
        random(),
        warmup=100,
        draws=100,
        on_step=lambda info: contacts.append(np.linalg.norm(info.proposal, axis=-1) > radius),
    )
    squares = (chains.positions**2).sum(-1)
    assert np.sqrt(squares.max()) <= radius
    assert np.mean(contacts) > 0.01
    np.testing.assert_array_equal(chains.divergences, 0)
    chi2 = stats.chi2
    expected = latent * chi2.cdf(radius**2, latent + 2) / chi2.cdf(radius**2, latent)
    assert z_scores(squares, expected).max() < 4
    assert z_scores(chains.positions, 0).max() < 4


# Adaptation.


def test_step_sizes_follow_the_scale_of_each_row(normal_target):
    scale = np.array([0.01, 1.0])[:, None]
    start = scale * np.random.default_rng(0).normal(size=(64, 2, 5))
    target = normal_target(0, scale)
    algorithm = HMC(longest=np.inf)
    chains = run(algorithm, start, target, random(), warmup=400, draws=200)
    ratio = chains.step_size[1] / chains.step_size[0]
    # both rows see the same target up to scale; their noise differs, and so do the last steps
    assert ratio == pytest.approx(100, rel=0.15)
    # jitter of the step size costs a little acceptance
    np.testing.assert_allclose(chains.acceptance, 0.8, atol=0.08)


@pytest.mark.parametrize("num_steps", [3, 10])
def test_trajectories_do_not_come_back(num_steps, normal_target):
    """No longer than a quarter orbit, so that squares decorrelate too: half a step is a draw.

    Without the cap, ten steps of the size that 0.8 of acceptance allows go round and back.
    """
    start = np.random.default_rng(0).normal(size=(4, 3, 2))
    found = []
    for longest in (np.pi / 2, np.inf):
        algorithm = HMC(num_steps=num_steps, longest=longest)
        chains = run(algorithm, start, normal_target(), random(), warmup=100, draws=500)
        squares = chains.positions**2
        found.append(array_stats.ess(squares, chain_axis=1, draw_axis=0).min())
        assert (chains.state.adaptation.log_step_avg <= np.log(longest / num_steps) + 1e-9).all()
    assert found[0] > 0.5 * 2000
    assert found[0] > 2 * found[1]


def test_the_inverse_mass_makes_directions_alike(normal_target):
    """With the true variances as inverse mass, all scales look like one."""
    scale = np.array([[2.0**-7, 1.0, 2.0**7]])  # powers of two: rounding is the same too
    start = np.random.default_rng(0).normal(size=(64, 1, 3))
    plain = run(HMC(), start, normal_target(), random(), warmup=50, draws=20)
    scaled = run(
        HMC(),
        scale * start,
        normal_target(0, scale),
        random(),
        warmup=50,
        draws=20,
        inverse_mass=scale**2,
    )
    np.testing.assert_array_equal(scaled.positions / scale, plain.positions)
    np.testing.assert_array_equal(scaled.step_size, plain.step_size)


def test_after_warm_up_nothing_adapts_and_jitter_stays_in_its_range(normal_target):
    sizes = []
    start = np.random.default_rng(0).normal(size=(8, 200, 2))
    algorithm = HMC(jitter=0.3)
    chains = run(
        algorithm,
        start,
        normal_target(),
        random(),
        warmup=30,
        draws=20,
        on_step=lambda info: sizes.append(info.step_size),
    )
    factor = np.stack(sizes) / np.exp(chains.state.adaptation.log_step_avg)
    assert factor.min() > 0.7
    assert factor.max() < 1.3
    # uniform: standard deviation 0.3 / sqrt(3), each row its own
    np.testing.assert_allclose(factor.std(axis=1), 0.3 / np.sqrt(3), rtol=0.2)
    assert chains.state.adaptation.num_updates == 30


def test_paper_mode_has_one_step_size_for_ever(normal_target):
    start = np.zeros((4, 3, 2))
    chains = run(HMC.paper(0.05), start, normal_target(), random(), warmup=20, draws=10)
    np.testing.assert_allclose(chains.step_size, 0.05, rtol=1e-12)
    assert chains.state.adaptation.num_updates == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("step_size", 0.0),
        ("step_size", float("nan")),
        ("num_steps", 0),
        ("target_acceptance", 1.0),
        ("jitter", 1.0),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(UsageError, match=f"{setting} is {value}, expected"):
        HMC(**{setting: value})
