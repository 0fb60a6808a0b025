"""The flow of a velocity as a distribution, and draws that are guided to what is observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import UsageError
from mvflow.functional import heun, standard_normal_log_prob
from mvflow.posteriors.velocity import ConditionalVelocity, path_time

__all__ = ["GuidedFlow", "MatchedFlow"]

POINTS = {"cpu": 4096}
"""Values of z that are carried at once, by device, so that a processor's caches hold them."""
MANY_POINTS = 16_384
"""Of other devices."""


class _Flow(Distribution):
    """What carries standard normal noise to z along a velocity."""

    arg_constraints: dict[str, Any] = {}
    has_rsample = True
    _condition: Tensor
    _moments: tuple[Tensor, Tensor]
    _steps: int

    def _velocity(self, condition: Tensor) -> Callable[[float, Tensor], Tensor]:
        """(t, z) -> velocity."""
        raise NotImplementedError

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, sample_shape + (rows, latent); noise carried along the velocity."""
        noise = self._noise(torch.Size(sample_shape) + self.batch_shape)
        parts = self._chunks(noise)
        carried = torch.cat([self._carried(part, self._condition) for part in parts])
        return carried.reshape(noise.shape)

    @torch.no_grad()
    def sample_where(self, mask: Tensor) -> Tensor:
        """Draws, mask.shape + (latent,), of which only those are computed where the mask is true.

        Noise is drawn for all, so that no draw hangs on which others are asked for.
        """
        noise = self._noise(mask.shape)
        condition = self._condition.expand(*mask.shape, -1)[mask]
        points = zip(*(x.split(self._points) for x in (noise[mask], condition)), strict=True)
        out = noise.clone()
        out[mask] = torch.cat([self._carried(at, given) for at, given in points])
        return out

    @property
    def _times(self) -> list[float]:
        return [path_time(k / self._steps) for k in range(self._steps + 1)]

    def _noise(self, shape: torch.Size) -> Tensor:
        like = self._moments[0]
        return torch.randn(shape + self.event_shape, dtype=like.dtype, device=like.device)

    def _carried(self, noise: Tensor, condition: Tensor) -> Tensor:
        shift, spread = self._moments
        return shift + spread * heun(self._velocity(condition), noise, self._times)

    @property
    def _points(self) -> int:
        return POINTS.get(self._moments[0].device.type, MANY_POINTS)

    def _chunks(self, values: Tensor) -> Iterator[Tensor]:
        """Values (..., rows, latent) with one leading dimension, so many at once."""
        flat = values.reshape(-1, *self.batch_shape, *self.event_shape)
        return iter(flat.split(max(1, self._points // max(1, self.batch_shape.numel()))))


class MatchedFlow(_Flow):
    r"""The distribution to which a velocity carries N(0, I), for standardised latents.

    Its log-density is that of the noise less the integral of the velocity's divergence along the
    way back, log q(z) = log N(z_0; 0, I) - \int div v dt, with the exact divergence. Both
    are solved by Heun's method on a grid of times that no value of z changes.

    Args:
        velocity: of standardised z given conditions.
        condition: of each row, (rows, features).
        nothing: the condition where nothing is observed, (1, features).
        moments: mean and standard deviation of z, (latent,) each.
        steps: of the solver.
    """

    def __init__(
        self,
        velocity: ConditionalVelocity,
        condition: Tensor,
        nothing: Tensor,
        moments: tuple[Tensor, Tensor],
        steps: int,
    ) -> None:
        self._network, self._condition, self._nothing = velocity, condition, nothing
        self._moments, self._steps = moments, steps
        shape = condition.shape[:-1]
        super().__init__(shape, moments[0].shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MatchedFlow:
        """The same for a larger batch of equal rows."""
        condition = self._condition.expand(*batch_shape, -1)
        return MatchedFlow(self._network, condition, self._nothing, self._moments, self._steps)

    def with_steps(self, steps: int) -> MatchedFlow:
        """The same by a solver of so many steps."""
        return MatchedFlow(self._network, self._condition, self._nothing, self._moments, steps)

    def guided(self, weight: float) -> Distribution:
        """Draws that follow what is observed more than the posterior does.

        Args:
            weight: w in v + w (v - v_0), v_0 the velocity where nothing is observed; 0 gives this
                distribution itself.
        """
        return GuidedFlow(self, weight) if weight else self

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density (..., rows) of values (..., rows, latent)."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        shift, spread = self._moments
        at = ((value - shift) / spread).expand(*shape, -1)
        ways = [self._gathered(z, self._times[::-1]) for z in self._chunks(at)]
        log_probs = [standard_normal_log_prob(noise) + change for noise, change in ways]
        return torch.cat(log_probs).reshape(shape) - spread.log().sum()

    def sample_with_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities, for the price of the densities alone.

        Returns:
            sample_shape + (rows, latent) and sample_shape + (rows,).
        """
        noise = self._noise(torch.Size(sample_shape) + self.batch_shape)
        shift, spread = self._moments
        ways = [self._gathered(part, self._times) for part in self._chunks(noise)]
        z, change = (torch.cat(of) for of in zip(*ways, strict=True))
        log_prob = standard_normal_log_prob(noise) - change.reshape(noise.shape[:-1])
        return shift + spread * z.reshape(noise.shape), log_prob - spread.log().sum()

    def _gathered(self, start: Tensor, times: list[float]) -> tuple[Tensor, Tensor]:
        """Where points come to along the velocity, and the integral of its divergence."""

        def slopes(t: float, state: Tensor) -> Tensor:
            time = state.new_tensor(t)
            both = self._network.with_divergence(time, state[..., :-1], self._condition)
            return torch.cat([both[0], both[1][..., None]], -1)

        end = heun(slopes, torch.cat([start, torch.zeros_like(start[..., :1])], -1), times)
        return end[..., :-1], end[..., -1]

    def _velocity(self, condition: Tensor) -> Callable[[float, Tensor], Tensor]:
        return lambda t, z: self._network(z.new_tensor(t), z, condition)


class GuidedFlow(_Flow):
    """Draws along v + w (v - v_0): classifier-free guidance (Ho and Salimans 2022).

    They are more typical of what is observed and less various than draws of the posterior, and
    follow no density that is known.

    Args:
        flow: the posterior.
        weight: w.
    """

    def __init__(self, flow: MatchedFlow, weight: float) -> None:
        self._flow, self.weight = flow, weight
        self._condition, self._moments = flow._condition, flow._moments
        self._steps = flow._steps
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GuidedFlow:
        """The same for a larger batch of equal rows."""
        return GuidedFlow(self._flow.expand(batch_shape), self.weight)

    def log_prob(self, value: Tensor) -> Tensor:
        """None is known.

        Raises:
            UsageError: saying so.
        """
        msg = "guided draws have no log-density: ask for that of the posterior, without guidance"
        raise UsageError(msg)

    def _velocity(self, condition: Tensor) -> Callable[[float, Tensor], Tensor]:
        network, nothing = self._flow._network, self._flow._nothing

        def guided(t: float, z: Tensor) -> Tensor:
            time = z.new_tensor(t)
            towards = network(time, z, condition)
            return towards + self.weight * (towards - network(time, z, nothing))

        return guided
