"""Decoder distributions p(x|z), each with a stated, fixed scale."""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    Normal,
)

from mvflow.core import Modality
from mvflow.nn import widened

__all__ = ["likelihood", "log_prob"]


def likelihood(modality: Modality, parameters: Tensor) -> Distribution:
    """p(x|z) of one modality, with one log-probability per row (summed over dimensions).

    Args:
        modality: gives the family and its scale.
        parameters: output of the decoder, (..., *shape): the location of `normal` and `laplace`,
            logits of `bernoulli` and `categorical`. bfloat16 is widened to float32, since sums
            over thousands of pixels need it.

    Examples:
        >>> import torch
        >>> m = Modality("a", (3,), "laplace", scale=0.5)
        >>> likelihood(m, torch.zeros(2, 3)).log_prob(torch.zeros(2, 3))
        tensor([0., 0.])
    """
    parameters = widened(parameters)
    dims = len(modality.shape)
    match modality.likelihood:
        case "normal":
            return _rows(Normal(parameters, modality.scale, validate_args=False), dims)
        case "laplace":
            return _rows(Laplace(parameters, modality.scale, validate_args=False), dims)
        case "bernoulli":
            return _rows(Bernoulli(logits=parameters, validate_args=False), dims)
        case "categorical":
            return Categorical(logits=parameters, validate_args=False)


def log_prob(modality: Modality, parameters: Tensor, x: Tensor) -> Tensor:
    """Log p(x|z) in nats per row: `likelihood(...).log_prob(x)` without a tensor of scales.

    Constants are added to each row, not to each pixel, and nothing is as large as the data but
    what the gradient needs.

    Examples:
        >>> import torch
        >>> m = Modality("a", (3,), "laplace", scale=0.5)
        >>> log_prob(m, torch.zeros(2, 3), torch.ones(2, 3))
        tensor([-6., -6.])
    """
    parameters = widened(parameters)
    dims, scale = tuple(range(-len(modality.shape), 0)), modality.scale
    match modality.likelihood:
        case "laplace":
            distance = (x - parameters).abs().sum(dims)
            return -distance / scale - modality.size * math.log(2 * scale)
        case "normal":
            square = (x - parameters).square().sum(dims)
            constant = modality.size * (math.log(scale) + 0.5 * math.log(2 * math.pi))
            return -square / (2 * scale**2) - constant
        case _:
            return likelihood(modality, parameters).log_prob(x)


def _rows(distribution: Distribution, dims: int) -> Distribution:
    return Independent(distribution, dims, validate_args=False)
