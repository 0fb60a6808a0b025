"""Inverse of a masked autoregressive transform with the arithmetic of one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import linear
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.lazy import LazyTransform
from zuko.nn import MaskedLinear
from zuko.transforms import AutoregressiveTransform, DependentTransform
from zuko.utils import broadcast

__all__ = ["OrderedInverse"]


class _Layer(NamedTuple):
    """One masked layer with its units sorted by the step at which they can be computed."""

    weight: Tensor
    """(units, inputs), masked; inputs sorted as the previous layer's units."""
    bias: Tensor
    until: list[int]
    """Number of units known after step s, for s = -1, 0, ... (so `until[0]` is 0)."""


class OrderedInverse(LazyTransform):
    """A masked autoregressive transform that inverts by computing each hidden unit once.

    The plain inverse evaluates the whole network once for each feature. A hidden unit whose
    inputs are all known never changes again, so here the units are sorted by the step at which
    that happens, and each step computes only its own: together one evaluation of the network.
    Density and gradients are zuko's; the inverse equals zuko's to rounding. Weights that are
    frozen are masked when the transform is made, not at each evaluation.

    Args:
        transform: the transform, over an MLP of masked linear layers and activations.

    Examples:
        >>> t = OrderedInverse(MaskedAutoregressiveTransform(3, hidden_features=(8, 8)))
        >>> y = torch.randn(5, 3)
        >>> with torch.no_grad():
        ...     bool(torch.allclose(t()(t().inv(y)), y, atol=1e-5))
        True
    """

    def __init__(self, transform: MaskedAutoregressiveTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, c: Tensor | None = None) -> Transform:
        """The transform for context `c`, (rows, context)."""
        meta = partial(self.transform.meta, c)
        if not any(p.requires_grad for p in self.transform.hyper.parameters()):
            meta = partial(self._meta, self._masked(), c)  # of frozen weights: masked once
        return _Ordered(meta, self.transform.passes, partial(self._inverse, c))

    def _masked(self) -> list[Callable[[Tensor], Tensor]]:
        return [
            partial(linear, weight=m.weight * m.mask, bias=m.bias)
            if isinstance(m, MaskedLinear)
            else m
            for m in self.transform.hyper
        ]

    def _meta(
        self, layers: list[Callable[[Tensor], Tensor]], c: Tensor | None, x: Tensor
    ) -> Transform:
        """The univariate transforms that x parametrises, as zuko's `meta`."""
        if c is not None:
            x = torch.cat(broadcast(x, c, ignore=1), -1)
        for layer in layers:
            x = layer(x)
        return DependentTransform(self._univariate(x.unflatten(-1, (-1, self.transform.total))), 1)

    def _inverse(self, c: Tensor | None, y: Tensor) -> Tensor:
        # Everything is held units first, so that what one step adds is one block of memory.
        batch, features = y.shape[:-1], y.shape[-1]
        *hidden, last = self._layers()
        fixed = self._from_context(c, hidden[0], batch, features)
        target = y.reshape(-1, features).T
        x = torch.zeros_like(target)
        known = [y.new_empty(len(layer.bias), x.shape[1]) for layer in hidden]
        for step in range(self.transform.passes):
            for depth, layer in enumerate(hidden):
                new = slice(layer.until[step], layer.until[step + 1])
                if depth == 0:
                    value = layer.weight[new, :features] @ x + fixed[new]
                else:
                    ready = hidden[depth - 1].until[step + 1]
                    before = known[depth - 1][:ready]
                    value = torch.addmm(layer.bias[new, None], layer.weight[new, :ready], before)
                known[depth][new] = self._activation(value)
            mine = (self.transform.order == step).nonzero().flatten()
            rows = (mine[:, None] * self.transform.total + self._offsets(mine)).flatten()
            ready = hidden[-1].until[step + 1]
            phi = torch.addmm(last.bias[rows, None], last.weight[rows, :ready], known[-1][:ready])
            each = self._univariate(phi.T.unflatten(-1, (len(mine), -1)))
            x[mine] = each.inv(target[mine].T).T
        return x.T.reshape(y.shape)

    @staticmethod
    def _from_context(c: Tensor | None, first: _Layer, batch: torch.Size, features: int) -> Tensor:
        """What the first layer's units get from the bias and the context, (units, rows or 1)."""
        if c is None:
            return first.bias[:, None]
        fixed = c @ first.weight[:, features:].T + first.bias
        return fixed.expand(*batch, -1).reshape(-1, len(first.bias)).T

    def _offsets(self, like: Tensor) -> Tensor:
        return torch.arange(self.transform.total, device=like.device)

    def _univariate(self, phi: Tensor) -> Any:
        sizes = [max(1, torch.Size(s).numel()) for s in self.transform.shapes]
        parts = [
            part.reshape(*part.shape[:-1], *shape)
            for part, shape in zip(phi.split(sizes, -1), self.transform.shapes, strict=True)
        ]
        return self.transform.univariate(*parts)

    def _activation(self, value: Tensor) -> Tensor:
        return self.transform.hyper[1](value)

    def _layers(self) -> list[_Layer]:
        """Layers with units sorted by the step that makes them computable."""
        order = self.transform.order
        masked = [m for m in self.transform.hyper if isinstance(m, MaskedLinear)]
        context = masked[0].in_features - len(order)
        when = torch.cat([order + 1, order.new_zeros(context)])
        place = torch.arange(len(when), device=order.device)
        layers = []
        for i, module in enumerate(masked):
            mask = module.mask
            is_last = i == len(masked) - 1
            at = torch.where(mask, when, 0).amax(-1)
            sort = place.new_tensor(range(len(at))) if is_last else torch.argsort(at, stable=True)
            counts = torch.bincount(at, minlength=self.transform.passes + 1)
            until = [0, *counts.cumsum(0).tolist()]
            weight = (module.weight * mask)[sort][:, place]
            layers.append(_Layer(weight, module.bias[sort], until))
            when, place = at, sort
        return layers


class _Ordered(AutoregressiveTransform):
    """zuko's transform with another way to the same inverse."""

    def __init__(
        self, meta: Callable[[Tensor], Transform], passes: int, inverse: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(meta, passes)
        self._ordered = inverse

    def _inverse(self, y: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # steps write in place, which autograd cannot follow
            return super()._inverse(y)
        return self._ordered(y)
