"""Random numbers of a thread depend on their seed alone."""

import threading

import pytest
import torch
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Laplace,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

from mvflow.nn import own_generator

ONE = torch.tensor(1.0)
DRAWS = {
    "rand": lambda: torch.rand(5),
    "rand_like": lambda: torch.rand_like(torch.zeros(5, dtype=torch.float64)),
    "randn_like": lambda: torch.randn_like(torch.zeros(2, 3)),
    "randint_like": lambda: torch.randint_like(torch.zeros(50), 1000),
    "randint": lambda: torch.randint(1000, (50,)),
    "randperm": lambda: torch.randperm(50),
    "bernoulli": lambda: torch.bernoulli(torch.full((99,), 0.5)),
    "multinomial": lambda: torch.ones(50).multinomial(20),
    "uniform_": lambda: torch.empty(5).uniform_(),
    "normal_": lambda: torch.empty(5).normal_(),
    "Normal": lambda: Normal(ONE, ONE).sample((5,)),
    "rsample": lambda: Normal(ONE, ONE).rsample((5,)),
    "Laplace": lambda: Laplace(ONE, ONE).sample((5,)),
    "Gamma": lambda: Gamma(ONE, ONE).sample((5,)),
    "Beta": lambda: Beta(ONE, ONE).sample((5,)),
    "Dirichlet": lambda: Dirichlet(torch.ones(3)).sample((5,)),
    "StudentT": lambda: StudentT(ONE).sample((5,)),
    "Poisson": lambda: Poisson(99 * ONE).sample((50,)),
    "Categorical": lambda: Categorical(logits=torch.zeros(1000)).sample((5,)),
    "MultivariateNormal": lambda: MultivariateNormal(torch.zeros(2), torch.eye(2)).sample((5,)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_every_draw_follows_from_the_seed_and_leaves_the_global_generator_alone(draw):
    before = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with own_generator(seed, "draw"):
            found.append(draw())
        torch.rand(3)  # what is drawn elsewhere does not matter
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    torch.set_rng_state(before)
    with own_generator(0, "draw"):
        draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_another_thread_that_draws_meanwhile_changes_nothing():
    with own_generator(0, "draw"):
        alone = [torch.randn(3) for _ in range(4)]
    go, found = threading.Barrier(2), {}

    def work(seed):
        with own_generator(seed, "draw"):
            drawn = []
            for _ in range(4):  # in turns
                go.wait()
                drawn.append(torch.randn(3))
            found[seed] = drawn

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.stack(found[0]), torch.stack(alone))
    assert not torch.equal(torch.stack(found[1]), torch.stack(alone))


def test_a_generator_that_is_passed_is_used():
    with own_generator(0, "draw"):
        found = torch.randn(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(found, torch.randn(3, generator=torch.Generator().manual_seed(5)))
