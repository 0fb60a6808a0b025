"""Decoder distributions p(x|z), each with a stated, fixed scale."""

from __future__ import annotations

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

__all__ = ["likelihood"]


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
    parameters = parameters.float() if parameters.itemsize < 4 else parameters
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


def _rows(distribution: Distribution, dims: int) -> Distribution:
    return Independent(distribution, dims, validate_args=False)
