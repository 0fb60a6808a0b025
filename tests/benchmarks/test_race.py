"""MultiVae trains the networks that are evaluated, for the bound that is evaluated."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks import race
from benchmarks.noise import noise, stage_on
from benchmarks.systems import SYSTEMS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("multivae") is None, reason="the race is against MultiVae"),
]


@pytest.fixture(scope="module")
def rows():
    return noise(race._config("jnf", 0, 1).specifications(), 128)


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_weights_are_trained_and_raise_the_bound(system, rows):
    start = stage_on(rows, "joint", race._config(system, 0, 1), "cpu")
    trained, _ = race._train_theirs(system, 0, rows, 2, "cpu")
    after = dict(trained.trainable.named_parameters())
    for name, before in start.trainable.named_parameters():
        assert not torch.equal(before, after[name]), name
    assert race.held_out_elbo(trained, rows) > race.held_out_elbo(start, rows)


def test_the_evaluation_changes_nothing_and_has_one_noise(rows):
    stage = stage_on(rows, "joint", race._config("jnf", 0, 1), "cpu")
    torch.manual_seed(0)
    first = race.held_out_elbo(stage, rows)
    torch.manual_seed(1)
    assert race.held_out_elbo(stage, rows) == first
    assert np.isfinite(first)
