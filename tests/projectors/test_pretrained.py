"""Projectors that were trained elsewhere: as they are, and never changed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.core import ConfigError, Modality
from mvflow.core.parts import create, dump
from mvflow.projectors import Pretrained

RNA, IMAGE, WORD = (
    Modality("rna", (5,)),
    Modality("image", (1, 4, 4)),
    Modality("word", (6,), "categorical"),
)
WEIGHT = np.arange(10.0).reshape(5, 2)


def build(*_):
    raise AssertionError("a pretrained projector has networks of its own")


def network(function, modality=RNA):
    (found,) = Pretrained(maps={modality.name: function}).networks([modality], build).values()
    return found


FUNCTIONS = {
    "module": nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.9), nn.Linear(3, 2)),
    "function of tensors": lambda x: x @ torch.from_numpy(WEIGHT).to(x.dtype),
    "function of arrays": lambda x: np.matmul(x, WEIGHT),
    "arrays alone": lambda x: x.astype(np.float64) @ WEIGHT,  # tensors have no astype
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_projections_are_what_the_map_gives(function):
    x = torch.randn(7, 5)
    found = network(function)(x)
    if isinstance(function, nn.Module):
        expected = function[2](function[0](x)).detach()
    else:
        expected = x @ torch.from_numpy(WEIGHT).float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert Pretrained(maps={"rna": function}).width(RNA) == 2


def test_a_map_is_frozen_and_stays_in_evaluation_mode():
    mine = FUNCTIONS["module"].train()
    g = network(mine).train().requires_grad_(True)
    x = torch.randn(7, 5, requires_grad=True)
    assert not any(each.training for each in g.modules())
    assert torch.equal(g(x), g(x))  # no dropout
    assert not g(x).requires_grad
    assert mine.training
    assert all(p.requires_grad for p in mine.parameters())
    mine[0].weight.data.add_(1)
    assert not torch.equal(g(x), network(mine)(x))  # g holds a copy


def test_rows_come_as_the_likelihood_stores_them():
    assert network(nn.Embedding(6, 3), WORD)(torch.tensor([5, 0])).shape == (2, 3)
    assert Pretrained(maps={"image": nn.Flatten()}).width(IMAGE) == 16


def test_a_mapping_of_callables_is_a_projector():
    part = create("projectors", {"rna": nn.Linear(5, 2), "kind": nn.Linear(5, 3)})
    assert isinstance(part, Pretrained)
    assert part.width(Modality("kind", (5,))) == 3  # any name may be a modality's
    assert create("projectors", {"kind": "contrastive", "dim": 3}).dim == 3
    with pytest.raises(ConfigError, match="a projector needs a kind"):
        create("projectors", {"dim": 3})


def test_it_cannot_be_written():
    mine, other = nn.Linear(5, 2), nn.Linear(5, 2)
    raw = dump(Pretrained(maps={"rna": mine}), "projectors")
    assert raw["kind"] == "given"
    assert raw["path"] == {"rna": "torch.nn.modules.linear:Linear"}
    assert raw == dump(Pretrained(maps={"rna": copy.deepcopy(mine)}), "projectors")
    assert raw != dump(Pretrained(maps={"rna": other}), "projectors")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            nn.Linear(4, 2),
            r"map of 'rna' cannot be used: for rows of shape \(1, 5\) .*RuntimeError",
        ),
        (lambda x: x.sum(), r"expected an array of shape \(1, width\), got"),
        (lambda x: [1.0], "got list"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_maps_that_give_no_projections_are_named(function, message):
    with pytest.raises(ConfigError, match=message):
        network(function)


@pytest.mark.bad_input
def test_every_modality_needs_a_map():
    with pytest.raises(ConfigError, match="no map for 'image': .*got rna"):
        Pretrained(maps={"rna": nn.Linear(5, 2)}).networks([RNA, IMAGE], build)
