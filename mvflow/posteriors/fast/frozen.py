"""Density and gradient of affine flows whose weights are frozen, without a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from zuko.distributions import NormalizingFlow

from mvflow.posteriors.fast.inverse import LOG_SLOPE, Ordered

__all__ = ["FrozenFlow"]

SPLIT = 64
"""Units and inputs from which on half of a matrix's zeros are left out."""


class FrozenFlow(NormalizingFlow):
    r"""zuko's `NormalizingFlow` for samplers: value and gradient by a few products of matrices.

    A sampler asks for the same density and its gradient thousands of times. Here the gradient
    is written out instead of recorded, everything is held (units, points), and the units are
    sorted, so that the part of a masked matrix that is zero is not multiplied. `log_prob` and
    its derivatives equal zuko's to rounding; where a second derivative is asked for, or one by
    the base's parameters, zuko's code runs.

    Args:
        flow: affine autoregressive transforms of standardised z, with a diagonal Gaussian base.
        parts: its autoregressive transforms, in order, with frozen weights.
        shift: z less this,
        spread: and over this, is what the first of them sees; both (latent,).

    Examples:
        >>> from mvflow.posteriors import MAF, build_posterior
        >>> flow = build_posterior(MAF(), 3, lambda n: torch.nn.Linear(2, n))
        >>> flow = flow.requires_grad_(False)
        >>> q = flow(torch.zeros(5, 2))
        >>> value, grad = q.value_and_grad(torch.zeros(7, 5, 3))
        >>> type(q).__name__, value.shape, grad.shape
        ('FrozenFlow', torch.Size([7, 5]), torch.Size([7, 5, 3]))
    """

    def __init__(
        self, flow: NormalizingFlow, parts: Sequence[Ordered], shift: Tensor, spread: Tensor
    ) -> None:
        super().__init__(flow.transform, flow.base)
        self.parts = tuple(parts)
        self.shift, self.spread = shift, spread
        self.loc, self.scale = flow.base.base_dist.loc, flow.base.base_dist.scale

    @cached_property
    def steps(self) -> list[_Step]:
        """The transforms, sorted at the first evaluation."""
        steps: list[_Step] = []
        for part in self.parts:
            steps.append(_Step.of(part, steps[-1].order if steps else None))
        return steps

    @cached_property
    def base_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation of the base, (latent, *batch), in the last step's order."""
        moments = self.loc, 1 / self.scale
        loc, inverse = (m.movedim(-1, 0)[self.steps[-1].order] for m in moments)
        return loc, inverse

    @cached_property
    def constant(self) -> Tensor:
        """What the log density has beside squares and log factors, (*batch)."""
        normal = self.scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * self.scale.shape[-1]
        return -normal - self.spread.log().sum()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density, (..., rows), of z (..., rows, latent)."""
        if torch.is_grad_enabled() and (self.loc.requires_grad or self.scale.requires_grad):
            return super().log_prob(z)
        if torch.is_grad_enabled() and z.requires_grad:
            value, _ = _LogProb.apply(z, self)
            return value
        with torch.no_grad():
            return self._value(self._forward(z))

    def expand(self, batch_shape: torch.Size, new: None = None) -> NormalizingFlow:
        """The same flow with a repeated base, which zuko evaluates."""
        return NormalizingFlow(self.transform, self.base).expand(batch_shape)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and its gradient, (..., rows) and (..., rows, latent), without a graph."""
        with torch.no_grad():
            path = self._forward(z)
            grad = -path.u * _trailing(self.base_moments[1], path.u.ndim)
            grad = grad.reshape(len(grad), -1)
            for step, tape in zip(reversed(self.steps), reversed(path.tapes), strict=True):
                grad = step.backward(grad, tape)
            by_z = torch.div(grad.T, self.spread, out=grad.new_empty(grad.T.shape))
            return self._value(path), by_z.reshape(*path.u.shape[1:], -1)

    def _forward(self, z: Tensor) -> _Path:
        batch = z.shape[:-1]
        if batch[max(len(batch) - len(self.batch_shape), 0) :] != self.batch_shape:
            batch = torch.broadcast_shapes(batch, self.batch_shape)
        flat = z.expand(*batch, -1).reshape(-1, z.shape[-1])
        x, tapes = ((flat - self.shift) / self.spread).T, []
        log_factors = x.new_zeros(())
        for step in self.steps:
            x, more, tape = step.forward(x, batch)
            log_factors = log_factors + more
            tapes.append(tape)
        loc, inverse = (_trailing(m, len(batch) + 1) for m in self.base_moments)
        return _Path(x.reshape(-1, *batch).sub(loc).mul_(inverse), log_factors, tapes)

    def _value(self, path: _Path) -> Tensor:
        squares = (path.u * path.u).sum(0)
        return path.log_factors.reshape(squares.shape) + self.constant - 0.5 * squares


class _Tape(NamedTuple):
    """What the gradient of a transform needs of its evaluation, (units, points) each."""

    hidden: list[Tensor]
    factor: Tensor
    moved: Tensor
    """x times the factor."""
    slope: Tensor
    """Derivative of the log factor by what the network says."""


class _Path(NamedTuple):
    """An evaluation of the whole flow."""

    u: Tensor
    """Standardised base variable, (latent, *batch)."""
    log_factors: Tensor
    """Their sum over features and transforms, (points,)."""
    tapes: list[_Tape]


