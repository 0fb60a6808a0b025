"""Frozen flows: masked once, with zuko's numbers."""

import pytest
import torch
from torch import nn

from mvflow.config import Flows
from mvflow.nn import seeded
from mvflow.posteriors import build_posterior
from mvflow.posteriors.inverse import OrderedInverse


@pytest.mark.parametrize(
    ("family", "shape"),
    [("conditional-maf", (7, 4, 5)), ("nsf", (4, 5)), ("maf", (7, 1, 5)), ("maf", (5,))],
)
def test_frozen_weights_change_no_density_and_no_gradient(family, shape):
    """Values and gradients of a flow that is frozen equal those while it is trained, exactly."""
    with seeded(0, "flow"):
        flow = build_posterior(
            Flows(posterior=family, hidden=(16, 16), context=3), 5, lambda n: nn.Linear(2, n)
        )
        x, z = torch.randn(4, 2), torch.randn(shape)
    found = []
    for frozen in (False, True):
        flow.requires_grad_(not frozen)
        at = z.clone().requires_grad_()
        value = flow(x).log_prob(at)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), at)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_frozen_transform_does_not_mask_again():
    flow = build_posterior(Flows(hidden=(8,)), 3, lambda n: nn.Linear(2, n)).requires_grad_(False)
    q = flow(torch.zeros(1, 2))
    for part in flow.modules():
        if isinstance(part, OrderedInverse):
            part.transform.hyper[0].mask.zero_()
    again = flow(torch.zeros(1, 2))
    z = torch.randn(5, 1, 3)
    assert not torch.equal(q.log_prob(z), again.log_prob(z))
