import numpy as np
import pytest

from mvflow.core import UsageError
from mvflow.samplers import HMC, NumpyRandom, run


def chains(target, **options):
    random = NumpyRandom(np.random.default_rng(0))
    start = np.random.default_rng(1).normal(size=(3, 2, 4))
    return run(HMC(num_steps=3), start, target, random, **options)


def test_shapes_and_the_count_of_gradients(normal_target):
    got = chains(normal_target(), warmup=5, draws=7, thin=2)
    assert got.positions.shape == (7, 3, 2, 4)
    assert got.acceptance.shape == got.divergences.shape == got.step_size.shape == (2,)
    assert got.num_gradients == 1 + 3 * (5 + 7 * 2)


def test_thinning_keeps_every_nth_of_the_same_chain(normal_target):
    every = chains(normal_target(), warmup=5, draws=12)
    third = chains(normal_target(), warmup=5, draws=4, thin=3)
    np.testing.assert_array_equal(third.positions, every.positions[2::3])
    np.testing.assert_array_equal(third.acceptance, every.acceptance)
    np.testing.assert_array_equal(third.state.position, every.positions[-1])


def test_on_step_sees_each_step_after_the_warm_up(normal_target):
    infos = []
    got = chains(normal_target(), warmup=5, draws=4, thin=3, on_step=infos.append)
    assert len(infos) == 12
    acceptance = np.mean([i.acceptance_rate for i in infos], axis=(0, 1))
    np.testing.assert_allclose(got.acceptance, acceptance, rtol=1e-12)


def test_runs_on_every_library(xp):
    class Random:
        rng = NumpyRandom(np.random.default_rng(0))

        def normal(self, shape):
            return xp.asarray(self.rng.normal(shape))

        def uniform(self, shape):
            return xp.asarray(self.rng.uniform(shape))

    def target(z):
        return -0.5 * xp.sum(z * z, axis=-1), -z

    start = np.random.default_rng(1).normal(size=(3, 2, 4))
    got = run(HMC(), xp.asarray(start), target, Random(), warmup=4, draws=5)
    random = NumpyRandom(np.random.default_rng(0))

    def in_numpy(z):
        return -0.5 * (z * z).sum(-1), -z

    expected = run(HMC(), start, in_numpy, random, warmup=4, draws=5)
    for name in ("positions", "acceptance", "divergences", "step_size"):
        np.testing.assert_allclose(
            np.asarray(getattr(got, name)), getattr(expected, name), rtol=1e-10, atol=1e-10
        )


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"draws": 0}, {"thin": 0}])
def test_counts_out_of_range_are_named(wrong, normal_target):
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} is {value}, expected at least"):
        chains(normal_target(), **({"warmup": 1, "draws": 1} | wrong))
