"""Inverse of a masked autoregressive transform with the arithmetic of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from torch.nn.functional import linear
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.lazy import LazyTransform
from zuko.nn import MaskedLinear
from zuko.transforms import AutoregressiveTransform, DependentTransform, MonotonicAffineTransform
from zuko.utils import broadcast

from mvflow.nn.precision import upcast_to_float32
from mvflow.posteriors.fast.levels import Levels, levels

__all__ = ["LOG_SLOPE", "Ordered", "OrderedInverse"]

LOG_SLOPE = math.log(1e-3)
"""zuko's affine transform scales by exp(a / (1 + |a / LOG_SLOPE|))."""

BLOCK = 8
"""Levels between products of large matrices; from 8 to 16 the time is the same within a tenth."""


class OrderedInverse(LazyTransform):
    """A masked autoregressive transform that inverts by computing each hidden unit once.

    The plain inverse evaluates the whole network once for each feature. A hidden unit whose
    inputs are all known never changes again, so here the units are sorted by the level at which
    that happens, and each level computes only its own: together one evaluation of the network.
    As in the solution of triangular systems, levels are taken in blocks: what comes from before
    a block is one product of matrices, and the levels inside see little more than themselves.
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

    def forward(self, c: Tensor | None = None) -> Ordered:
        """The transform for context `c`, (rows, context)."""
        layers = self._masked() if self.is_frozen else list(self.transform.hyper)
        meta = partial(self._meta, layers, c)
        return Ordered(meta, self.transform.passes, Solver(self.transform, c))

    @property
    def is_frozen(self) -> bool:
        """Whether no weight requires a gradient."""
        return not any(p.requires_grad for p in self.transform.hyper.parameters())

    @property
    def is_affine(self) -> bool:
        """Whether it scales and shifts, by a network of rectified linear units."""
        others = [m for m in self.transform.hyper if not isinstance(m, MaskedLinear)]
        return self.transform.univariate is MonotonicAffineTransform and all(
            type(m) is nn.ReLU for m in others
        )

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
        return DependentTransform(_univariate(self.transform, upcast_to_float32(x)), 1)


class Ordered(AutoregressiveTransform):
    """zuko's transform with another way to the same inverse."""

    def __init__(self, meta: Callable[[Tensor], Transform], passes: int, solver: Solver) -> None:
        super().__init__(meta, passes)
        self.solver = solver

    def _inverse(self, y: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # levels write in place, which autograd cannot follow
            return super()._inverse(y)
        if any(p.requires_grad for p in self.solver.transform.hyper.parameters()):
            return Solver(self.solver.transform, self.solver.context)(y)  # weights may change
        return self.solver(y)


class Solver:
    """y -> x, level by level. All is held units first, so that a level is one block of memory."""

    def __init__(self, transform: MaskedAutoregressiveTransform, c: Tensor | None) -> None:
        self.transform = transform
        self.context = c
        activation = transform.hyper[1]
        self.activate = torch.relu_ if type(activation) is nn.ReLU else partial(_into, activation)
        self.kind = _Affine if transform.univariate is MonotonicAffineTransform else _Univariate

    @cached_property
    def net(self) -> Levels:
        """The network, sorted at the first inverse."""
        return levels(self.transform)

    @cached_property
    def features(self) -> _Affine | _Univariate:
        """How features follow from the last hidden layer."""
        return self.kind(self.net, self.transform)

    def __call__(self, y: Tensor) -> Tensor:
        net, features = self.net, y.shape[-1]
        target = y.reshape(-1, features).T[net.order]
        x = torch.empty_like(target)
        biases = self._biases(y.shape[:-1], features)
        known = [x, *(y.new_empty(len(layer.bias), x.shape[1]) for layer in net.hidden)]
        parameters = self.features.begin(target)
        for start, stop in _blocks(net):
            self._before(known, biases, start, stop)
            self.features.before(parameters, known[-1], start, stop)
            for level in range(start, stop):
                self._units(known, start, level)
                self.features.solve(parameters, known[-1], start, level, target, x)
        return x[net.back].T.reshape(y.shape)

    def _before(
        self, known: Sequence[Tensor], biases: Sequence[Tensor], start: int, stop: int
    ) -> None:
        """Give hidden units of levels start...stop what comes from levels before `start`."""
        ends = self.net.known
        for layer, bias, below, above in zip(
            self.net.hidden, biases, known, known[1:], strict=False
        ):
            rows, ready = slice(layer.until[start], layer.until[stop]), ends[start]
            torch.addmm(bias[rows], layer.weight[rows, :ready], below[:ready], out=above[rows])
            ends = layer.until

    def _units(self, known: Sequence[Tensor], start: int, level: int) -> None:
        """Hidden units of one level, to which `_before` gave what comes from before `start`."""
        since, ready, at = self.net.known[start], self.net.known[level], level + 1
        for layer, below, above in zip(self.net.hidden, known, known[1:], strict=False):
            first, last = layer.until[level], layer.until[at]
            if first < last:
                units = above[first:last]
                if since < ready:
                    units.addmm_(layer.weight[first:last, since:ready], below[since:ready])
                self.activate(units)
            since, ready = layer.until[start], last

    def _biases(self, batch: torch.Size, features: int) -> list[Tensor]:
        """What units get from the bias and the context, (units, rows or 1) for each layer."""
        first, *others = self.net.hidden
        bias = first.bias[:, None]
        if self.context is not None:
            fixed = linear(self.context, first.weight[:, features:], first.bias)
            bias = fixed.expand(*batch, -1).reshape(-1, len(first.bias)).T
        return [bias, *(layer.bias[:, None] for layer in others)]


class _Affine:
    """Features of zuko's affine transform: x = (y - shift) exp(-log_scale).

    Parameters are held by level, shifts before scales. The network finds y - shift at once, and
    the scales in units of their bound.
    """

    def __init__(self, net: Levels, transform: MaskedAutoregressiveTransform) -> None:
        self.net = net
        sizes = torch.tensor(net.known).diff()
        level = torch.repeat_interleave(sizes).repeat_interleave(2)
        is_scale = torch.arange(len(level)) % 2
        rows = torch.argsort(2 * level + is_scale, stable=True)
        is_scale = is_scale[rows].to(net.order.device)
        rows = rows.to(net.order.device)
        self.shifts, self.scales = (1 - is_scale).nonzero()[:, 0], is_scale.nonzero()[:, 0]
        factor = torch.full_like(net.last.bias, -1.0)[:, None]
        factor[self.scales] /= LOG_SLOPE
        self.weight = net.last.weight[rows] * factor
        self.bias = net.last.bias[rows, None] * factor
        self.zero = self.bias.new_zeros(())

    def begin(self, target: Tensor) -> Tensor:
        """Parameters, (2 features, rows), as if the hidden units were zero."""
        parameters = self.bias.expand(-1, target.shape[1]).contiguous()
        return parameters.index_add_(0, self.shifts, target)

    def before(self, parameters: Tensor, h: Tensor, start: int, stop: int) -> None:
        """Give levels start...stop what comes from hidden units of levels before `start`."""
        rows = slice(2 * self.net.known[start], 2 * self.net.known[stop])
        ready = self.net.hidden[-1].until[start]
        parameters[rows].addmm_(self.weight[rows, :ready], h[:ready])

    def solve(
        self, parameters: Tensor, h: Tensor, start: int, level: int, target: Tensor, x: Tensor
    ) -> None:
        """Write the features of one level to `x`."""
        until = self.net.hidden[-1].until
        since, ready = until[start], until[level + 1]
        first, last = self.net.known[level], self.net.known[level + 1]
        level_parameters = parameters[2 * first : 2 * last]
        if since < ready:
            level_parameters.addmm_(self.weight[2 * first : 2 * last, since:ready], h[since:ready])
        difference, scale = level_parameters[: last - first], level_parameters[last - first :]
        negative = torch.addcdiv(self.zero, scale, scale.abs().add_(1), value=LOG_SLOPE)
        torch.mul(difference, negative.exp_(), out=x[first:last])


class _Univariate:
    """Features of any other transform, by its own inverse."""

    def __init__(self, net: Levels, transform: MaskedAutoregressiveTransform) -> None:
        self.net, self.transform = net, transform

    def begin(self, target: Tensor) -> Tensor:
        """Parameters, (total features, rows), as if the hidden units were zero."""
        return self.net.last.bias[:, None].expand(-1, target.shape[1]).contiguous()

    def before(self, parameters: Tensor, h: Tensor, start: int, stop: int) -> None:
        """Give levels start...stop what comes from hidden units of levels before `start`."""
        last, ready = self.net.last, self.net.hidden[-1].until[start]
        rows = slice(last.until[start], last.until[stop])
        parameters[rows].addmm_(last.weight[rows, :ready], h[:ready])

    def solve(
        self, parameters: Tensor, h: Tensor, start: int, level: int, target: Tensor, x: Tensor
    ) -> None:
        """Write the features of one level to `x`."""
        last, until = self.net.last, self.net.hidden[-1].until
        since, ready = until[start], until[level + 1]
        rows = slice(last.until[level], last.until[level + 1])
        parameters[rows].addmm_(last.weight[rows, since:ready], h[since:ready])
        features = slice(self.net.known[level], self.net.known[level + 1])
        each = _univariate(self.transform, parameters[rows].T)
        x[features] = each.inv(target[features].T).T


def _univariate(transform: MaskedAutoregressiveTransform, phi: Tensor) -> Any:
    """The univariate transforms of features with parameters `phi` (..., features * total)."""
    phi = phi.unflatten(-1, (-1, transform.total))
    sizes = [max(1, torch.Size(s).numel()) for s in transform.shapes]
    parts = [
        part.reshape(*part.shape[:-1], *shape)
        for part, shape in zip(phi.split(sizes, -1), transform.shapes, strict=True)
    ]
    return transform.univariate(*parts)


def _blocks(net: Levels) -> Iterator[tuple[int, int]]:
    """Runs of levels (start, stop)."""
    for start in range(0, len(net), BLOCK):
        yield start, min(start + BLOCK, len(net))


def _into(activation: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    return value.copy_(activation(value))
