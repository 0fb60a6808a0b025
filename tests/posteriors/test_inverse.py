"""Sorted networks: zuko's inverse, density and derivatives from a part of the arithmetic."""

from functools import partial

import pytest
import torch
from torch import nn
from zuko.distributions import NormalizingFlow
from zuko.flows import NICE
from zuko.flows.autoregressive import MaskedAutoregressiveTransform

from mvflow.nn import seeded
from mvflow.posteriors import MAF, NSF, ConditionalMAF, build_posterior
from mvflow.posteriors.fast import accelerate
from mvflow.posteriors.fast.frozen import FrozenFlow
from mvflow.posteriors.fast.inverse import OrderedInverse
from mvflow.posteriors.fast.levels import levels

FAMILIES = {
    "maf": MAF,
    "conditional-maf": partial(ConditionalMAF, context=3),
    "nsf": partial(NSF, context=3, bins=4),
}
WIDTHS = {"wide": (16, 16), "narrow": (4, 3), "cut in half": (80, 70, 66), "one layer": (9,)}


def make(family="maf", *, latent=6, hidden=(16, 16), transforms=2):
    """A frozen posterior in float64 with weights away from their initial values."""
    with seeded(0, family):
        posterior = build_posterior(
            FAMILIES[family](hidden=hidden, transforms=transforms),
            latent,
            lambda n: nn.Linear(2, n),
        )
        with torch.no_grad():
            for p in posterior.parameters():
                p.add_(0.2 * torch.randn_like(p))
        posterior.standardise(torch.randn(latent), 0.5 + torch.rand(latent))
    return posterior.double().requires_grad_(False)


def points(*shape):
    with seeded(1, "points"):
        return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hidden", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("latent", [2, 29])
def test_the_inverse_is_zukos(family, hidden, latent):
    flow = make(family, latent=latent, hidden=hidden)
    c = None if family == "maf" else points(4, 3)
    y = points(7, 4, latent)
    for part in flow.transform.transforms:
        found, expected = part(c).inv(y), part.transform(c).inv(y)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (5,)])
def test_the_inverse_of_few_points(shape):
    (part, _) = make(latent=5).transform.transforms
    y = points(*shape)
    torch.testing.assert_close(part()(part().inv(y)), y, rtol=1e-10, atol=1e-10)


def test_the_inverse_by_coupling_and_of_a_given_order():
    for kind in ({"passes": 2}, {"order": torch.tensor([2, 0, 3, 1, 4])}, {"activation": nn.Tanh}):
        part = MaskedAutoregressiveTransform(5, hidden_features=(12, 7), **kind).double()
        y = points(3, 5)
        with torch.no_grad():
            found, expected = OrderedInverse(part)().inv(y), part().inv(y)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("latent", [2, 6, 29])
