"""Random numbers of a thread depend on their seed alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

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
from torch.nn import functional

from mvflow.nn import own_generator, seeded, torch_defaults

ONE = torch.tensor(1.0)
ATTENTION = torch.nn.MultiheadAttention(4, 2, dropout=0.5)
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
    "dropout": lambda: functional.dropout(torch.ones(99)),
    "dropout2d": lambda: torch.nn.Dropout2d().train()(torch.ones(9, 9, 2, 2)),
    "alpha_dropout": lambda: functional.alpha_dropout(torch.ones(99), training=True),
    "attention": lambda: ATTENTION(*[torch.ones(9, 4)] * 3)[0],
    "gumbel_softmax": lambda: functional.gumbel_softmax(torch.zeros(9)),
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


def in_threads(*works):
    """Run functions at once, each in a thread, and raise what one of them raises."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [job.result() for job in [pool.submit(work) for work in works]]


def test_dropout_outside_training_takes_nothing_from_the_generator():
    with own_generator(0, "draw"):
        functional.dropout(torch.ones(9), training=False)
        x = torch.randn(3)
    with own_generator(0, "draw"):
        assert torch.equal(torch.randn(3), x)


def test_seeded_blocks_of_two_threads_do_not_mix():
    entered = threading.Event()

    def first():
        with seeded(0, "noise"):
            entered.set()
            time.sleep(0.05)  # the other thread would enter now
            return torch.randn(3)

    def second():
        entered.wait()
        with seeded(1, "noise"), seeded(2, "noise"):  # blocks of one thread nest
            time.sleep(0.1)
            return torch.randn(3)

    before = torch.get_rng_state()
    found = in_threads(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    for seed, x in zip((0, 2), found, strict=True):
        with seeded(seed, "noise"):
            assert torch.equal(torch.randn(3), x)


def test_the_default_dtype_is_put_back_by_the_last_thread():
    inside, left = threading.Event(), threading.Event()

    def first():
        with torch_defaults():
            inside.set()
            left.wait()
            return torch.get_default_dtype()

    def second():
        inside.wait()
        with torch_defaults():
            pass
        left.set()

    torch.set_default_dtype(torch.float64)
    try:
        assert in_threads(first, second)[0] == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
