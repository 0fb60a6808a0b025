"""Numbers that are not numbers end a computation, with a sentence; they are never repaired."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import NumericsError

__all__ = ["finite_draws", "refuse"]


def refuse(bad: Tensor, what: str) -> None:
    """Stop if anything is wrong in a row.

    Args:
        bad: bool (rows,).
        what: is wrong.

    Raises:
        NumericsError: with the number of rows and the first of them.
    """
    if bad.any():
        first = int(bad.nonzero()[0])
        msg = (
            f"{what} in {int(bad.sum())} of {len(bad)} rows (the first is row {first}): their "
            "values lie too far from those of training, or the weights are not usable"
        )
        raise NumericsError(msg)


def finite_draws(distribution: Distribution, n: int) -> tuple[Tensor, Tensor]:
    """`n` draws per row, of which those that are not finite are replaced by the first that is.

    Returns:
        Draws (n, rows, latent_dim), and which of them were drawn as they are (n, rows).

    Raises:
        NumericsError: if a row has no finite draw.

    Examples:
        >>> from zuko.distributions import DiagNormal
        >>> z, finite = finite_draws(DiagNormal(torch.zeros(4, 2), torch.ones(4, 2)), 3)
        >>> z.shape, bool(finite.all())
        (torch.Size([3, 4, 2]), True)
    """
    z = distribution.sample(torch.Size((n,)))
    finite = z.isfinite().all(-1)
    if finite.all():
        return z, finite
    refuse(~finite.any(0), "no draw of a posterior is a finite number")
    first = z[finite.byte().argmax(0), torch.arange(z.shape[1], device=z.device)]
    return torch.where(finite[..., None], z, first), finite
