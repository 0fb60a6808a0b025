"""A conditional velocity of z whose divergence is exact and costs one product of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvflow.nn.mlp import MLP
from mvflow.nn.precision import upcast_to_float32

__all__ = ["ConditionalVelocity", "path_moments", "path_time"]

FREQUENCIES = 4
"""Cosines and sines of the share of the way that the network sees, of periods 2, 1, 1/2, 1/4."""


def path_moments(t: Any) -> tuple[Any, Any]:
    r"""Slope a and scale s of the path z_t = (1 - t) e + t z for standard normal e and z.

    z_t has the variance s^2 = t^2 + (1 - t)^2, and E[z - e | z_t] = a z_t with a = (2t - 1) / s^2.

    Examples:
        >>> path_moments(0.5)
        (0.0, 0.7071067811865476)
    """
    square = t * t + (1 - t) * (1 - t)
    return (2 * t - 1) / square, square**0.5


def path_time(share: Any) -> Any:
    """Time at a share of the way in [0, 1]: times lie denser near 1, where posteriors are narrow.

    Examples:
        >>> [path_time(k / 4) for k in range(5)]
        [0.0, 0.4375, 0.75, 0.9375, 1.0]
    """
    return 1 - (1 - share) * (1 - share)


class ConditionalVelocity(nn.Module):
    r"""v(t, z | c) = a_t z + F(z / s_t, t, c) / s_t, with a_t and s_t of `path_moments`.

    Without F it is the velocity that carries N(0, I) to N(0, I), at which training begins. For
    standardised latents F has targets of variance 1 at every t: the residual z - e - a_t z_t has
    the variance 1 / s_t^2. F has two hidden layers, which condition and time scale and shift, and
    beside them a path from each coordinate straight to itself: where q(z|x_S) is a Gaussian with
    independent coordinates, that path alone is exact.

    The Jacobian of F is W3 D2 W2 D1 W1 + diag(g), D1 and D2 diagonal, so that its trace is
    d2' (W2 * (W1 W3)') d1 + sum(g): exact, whatever the dimension of z, at the price of one more
    product with a matrix of the size of W2.

    Args:
        latent: dimension of z.
        condition: features of c.
        width: of the hidden layers.

    Examples:
        >>> v = ConditionalVelocity(latent=2, condition=3, width=8)
        >>> v(torch.tensor(0.5), torch.ones(5, 4, 2), torch.zeros(4, 3)).shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, latent: int, condition: int, width: int) -> None:
        super().__init__()
        self.latent, self.width = latent, width
        self.time = MLP(1 + 2 * FREQUENCIES, condition, condition)
        self.modulate = nn.Linear(condition, 4 * width + 2 * latent)
        self.first = nn.Linear(latent, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, latent, bias=False)
        with torch.no_grad():  # F begins as 0
            self.last.weight.zero_()
            self.modulate.weight[4 * width :].zero_()
            self.modulate.bias[4 * width :].zero_()

    def forward(self, t: Tensor, z: Tensor, condition: Tensor) -> Tensor:
        """The velocity, as z.

        Args:
            t: in [0, 1]; a scalar or (rows,).
            z: (..., rows, latent).
            condition: (rows, features).
        """
        slope, scale = self._moments(t)
        return slope * z + self.residual(t, z, condition) / scale

    def residual(self, t: Tensor, z: Tensor, condition: Tensor) -> Tensor:
        """F, the part of the velocity that is learned, as z; arguments as of `forward`."""
        return self._layers(t, z, condition)[0]

    def with_divergence(self, t: Tensor, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity, and its divergence in z, (..., rows); arguments as of `forward`."""
        residual, (first, second), straight = self._layers(t, z, condition)
        both = self.second.weight * (self.first.weight @ self.last.weight).T
        trace = (_silu_slope(second[0]) * second[1]) @ both
        trace = (trace * _silu_slope(first[0]) * first[1]).sum(-1) + straight.sum(-1)
        slope, scale = path_moments(t)
        divergence = slope * self.latent + trace / (scale * scale)
        slope, scale = self._moments(t)
        return slope * z + residual / scale, divergence

    def _layers(
        self, t: Tensor, z: Tensor, condition: Tensor
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], Tensor]:
        """F; what goes into its activations, and its slope; slopes of its straight path."""
        frequencies = 2.0 ** torch.arange(FREQUENCIES, device=z.device, dtype=z.dtype)
        share = 1 - (1 - t[..., None]).clamp(min=0).sqrt()  # the inverse of `path_time`
        angles = math.pi * share * frequencies
        times = torch.cat([share, angles.cos(), angles.sin()], -1)
        seen = functional.silu(condition + self.time(times))
        sizes = [self.width] * 4 + [self.latent] * 2
        scale1, shift1, scale2, shift2, straight, shift3 = self.modulate(seen).split(sizes, -1)
        u = z / self._moments(t)[1]
        inner = self.first(u) * (1 + scale1) + shift1
        outer = self.second(functional.silu(inner)) * (1 + scale2) + shift2
        residual = self.last(functional.silu(outer)) + straight * u + shift3
        slopes = (inner, 1 + scale1), (outer, 1 + scale2)
        return upcast_to_float32(residual), slopes, straight

    @staticmethod
    def _moments(t: Tensor) -> tuple[Tensor, Tensor]:
        slope, scale = path_moments(t)
        return (slope[..., None], scale[..., None]) if t.ndim else (slope, scale)


def _silu_slope(x: Tensor) -> Tensor:
    """Derivative of x * sigmoid(x)."""
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))
