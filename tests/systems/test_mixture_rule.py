"""The subset rule "mixture": normalised, sampled exactly, and each expert has an equal share."""

import numpy as np
import pytest
import torch
from scipy import stats
from zuko.distributions import DiagNormal

from mvflow import JNF
from mvflow.core import Modality
from mvflow.systems.subsets.mixture import EqualMixture


def experts(dtype=torch.float64):
    """Two Gaussians and a heavier tail, in one dimension, for one row."""
    normals = [(-2.0, 0.5), (1.0, 1.5)]
    made = [torch.tensor([[v]], dtype=dtype) for at in normals for v in at]
    laplace = torch.distributions.Laplace(made[0] + 5, made[1])
    return [
        DiagNormal(*made[:2]),
        DiagNormal(*made[2:]),
        torch.distributions.Independent(laplace, 1),
    ]


def cdf(z):
    parts = [stats.norm(-2, 0.5), stats.norm(1, 1.5), stats.laplace(3, 0.5)]
    return sum(p.cdf(z) for p in parts) / 3


def test_the_density_is_the_mean_of_the_experts_and_integrates_to_one():
    z = torch.linspace(-25, 25, 50_001, dtype=torch.float64)[:, None, None]
    density = EqualMixture(experts()).log_prob(z)[:, 0].exp().numpy()
    # the sum of a density with kinks of slope one is exact to the square of the step
    np.testing.assert_allclose(density.sum() * 1e-3, 1, atol=1e-6)
    parts = [stats.norm(-2, 0.5), stats.norm(1, 1.5), stats.laplace(3, 0.5)]
    expected = sum(p.pdf(z[:, 0, 0].numpy()) for p in parts) / 3
    np.testing.assert_allclose(density, expected, rtol=1e-10)


def test_draws_follow_that_density():
    torch.manual_seed(0)
    z = EqualMixture(experts()).sample((4000,))[:, 0, 0].numpy()
    assert stats.kstest(z, cdf).pvalue > 1e-3


def test_rows_choose_their_component_on_their_own():
    torch.manual_seed(0)
    at = [DiagNormal(torch.full((3, 2), v), torch.full((3, 2), 1e-3)) for v in (-1.0, 1.0)]
    z = EqualMixture(at).sample((2000,))
    side = (z > 0).double()
    assert torch.equal(side[..., 0], side[..., 1])  # a draw is of one component
    between = np.corrcoef(side[..., 0].T.numpy())[np.triu_indices(3, 1)]
    assert (abs(between) < 4 / np.sqrt(2000)).all()


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1))
    x = {f"m{j}": shared + 0.3 * rng.normal(size=(300, 2)) for j in range(3)}
    x = {n: v.astype(np.float32) for n, v in x.items()}
    train = {"epochs": 2, "batch_size": 50}
    small = {"kind": "mlp", "hidden": [8]}
    model = JNF(
        [Modality(n, (2,)) for n in x],
        2,
        networks={n: {"encoder": small, "decoder": small} for n in x},
        joint={**train, "merge": [8]},
        posterior={"kind": "maf", "transforms": 1, "hidden": [8]},
        flows={**train, "summary_hidden": [8]},
        subset="mixture",
    )
    return model.fit(x), {n: v[:4] for n, v in x.items()}


@pytest.mark.parametrize("names", [("m0", "m2"), ("m0", "m1", "m2")])
def test_in_jnf_it_is_the_mean_of_the_single_posteriors(fitted, names):
    model, x = fitted
    given = {n: x[n] for n in names}
    drawn = model.draw(given, 20, combine=True)
    assert drawn.diagnostics.method == "exact"
    alone = [model.posterior_log_prob(drawn.z, {n: x[n]}) for n in names]
    both = model.posterior_log_prob(drawn.z, given, combine=True)
    # float32 densities
    np.testing.assert_allclose(both, np.logaddexp.reduce(alone) - np.log(len(names)), rtol=1e-4)
    assert np.isfinite(model.log_likelihood({"m1": x["m1"]}, given={"m0": x["m0"]}, n=20)).all()


def test_one_modality_has_its_own_expert_and_the_rule_is_kept(fitted, tmp_path):
    model, x = fitted
    given = {"m1": x["m1"]}
    product = model.with_parts(subset="product")
    assert product.trained_ == model.trained_
    z = model.sample_latent(given, 5, seed=3)
    np.testing.assert_array_equal(z, product.sample_latent(given, 5, seed=3))
    assert model.facts()["subset"] == "mixture"