class _Matrix(NamedTuple):
    """A sorted weight matrix without the block of zeros above its diagonal."""

    top: Tensor
    """(cut, ready): the first units need the first inputs only."""
    bottom: Tensor
    """(units - cut, inputs)."""

    @classmethod
    def of(cls, weight: Tensor) -> _Matrix:
        cut = len(weight) // 2 if min(weight.shape) >= SPLIT else 0
        used = (weight[:cut] != 0).any(0).nonzero()
        ready = int(used.max()) + 1 if len(used) else 0
        return cls(weight[:cut, :ready].contiguous(), weight[cut:].contiguous())

    def affine(self, bias: Tensor, x: Tensor) -> Tensor:
        """Product with x (inputs, points), plus bias (units, points or 1)."""
        cut, ready = self.top.shape
        if not cut:
            return torch.addmm(bias, self.bottom, x)
        out = x.new_empty(cut + len(self.bottom), x.shape[1])
        torch.addmm(bias[:cut], self.top, x[:ready], out=out[:cut])
        torch.addmm(bias[cut:], self.bottom, x, out=out[cut:])
        return out

    def transposed(self, y: Tensor) -> Tensor:
        """Product of the transpose with y (units, points)."""
        cut, ready = self.top.shape
        out = self.bottom.T @ y[cut:]
        if cut:
            out[:ready].addmm_(self.top.T, y[:cut])
        return out


class _Step(NamedTuple):
    """An affine autoregressive transform, its features and units sorted by level."""

    order: Tensor
    """Sorted features, (latent,)."""
    enter: Tensor
    """Where they are in the order of the step before."""
    back: Tensor
    """The opposite way."""
    biases: list[Tensor]
    """Of the hidden layers; the first is (rows or 1, units), with what the context gives."""
    hidden: list[_Matrix]
    last: _Matrix
    """(2 features, units): of all shifts, then of all scales in units of their bound."""
    last_bias: Tensor

    @classmethod
    def of(cls, part: Ordered, input_order: Tensor | None) -> _Step:
        net, context = part.solver.net, part.solver.context
        features, first = len(net.order), net.hidden[0]
        enter = net.order if input_order is None else torch.argsort(input_order)[net.order]
        fixed = first.bias[None]
        if context is not None:
            fixed = linear(context, first.weight[:, features:], first.bias)
        weights = [first.weight[:, :features], *(layer.weight for layer in net.hidden[1:])]
        unit = first.bias.new_tensor([1.0, -1 / LOG_SLOPE])
        last = net.last.weight.unflatten(0, (-1, 2)).transpose(0, 1) * unit[:, None, None]
        last_bias = net.last.bias.unflatten(0, (-1, 2)).T * unit[:, None]
        return cls(
            net.order,
            enter,
            torch.argsort(enter),
            [fixed, *(layer.bias[:, None] for layer in net.hidden[1:])],
            [_Matrix.of(weight) for weight in weights],
            _Matrix(last.new_empty(0, 0), last.flatten(0, 1).contiguous()),
            last_bias.flatten()[:, None],
        )

    def forward(self, x: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor, _Tape]:
        """From x (features, points), in the order before, to y sorted, log determinant, tape."""
        x = x.index_select(0, self.enter)
        h, hidden = x, []
        for matrix, bias in zip(self.hidden, [self._first(batch), *self.biases[1:]], strict=True):
            h = matrix.affine(bias, h).relu_()
            hidden.append(h)
        shift, scale = self.last.affine(self.last_bias, h).chunk(2)
        room = scale.abs().add_(1).reciprocal_()
        log_factor = torch.mul(scale, room).mul_(-LOG_SLOPE)
        factor = log_factor.exp()
        moved = x * factor
        tape = _Tape(hidden, factor, moved, room.square_().mul_(-LOG_SLOPE))
        return moved + shift, log_factor.sum(0), tape

    def backward(self, grad: Tensor, tape: _Tape) -> Tensor:
        """Gradient by x, in the order before, of what has `grad` by y, and the determinant's."""
        by_scale = torch.addcmul(tape.slope, grad * tape.moved, tape.slope)
        by_unit = self.last.transposed(torch.cat([grad, by_scale]))
        for matrix, h in zip(reversed(self.hidden), reversed(tape.hidden), strict=True):
            by_unit = matrix.transposed(torch.ops.aten.threshold_backward(by_unit, h, 0))
        return by_unit.addcmul_(grad, tape.factor).index_select(0, self.back)

    def _first(self, batch: torch.Size) -> Tensor:
        fixed = self.biases[0]
        if len(fixed) == 1:
            return fixed.T
        return fixed.expand(*batch, fixed.shape[-1]).reshape(-1, fixed.shape[-1]).T


def _trailing(moment: Tensor, ndim: int) -> Tensor:
    """(latent, *batch) with axes of one before the batch, for `ndim` axes in all."""
    return moment.reshape(len(moment), *(1,) * (ndim - moment.ndim), *moment.shape[1:])


class _LogProb(torch.autograd.Function):
    """Log density for autograd; its gradient is found in the forward pass."""

    @staticmethod
    def forward(z: Tensor, flow: FrozenFlow) -> tuple[Tensor, Tensor]:
        return flow.value_and_grad(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, FrozenFlow], output: Any) -> None:
        z, ctx.flow = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(z, output[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor, None]:
        z, grad = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: zuko's graph has it
            value = NormalizingFlow.log_prob(ctx.flow, z)
            (grad,) = torch.autograd.grad(value, z, upstream, create_graph=True)
            return grad, None
        return (grad * upstream[..., None]).sum_to_size(z.shape), None
