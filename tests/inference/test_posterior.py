"""Which distribution belongs to which subset of modalities."""

import numpy as np
import pytest
import torch
from zuko.distributions import DiagNormal, NormalizingFlow

from mvflow.config import SamplerConfig
from mvflow.core import UsageError
from mvflow.inference import ProductOfExperts, build_sampler, draw, subset_posterior


def tensors(x):
    return {name: torch.from_numpy(v) for name, v in x.items()}


@pytest.fixture(scope="module")
def known(linear_gaussian):
    return linear_gaussian(3, 2)


@pytest.fixture(scope="module")
def model(known):
    return known.model()


def test_no_modality_gives_the_prior(model):
    q = subset_posterior(model, {})
    assert isinstance(q, DiagNormal)
    z = torch.randn(5, 1, 2)
    expected = -0.5 * (z**2).sum(-1) - np.log(2 * np.pi)
    torch.testing.assert_close(q.log_prob(z), expected)


@pytest.mark.parametrize("name", ["m0", "m1", "m2"])
def test_one_modality_gives_its_flow(model, known, name):
    x = tensors(known.sample(4))
    q = subset_posterior(model, {name: x[name]})
    assert isinstance(q, NormalizingFlow)
    z = torch.randn(4, 2).double()
    assert torch.equal(q.log_prob(z), model.unimodal(name, x[name]).log_prob(z))


def test_all_modalities_give_the_joint_posterior_or_the_product_on_request(model, known):
    x = tensors(known.sample(4))
    q = subset_posterior(model, x)
    loc, scale = known.posterior(known.sample(4))
    np.testing.assert_allclose(q.base_dist.loc, loc, rtol=1e-10)
    np.testing.assert_allclose(q.base_dist.scale, np.broadcast_to(scale, loc.shape), rtol=1e-10)
    product = subset_posterior(model, x, product=True)
    assert isinstance(product, ProductOfExperts)
    assert len(product.experts) == 3


@pytest.mark.parametrize("given", [("m0", "m1"), ("m0", "m2"), ("m2", "m1"), ("m0", "m1", "m2")])
def test_the_product_of_exact_experts_is_the_exact_posterior(model, known, given):
    """Eq. 12 with the exponent |S| - 1, for two and for three modalities."""
    x = known.sample(4)
    product = subset_posterior(
        model,
        {n: v for n, v in tensors(x).items() if n in given},
        product=True,
        divide_by="prior",
    )
    loc, scale = known.posterior({n: x[n] for n in given})
    exact = DiagNormal(
        torch.from_numpy(loc), torch.from_numpy(np.broadcast_to(scale, loc.shape).copy())
    )
    z = torch.randn(30, 4, 2).double()
    difference = product.log_prob(z) - exact.log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-9)


def test_the_aggregated_posterior_is_divided_out_by_default(known):
    """Latents with other moments than the prior's: the experts share these, not the prior."""
    model, x = known.model(), tensors(known.sample(4))
    model.joint.latent_mean.copy_(torch.tensor([0.5, -1.0]))
    model.joint.latent_std.copy_(torch.tensor([2.0, 3.0]))
    given = {n: x[n] for n in ("m0", "m1", "m2")}
    by_default, by_prior = (
        subset_posterior(model, given, product=True, divide_by=by) for by in ("aggregate", "prior")
    )
    z = torch.tensor([[0.5, -1.0], [2.5, 2.0], [-1.5, -4.0]], dtype=torch.float64)[:, None]
    difference = (by_default.log_prob(z) - by_prior.log_prob(z))[:, 0]
    # 2 (log p - log s): the points are 0, sqrt 2 and sqrt 2 standard deviations from the mean
    expected = -(z[:, 0] ** 2).sum(-1) + torch.tensor([0.0, 2.0, 2.0])
    torch.testing.assert_close(
        difference - difference[0], expected - expected[0], rtol=0, atol=1e-9
    )


def test_amortised_stands_for_every_proper_subset(model, known):
    x = tensors(known.sample(4))
    asked = []
    model.amortised_posterior = lambda given: asked.append(sorted(given)) or "amortised"
    try:
        assert isinstance(subset_posterior(model, {}, subset="amortised"), DiagNormal)
        for names in (["m0"], ["m0", "m2"]):
            given = {n: x[n] for n in names}
            assert subset_posterior(model, given, subset="amortised") == "amortised"
        assert subset_posterior(model, x, subset="amortised").base_dist is not None
        assert subset_posterior(model, x, subset="amortised", product=True) == "amortised"
    finally:
        del model.amortised_posterior
    assert asked == [["m0"], ["m0", "m2"], ["m0", "m1", "m2"]]


def test_the_product_knows_the_ball_of_the_joint_posterior(known):
    model, x = known.model(), tensors(known.sample(2))
    model.joint.radius.fill_(1.5)
    product = subset_posterior(model, {n: x[n] for n in ("m0", "m1")})
    assert product.radius == 1.5
    assert torch.isneginf(product.log_prob(torch.full((2, 2), 1.2).double())).all()


def test_one_modality_alone_in_the_world_keeps_its_flow(linear_gaussian):
    known = linear_gaussian(1, 2)
    model, x = known.model(), tensors(known.sample(2))
    assert isinstance(subset_posterior(model, x), NormalizingFlow)


@pytest.mark.bad_input
@pytest.mark.parametrize("n", [0, -3])
def test_no_draws_are_refused(model, n):
    with pytest.raises(UsageError, match=f"n={n}: expected at least one draw"):
        draw(subset_posterior(model, {}), n, SamplerConfig())


@pytest.mark.bad_input
def test_an_unknown_sampler_lists_those_there_are():
    with pytest.raises(UsageError, match="unknown sampler 'hcm': did you mean 'hmc'.*Known:.*hmc"):
        build_sampler(SamplerConfig(name="hcm"))
