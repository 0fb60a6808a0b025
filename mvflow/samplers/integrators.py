"""Leapfrog integration of Hamilton's equations (paper, Eq. F.1 and F.2)."""

from typing import NamedTuple

from jaxtyping import Float

from mvflow.core import Array, namespace
from mvflow.samplers.base import ValueAndGrad

__all__ = ["PhasePoint", "leapfrog", "safe_gradient"]


class PhasePoint(NamedTuple):
    """Position and momentum, with the target's value and gradient at the position."""

    position: Float[Array, "chains rows dim"]
    momentum: Float[Array, "chains rows dim"]
    log_density: Float[Array, "chains rows"]
    grad: Float[Array, "chains rows dim"]


def leapfrog(
    position: Float[Array, "chains rows dim"],
    momentum: Float[Array, "chains rows dim"],
    grad: Float[Array, "chains rows dim"],
    value_and_grad: ValueAndGrad,
    *,
    step_size: Float[Array, " rows"] | float,
    inverse_mass: Float[Array, "rows dim"] | float,
    num_steps: int,
) -> PhasePoint:
    """Integrate `num_steps` >= 1 leapfrog steps (paper, Eq. F.2), one gradient for each.

    Reversible and volume preserving: from the end, with the momentum turned, it returns.

    Args:
        position: where it starts.
        momentum: with N(0, 1 / inverse_mass) as its law.
        grad: gradient of the log density at `position`, known from the step before.
        value_and_grad: the target.
        step_size: one number, or one a row.
        inverse_mass: diagonal of the inverse mass matrix.
        num_steps: number of steps.

    Examples:
        >>> import numpy as np
        >>> normal = lambda z: (-0.5 * (z * z).sum(-1), -z)
        >>> one = np.ones((1, 1, 1))
        >>> end = leapfrog(one, 0 * one, -one, normal, step_size=1e-3, inverse_mass=1.0,
        ...                num_steps=1000)
        >>> end.position.item(), end.momentum.item()  # cos(1), -sin(1)
        (0.5403..., -0.8414...)
    """
    step = step_size if isinstance(step_size, int | float) else step_size[:, None]
    for _ in range(num_steps):
        momentum = momentum + 0.5 * step * grad
        position = position + step * inverse_mass * momentum
        log_density, grad = value_and_grad(position)
        grad = safe_gradient(grad)
        momentum = momentum + 0.5 * step * grad
    return PhasePoint(position, momentum, log_density, grad)


def safe_gradient(grad: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gradient with zeros for what is not finite, and the rest small enough to be squared.

    The bound is the fourth root of the largest number (4e9 in float32, 1e77 in float64): a
    trajectory that runs away then ends in a rejected proposal, not in overflow.

    Examples:
        >>> import numpy as np
        >>> safe_gradient(np.array([1.0, np.nan, np.inf, -1e200]))
        array([ 1.00000000e+00,  0.00000000e+00,  0.00000000e+00, -1.15792089e+77])
    """
    xp = namespace(grad)
    bound = float(xp.finfo(grad.dtype).max) ** 0.25
    return xp.clip(xp.where(xp.isfinite(grad), grad, 0.0), -bound, bound)
