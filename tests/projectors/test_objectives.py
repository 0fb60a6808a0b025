"""Objectives of projectors: what precision they are computed in."""

import pytest
import torch

from mvflow.config import Projectors
from mvflow.projectors import OBJECTIVES


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_autocast_reaches_no_objective(kind, narrow):
    """Projections may come in 16 bits; products and logarithms are in 32 or 64 all the same."""
    torch.manual_seed(0)
    objective = OBJECTIVES[kind](Projectors(kind=kind, dim=4, batch_size=100))
    projections = {name: torch.randn(100, 4).to(narrow) for name in "abc"}
    expected = objective({name: g.float() for name, g in projections.items()})
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(projections)
    assert found.itemsize >= 4
    assert torch.equal(found, expected)
