"""Masked networks of autoregressive transforms, with their units in the order of computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.nn import MaskedLinear

__all__ = ["SortedLayer", "Levels", "levels"]


class SortedLayer(NamedTuple):
    """One masked layer with its units sorted by level."""

    weight: Tensor
    """(units, inputs), masked; inputs sorted as the previous layer's units, then the context."""
    bias: Tensor
    """(units,)."""
    until: tuple[int, ...]
    """Number of units of the levels before level 0, 1, ... (so `until[0]` is 0)."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A transform's network, sorted: all that a level needs belongs to earlier levels.

    Level l holds the hidden units that can be computed once the features of the levels before
    it are known, and the features whose parameters depend on hidden units up to l only. All of
    a level's features can be inverted together: a network with fewer hidden units than features
    has fewer levels than features.
    """

    order: Tensor
    """Features by level, (features,): row i of what is sorted is feature `order[i]`."""
    known: tuple[int, ...]
    """Number of features of the levels before level 0, 1, ... and in all."""
    hidden: tuple[SortedLayer, ...]
    last: SortedLayer
    """Parameters of the features in their order, those of one feature together."""

    @cached_property
    def back(self) -> Tensor:
        """Where each feature is found among the sorted ones, (features,)."""
        return torch.argsort(self.order)

    def __len__(self) -> int:
        return len(self.known) - 1


def levels(transform: MaskedAutoregressiveTransform) -> Levels:
    """The network of `transform`, masked and sorted.

    Examples:
        >>> t = MaskedAutoregressiveTransform(6, hidden_features=(3, 3))
        >>> found = levels(t)  # three hidden units tell features 3, 4 and 5 nothing apart
        >>> found.known, found.hidden[0].until
        ((0, 1, 2, 3, 6), (0, 0, 1, 2, 3))
    """
    masked = [m for m in transform.hyper if isinstance(m, MaskedLinear)]
    features = len(transform.order)
    level = transform.order  # of each feature; what it needs can let it have an earlier one
    for _ in range(features):
        at = _unit_levels(level + 1, masked)
        needed = at[-1].unflatten(0, (features, transform.total)).amax(-1)
        if torch.equal(needed, level):
            break
        level = needed
    count = int(level.max()) + 1
    order = torch.argsort(level, stable=True)
    context = torch.arange(features, masked[0].in_features, device=order.device)
    inputs, layers = torch.cat([order, context]), []
    for module, units in zip(masked[:-1], at, strict=False):
        sort = torch.argsort(units, stable=True)
        layers.append(_sorted(module, sort, inputs, _until(units, count)))
        inputs = sort
    each = torch.arange(transform.total, device=order.device)
    rows = (order[:, None] * transform.total + each).flatten()
    known = _until(level, count)
    until = tuple(transform.total * n for n in known)
    return Levels(order, known, tuple(layers), _sorted(masked[-1], rows, inputs, until))


def _unit_levels(inputs: Tensor, masked: Sequence[MaskedLinear]) -> list[Tensor]:
    """First level of each layer's units, where features are inputs from level `inputs` on."""
    context = masked[0].in_features - len(inputs)
    at, levels = torch.cat([inputs, inputs.new_zeros(context)]), []
    for module in masked:
        at = torch.where(module.mask, at, 0).amax(-1)
        levels.append(at)
    return levels


def _until(level: Tensor, count: int) -> tuple[int, ...]:
    sizes = torch.bincount(level, minlength=count)[:count]
    return (0, *sizes.cumsum(0).tolist())


def _sorted(
    module: MaskedLinear, rows: Tensor, inputs: Tensor, until: tuple[int, ...]
) -> SortedLayer:
    weight = (module.weight * module.mask)[rows[:, None], inputs]
    return SortedLayer(weight, module.bias[rows], until)
