"""Laws of every sampler: a new one adds a line to ALGORITHMS."""

import numpy as np
import pytest

from mvflow.samplers import HMC, Info, NumpyRandom, Random, SamplingAlgorithm, State, run

ALGORITHMS = {
    "hmc": HMC(step_size=0.3),
    "hmc, short and without jitter": HMC(step_size=0.5, num_steps=2, jitter=0.0),
    "hmc, paper": HMC.paper(0.3),
}


@pytest.fixture(params=ALGORITHMS.values(), ids=ALGORITHMS.keys())
def algorithm(request):
    return request.param


def random(seed=0, dtype=np.float64):
    return NumpyRandom(np.random.default_rng(seed), dtype)


def start(shape=(6, 3, 2), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def advance(algorithm, position, target, *, adapt, steps=5, seed=0):
    state, source = algorithm.init(position, target), random(seed)
    infos = []
    for _ in range(steps):
        state, info = algorithm.step(state, source, target, adapt=adapt)
        infos.append(info)
    return state, infos


def test_protocols(algorithm, normal_target):
    assert isinstance(algorithm, SamplingAlgorithm)
    assert isinstance(random(), Random)
    state, (info,) = advance(algorithm, start(), normal_target(), adapt=True, steps=1)
    assert isinstance(state, State)
    assert isinstance(info, Info)
    assert state.position.shape == info.proposal.shape == (6, 3, 2)
    for name in ("acceptance_rate", "is_accepted", "is_divergent"):
        assert getattr(info, name).shape == state.log_density.shape == (6, 3)
    assert info.step_size.shape == (3,)
    assert info.is_accepted.dtype == info.is_divergent.dtype == bool
    assert ((info.acceptance_rate >= 0) & (info.acceptance_rate <= 1)).all()


@pytest.mark.parametrize("adapt", [True, False])
def test_the_same_randomness_makes_the_same_chain(algorithm, adapt, normal_target):
    first, second, other = (
        advance(algorithm, start(), normal_target(), adapt=adapt, seed=s)[0].position
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_step_changes_no_argument(algorithm, normal_target):
    position = start()
    state = algorithm.init(position, normal_target())
    before = state.position.copy(), state.log_density.copy()
    for adapt in (True, False):
        algorithm.step(state, random(), normal_target(), adapt=adapt)
    np.testing.assert_array_equal(state.position, before[0])
    np.testing.assert_array_equal(state.log_density, before[1])
    np.testing.assert_array_equal(position, start())


def test_the_state_is_where_it_says(algorithm, banana):
    position = start()
    state, source = algorithm.init(position, banana), random()
    for _ in range(20):
        before = state.position
        state, info = algorithm.step(state, source, banana, adapt=False)
        accepted = info.is_accepted[..., None]
        np.testing.assert_array_equal(state.position, np.where(accepted, info.proposal, before))
        np.testing.assert_array_equal(state.log_density, banana(state.position)[0])


def test_the_target_is_invariant(algorithm, normal_target, z_scores):
    loc, scale = np.array([1.0, -2.0]), np.array([0.7, 1.5])
    draws = run(
        algorithm,
        loc + scale * start((2000, 1, 2)),
        normal_target(loc, scale),
        random(1),
        warmup=0,
        draws=20,
    ).positions
    assert z_scores(draws[-1:], loc).max() < 4
    assert z_scores((draws[-1:] - loc) ** 2, scale**2).max() < 4
    assert (np.abs(draws[-1] - draws[0]) > 0.1).any(axis=-1).mean() > 0.9  # and it moves


def test_rows_do_not_see_each_other(algorithm, normal_target):
    """The other rows' data may change: a row's chain, with the same noise, does not."""
    scale = np.array([[1.0], [1.0], [1.0]])
    other = np.array([[1.0], [3.0], [0.2]])
    for adapt in (True, False):
        first, second = (
            advance(algorithm, start(), normal_target(0, s), adapt=adapt)[0].position
            for s in (scale, other)
        )
        np.testing.assert_array_equal(first[:, 0], second[:, 0])
        assert (first[:, 1] != second[:, 1]).any()


@pytest.mark.parametrize("adapt", [True, False])
def test_broken_numbers_are_rejected_and_counted(algorithm, adapt):
    def target(z):
        bad = z[..., 0] > 0.5
        value = np.where(bad, np.nan, -0.5 * (z * z).sum(-1))
        return value, np.where(bad[..., None], np.nan, -z)

    position = -np.abs(start((50, 3, 2)))
    state, infos = advance(algorithm, position, target, adapt=adapt, steps=20)
    assert np.isfinite(state.position).all()
    assert np.isfinite(state.log_density).all()
    assert np.sum([i.is_divergent for i in infos]) > 50
    assert not np.any([i.is_divergent & i.is_accepted for i in infos])


def test_outside_the_support_is_rejected_and_no_divergence(algorithm):
    def target(z):
        constant = 1e4  # of the unknown normalisation: no energy error
        return np.where(z[..., 0] > 0.5, -np.inf, constant - 0.5 * (z * z).sum(-1)), -z

    position = -np.abs(start((50, 3, 2)))
    state, infos = advance(algorithm, position, target, adapt=False, steps=20)
    outside = np.stack([i.proposal[..., 0] > 0.5 for i in infos])
    assert outside.sum() > 50
    assert not np.stack([i.is_accepted for i in infos])[outside].any()
    assert not np.any([i.is_divergent for i in infos])
    assert state.position[..., 0].max() <= 0.5


def test_float32_stays_float32(algorithm, normal_target):
    source, target = random(dtype=np.float32), normal_target()
    state = algorithm.init(start().astype(np.float32), target)
    for adapt in (True, False):
        state, info = algorithm.step(state, source, target, adapt=adapt)
        for array in (state.position, state.log_density, info.acceptance_rate, info.step_size):
            assert array.dtype == np.float32


def test_inverse_mass_is_one_by_default(algorithm, normal_target):
    target = normal_target()
    default, explicit = (
        run(algorithm, start(), target, random(), warmup=3, draws=3, inverse_mass=m).positions
        for m in (None, np.ones((3, 2)))
    )
    np.testing.assert_array_equal(default, explicit)