@pytest.mark.parametrize("hidden", WIDTHS.values(), ids=WIDTHS)
def test_a_level_needs_earlier_levels_only(latent, hidden):
    """Nothing but zeros stands in a sorted matrix where later levels would enter."""
    transform = MaskedAutoregressiveTransform(latent, 3, hidden_features=hidden)
    net = levels(transform)
    assert sorted(net.order.tolist()) == list(range(latent))
    assert net.known[-1] == latent
    assert len(net) <= min(latent, max(hidden) + 1)
    for level in range(len(net)):
        ready = net.known[level]
        for depth, layer in enumerate(net.hidden):
            weight = layer.weight[: layer.until[level + 1]]
            end = latent if depth == 0 else weight.shape[1]
            assert not weight[:, ready:end].any()
            ready = layer.until[level + 1]
        assert not net.last.weight[: 2 * net.known[level + 1], ready:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hidden", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("shape", [(7, 4, 5), (4, 5), (7, 1, 5), (5,), (2, 3, 4, 5)])
def test_freezing_changes_no_density_and_no_derivative(family, hidden, shape):
    if family != "maf" and shape[-2:] in ((1, 5), (5,)):
        pytest.skip("zuko does not repeat points for rows of context")
    flow = make(family, latent=5, hidden=hidden, transforms=3)
    x, z = points(4, 2), points(*shape)
    found = []
    for frozen in (False, True):
        flow.requires_grad_(not frozen)
        q, at = flow(x), z.clone().requires_grad_()
        assert isinstance(q, FrozenFlow) == (frozen and family != "nsf")
        value = q.log_prob(at)
        found.append((value.detach(), *torch.autograd.grad(value.square().sum(), at)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


def test_value_and_gradient_without_a_graph():
    q, z = make("conditional-maf")(points(4, 2)), points(7, 4, 6).requires_grad_()
    value, grad = q.value_and_grad(z)
    assert not value.requires_grad
    assert grad.is_contiguous()
    torch.testing.assert_close(value, q.log_prob(z).detach(), rtol=0, atol=0)
    torch.testing.assert_close(grad, torch.autograd.grad(q.log_prob(z).sum(), z)[0])


def test_second_derivatives_and_those_of_the_base_are_zukos():
    flow = make(latent=3)
    q, z = flow(points(2)), points(3)
    found = torch.autograd.functional.hessian(q.log_prob, z)
    expected = torch.autograd.functional.hessian(lambda v: NormalizingFlow.log_prob(q, v), z)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    x = points(2).requires_grad_()
    assert torch.autograd.grad(flow(x).log_prob(z), x)[0].abs().sum() > 0


def test_other_ways_to_the_same_density():
    q, z = make(latent=3)(points(4, 2)), points(7, 4, 3)
    expected, grad = q.value_and_grad(z)
    torch.testing.assert_close(q.expand((7, 4)).log_prob(z), expected)
    found = torch.func.grad(lambda v: q.log_prob(v).sum())(z)
    torch.testing.assert_close(found, grad)


def test_points_that_are_not_finite_stay_alone():
    q, z = make()(points(4, 2)), points(7, 4, 6)
    expected = q.value_and_grad(z)
    z[2, 1, 3] = torch.nan
    value, grad = q.value_and_grad(z)
    assert value[2, 1].isnan()
    keep = torch.ones(7, 4, dtype=torch.bool)
    keep[2, 1] = False
    torch.testing.assert_close(value[keep], expected[0][keep])
    torch.testing.assert_close(grad[keep], expected[1][keep])


def test_a_frozen_posterior_is_sorted_once():
    flow = make()
    q, z = flow(points(4, 2)), points(7, 4, 6)
    before = q.log_prob(z)
    for part in flow.transform.transforms:
        part.transform.hyper[0].mask.zero_()
    assert torch.equal(q.log_prob(z), before)
    assert not torch.equal(flow(points(4, 2)).log_prob(z), before)


def test_weights_that_are_not_frozen_may_change():
    part = make("nsf").transform.transforms[0].requires_grad_(True)
    t, y = part(points(4, 3)), points(7, 4, 6)
    with torch.no_grad():
        t.inv(y)
        for p in part.parameters():
            p.mul_(0.5)
        torch.testing.assert_close(t(t.inv(y)), y, rtol=1e-6, atol=1e-6)


def test_float32_draws_are_those_of_the_plain_inverse():
    flow = make(latent=29, hidden=(16, 16)).float()
    q = flow(torch.zeros(1, 2))
    u = points(200, 1, 29).float()
    found = q.transform.inv(u)
    with torch.enable_grad():  # where zuko's own inverse runs
        expected = q.transform.inv(u)
    # both solve the same equations, whose condition numbers reach some tens
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_sorted_stays_as_it_is():
    """Couplings, residual networks and networks without hidden units: zuko's transforms."""
    others = (
        NICE(4, transforms=2).transform,
        MaskedAutoregressiveTransform(4, hidden_features=(8, 8), residual=True),
        MaskedAutoregressiveTransform(4, hidden_features=()),
        MaskedAutoregressiveTransform(1, hidden_features=(8,)),
    )
    y = points(3, 4).float()
    for transform in others:
        fast = accelerate(transform)
        assert not any(isinstance(part, OrderedInverse) for part in fast.transforms)
        x = y[:, :1] if transform is others[-1] else y
        assert torch.equal(fast()(x), transform()(x))
        assert torch.equal(fast().inv(x), transform().inv(x))
