"""One conditional flow for every subset of the modalities, trained by flow matching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mvflow.nn import MLP, ModalityDict, encode_rows, upcast_to_float32
from mvflow.posteriors.matched import MatchedFlow
from mvflow.posteriors.velocity import ConditionalVelocity, path_moments, path_time

__all__ = ["MatchingPosterior"]

WARM_UP = 10.0
"""The averages forget their first steps as if each had this many times the weight that is left."""

STEPS = (8, 16, 32, 64, 128)
"""Steps of the solver that are tried, one after the other."""


class MatchingPosterior(nn.Module):
    r"""q(z|x_S) for all 2^M subsets S, the empty one too, as the flow of one velocity field.

    Each modality is embedded; what is not observed is 0, and M flags say which those are. All of
    it is the condition of a velocity v(t, z | x_S), which is fitted to z - e at z_t = (1 - t) e +
    t z, for z of the posterior of a row and standard normal e: the least squares fit is
    E[z - e | z_t, x_S], whose flow carries N(0, I) to q(z|x_S) (Lipman et al. 2023). Latents are
    standardised first. Averages of the weights over the steps are kept, and used in the end.

    Args:
        encoders: name -> network from what posteriors see of a modality to an embedding; None:
            only the data themselves are embedded.
        latent: dimension of z.
        embedding: width of an encoder's output.
        data_encoders: name -> network from the data of a modality to a second embedding, where
            they are more than what posteriors see; None: there is none.
        hidden: widths of the layers that make a condition of the embeddings.
        width: of the velocity's two hidden layers.
        decay: of the averages of the weights, the share that a step leaves of them.

    Examples:
        >>> encoders = {"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)}
        >>> network = MatchingPosterior(encoders, 2, 4, hidden=(16,), width=8).eval()
        >>> network({"a": torch.zeros(5, 3)}).log_prob(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5])
        >>> network({}).sample((3,)).shape
        torch.Size([3, 1, 2])
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module] | None,
        latent: int,
        embedding: int,
        *,
        data_encoders: Mapping[str, nn.Module] | None = None,
        hidden: Sequence[int],
        width: int,
        decay: float = 0.999,
    ) -> None:
        super().__init__()
        self.encoders = None if encoders is None else ModalityDict(encoders)
        self.data_encoders = None if data_encoders is None else ModalityDict(data_encoders)
        views = [v for v in (self.encoders, self.data_encoders) if v is not None]
        self.names = tuple(views[0])
        self.embedding, self.decay = embedding, decay
        merged = len(self.names) * (embedding * len(views) + 1)
        self.merge = MLP(merged, *hidden)
        self.velocity = ConditionalVelocity(latent, hidden[-1], width)
        self.shift: Tensor
        self.spread: Tensor
        self.steps: Tensor
        self.solver_error: Tensor
        self.averaged_steps: Tensor
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))
        self.register_buffer("steps", torch.tensor(STEPS[1]))
        self.register_buffer("solver_error", torch.tensor(torch.nan))
        self.register_buffer("averaged_steps", torch.tensor(0.0))
        for name, value in list(self.named_parameters()):
            self.register_buffer(_average(name), value.detach().clone())

    def standardise(self, loc: Tensor, scale: Tensor) -> None:
        """Fix the mean and standard deviation (latent,) of z that the flow sees as 0 and 1."""
        self.shift.copy_(loc)
        self.spread.copy_(scale)

    def forward(
        self,
        x: Mapping[str, Tensor],
        observed: Tensor | None = None,
        covariates: Mapping[str, Tensor] | None = None,
        data: Mapping[str, Tensor] | None = None,
    ) -> MatchedFlow:
        """The posterior of each row: batch shape (rows,), event shape (latent,).

        Args:
            x: name -> what posteriors see of the rows of a modality; one that is absent is
                observed in no row. Where nothing is, the posterior is that of one row.
            observed: which modalities, in order of their names, each row may see, (rows, M) of
                bool; by default all that there are.
            covariates: of the rows, for encoders that see them.
            data: name -> the rows themselves, for `data_encoders`.
        """
        condition = self.condition(x, observed, covariates, data)
        moments = self.shift, self.spread
        return MatchedFlow(self.velocity, condition, self.condition({}), moments, int(self.steps))

    def condition(
        self,
        x: Mapping[str, Tensor],
        observed: Tensor | None = None,
        covariates: Mapping[str, Tensor] | None = None,
        data: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Features of what each row may see, (rows, features); arguments as of `forward`."""
        embedded, has = self.embed(x, covariates, data)
        return self.merged(embedded, has if observed is None else has & observed)

    def embed(
        self,
        x: Mapping[str, Tensor],
        covariates: Mapping[str, Tensor] | None = None,
        data: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of each modality, and which modalities there are; arguments as of `forward`.

        Returns:
            (rows, views, M, embedding), 0 where a modality is not there, and (rows, M) of bool.
        """
        first = next(iter(x.values()), self.shift[None])
        rows, device, dtype = len(first), first.device, self.shift.dtype
        # Filled on the device: nothing is copied to it, which a captured step could not do.
        has = torch.stack([torch.full((rows,), n in x, device=device) for n in self.names], 1)
        nothing = torch.zeros(rows, self.embedding, device=device, dtype=dtype)
        embedded = [
            torch.stack(
                [
                    torch.relu(encode_rows(encoders[n], view[n], covariates)).to(dtype)
                    if n in view
                    else nothing
                    for n in self.names
                ],
                1,
            )
            for encoders, view in ((self.encoders, x), (self.data_encoders, data or {}))
            if encoders is not None
        ]
        return torch.stack(embedded, 1), has

    def merged(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """Features (rows, features) of the modalities that each row may see.

        Args:
            embedded: of all modalities, as `embed` gives them.
            seen: (rows, M) of bool.
        """
        parts = embedded.masked_fill(~seen[:, None, :, None], 0.0).flatten(1)
        features: Tensor = self.merge(torch.cat([parts, seen.to(parts.dtype)], -1))
        return upcast_to_float32(features)

    def states(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times, noisy states z_t, and what the learned part of the velocity is to be there.

        Times are spread evenly over the rows, more of them near 1, where what is left of the way
        is as narrow as a posterior.

        Args:
            z: draws of the posterior of each row, (rows, latent).
        """
        rows = torch.arange(len(z), device=z.device, dtype=z.dtype)
        t = path_time((rows + torch.rand_like(rows)) / len(z))
        z, noise = (z - self.shift) / self.spread, torch.randn_like(z)
        way = t[:, None]
        at = noise + way * (z - noise)
        slope, scale = path_moments(way)
        return t, at, scale * (z - noise - slope * at)

    def loss(self, states: tuple[Tensor, Tensor, Tensor], condition: Tensor) -> Tensor:
        """Squared error of the learned part of the velocity in each row, mean over coordinates.

        Before training it is 1 but for noise.

        Args:
            states: as `states` gives them.
            condition: what of the row the velocity may see, as `condition` gives it.
        """
        t, at, target = states
        return (self.velocity.residual(t, at, condition) - target).square().mean(-1)

    @torch.no_grad()
    def update_averages(self) -> None:
        """Take the weights of one more step into their averages."""
        self.averaged_steps += 1
        share = (WARM_UP / (WARM_UP + self.averaged_steps)).clamp(min=1 - self.decay)
        for name, value in self.named_parameters():
            average = self.get_buffer(_average(name))
            average.add_(share * (value - average))

    @torch.no_grad()
    def use_averages(self) -> None:
        """Put the averages in the place of the weights."""
        for name, value in self.named_parameters():
            value.copy_(self.get_buffer(_average(name)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this block the weights are their averages."""
        weights = {name: value.detach().clone() for name, value in self.named_parameters()}
        self.use_averages()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.named_parameters():
                    value.copy_(weights[name])

    @torch.no_grad()
    def choose_steps(self, z: Tensor, flow: MatchedFlow, tolerance: float) -> None:
        """Take the fewest steps for which twice as many change log-densities by little.

        Args:
            z: of each row of the flow.
            flow: posteriors of some rows.
            tolerance: largest mean change in nats; what it is, is kept as `solver_error`.
        """
        steps = STEPS[0]
        coarse = flow.with_steps(steps).log_prob(z)
        while True:
            fine = flow.with_steps(2 * steps).log_prob(z)
            self.solver_error.copy_((fine - coarse).abs().mean())
            self.steps.fill_(steps)
            if self.solver_error <= tolerance or steps == STEPS[-1]:
                return
            steps, coarse = 2 * steps, fine


def _average(parameter: str) -> str:
    """Name of the buffer with a parameter's average."""
    return "average_" + parameter.replace(".", "__")
