"""The plug-in for hamiltorch: another's HMC finds the same products."""

import random
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from zuko.distributions import DiagNormal

from mvflow.core import UsageError
from mvflow.core.parts import create
from mvflow.functional import normal_poe
from mvflow.inference import ProductOfExperts
from mvflow.inference.hamiltorch import Hamiltorch, _import, _Row
from mvflow.nn import seeded

installed = pytest.mark.skipif(
    find_spec("hamiltorch") is None,
    reason="hamiltorch is not installed (pip install git+https://github.com/AdamCobb/hamiltorch)",
)

LOCS = np.array([[[0.3, -0.2], [0.0, 0.5]], [[-0.1, 0.4], [0.3, 0.1]]])
SCALES = np.array([[[0.5, 0.8], [0.3, 0.6]], [[0.7, 0.6], [0.9, 0.4]]])


def product(radius=np.inf):
    experts = [DiagNormal(*map(torch.from_numpy, pair)) for pair in zip(LOCS, SCALES, strict=True)]
    return ProductOfExperts(experts, radius)


@installed
@pytest.mark.parametrize("adaptive", [True, False])
def test_draws_have_the_moments_of_the_gaussian_product(adaptive, capsys):
    loc, scale = normal_poe(LOCS, SCALES)
    # about a quarter of an orbit either way: at a half or a whole one, z^2 stands still
    tuned, fixed = {"warmup": 50, "num_steps": 2}, {"warmup": 0, "num_steps": 8, "step_size": 0.2}
    sampler = Hamiltorch(chains=2, draws=100, adaptive=adaptive, **(tuned if adaptive else fixed))
    with seeded(0, "hamiltorch"):
        found = sampler.sample(product(), 200)
    u = ((found.z.numpy() - loc) / scale).reshape(100, 2, 2, 2)  # n is all that was kept
    for values, expected in ((u, 0), (u**2, 1)):
        error = values.std((0, 1)) / np.sqrt(array_stats.ess(values, chain_axis=1, draw_axis=0))
        assert (np.abs(values.mean((0, 1)) - expected) < 4 * error).all()
    assert (found.diagnostics.rhat < 1.1).all()
    assert (found.diagnostics.acceptance > 0.4).all()
    assert not found.z.requires_grad
    assert capsys.readouterr().out == ""


@installed
def test_draws_stay_in_the_ball_and_the_seed_decides():
    found = []
    for _ in range(2):
        with seeded(0, "hamiltorch"):
            found.append(
                Hamiltorch(chains=1, warmup=5, draws=20, candidates=32, num_steps=3).sample(
                    product(0.5), 7
                )
            )
    assert torch.equal(found[0].z, found[1].z)
    assert (found[0].z.norm(dim=-1) <= 0.5).all()
    assert found[0].diagnostics.contacts.max() > 0


class Faulty:
    """Stands for hamiltorch: falls back to the start after the burn-in, then counts steps."""

    class Sampler:
        HMC, HMC_NUTS = "hmc", "nuts"

    def __init__(self, rejected):
        self.rejected, self.calls = rejected, []

    def sample(self, target, z, *, num_samples, burn, step_size, sampler, **options):
        self.calls.append((sampler, num_samples, burn, step_size))
        if sampler == "nuts":
            return [z, z if self.rejected else z + 100], 0.25
        return [z + i for i in range(num_samples + 1)], 0.9


@pytest.mark.parametrize(("rejected", "first"), [(True, 6.0), (False, 100.0)])
def test_a_chain_that_was_set_back_to_its_start_is_warmed_up_again(rejected, first):
    package = Faulty(rejected)
    sampler = Hamiltorch(warmup=6, draws=5)
    states = sampler._chain(package, None, torch.zeros(1), torch.ones(1), 5)
    assert package.calls[0] == ("nuts", 8, 6, 0.1)
    assert package.calls[1] == ("hmc", 11 if rejected else 5, -1, 0.25)
    assert states.flatten().tolist() == [first + i for i in range(6)]


@pytest.mark.parametrize("settings", [{"adaptive": False, "warmup": 6}, {"warmup": 0}])
def test_without_adaptation_or_warm_up_the_step_size_is_the_given_one(settings):
    package = Faulty(False)
    sampler = Hamiltorch(draws=5, step_size=0.3, **settings)
    states = sampler._chain(package, None, torch.zeros(1), torch.ones(1), 5)
    warmup = settings["warmup"]
    assert package.calls == [("hmc", warmup + 5, -1, 0.3)]
    assert states.flatten().tolist() == [warmup + i for i in range(6)]


def test_a_row_counts_what_lies_outside_and_has_the_gradient_of_the_inside():
    """Two of four values of z are outside of the ball, and so is what is no number."""
    target = product(0.5)
    row = _Row(target, 1, 2)
    for counts, x in enumerate((0.1, 0.4, 0.6, 2.0), start=1):
        z = torch.tensor([x, 0.0], dtype=torch.float64, requires_grad=True)
        value = row(z)
        value.backward()
        expected, grad = target.value_and_grad(z.detach().expand(2, -1))
        assert value == expected[1]
        assert torch.equal(z.grad, grad[1])
        assert (row.calls, row.outside) == (counts, max(counts - 2, 0))
    row(torch.full((2,), torch.nan, dtype=torch.float64))
    assert (row.calls, row.outside) == (5, 3)


@installed
def test_the_import_leaves_all_generators_alone():
    code = """if True:
        import random, numpy as np, torch
        random.seed(0); np.random.seed(0); torch.manual_seed(0)
        from mvflow.inference.hamiltorch import _import
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert _import().__name__ == "hamiltorch"
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named_with_its_repository(monkeypatch):
    monkeypatch.delitem(sys.modules, "hamiltorch", raising=False)
    monkeypatch.setattr("mvflow.inference.hamiltorch.find_spec", lambda name: None)
    before = random.getstate()
    with pytest.raises(UsageError, match="git\\+https://github.com/AdamCobb/hamiltorch"):
        _import()
    assert random.getstate() == before


@pytest.mark.bad_input
def test_it_makes_no_independent_chains():
    with pytest.raises(UsageError, match="no setting 'independent': that is a setting of 'hmc'"):
        create("samplers", {"kind": "hamiltorch", "independent": True})
