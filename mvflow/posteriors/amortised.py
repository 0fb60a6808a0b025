"""One posterior for every subset of the modalities: the rival of the product of experts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from zuko.distributions import NormalizingFlow

from mvflow.nn import ModalityDict, encode_rows
from mvflow.posteriors.flow import FlowPosterior

__all__ = ["AmortisedPosterior"]


class AmortisedPosterior(nn.Module):
    r"""q(z|x_S) for all 2^M subsets S, as one conditional flow.

    Each modality is embedded; what is not observed is 0, and M flags say which those are. All of
    it is the condition of one flow. Trained by Eq. 8 with x_S in the place of x_j, S drawn anew
    for each row, it needs no division by what experts share, and no Markov chain.

    Args:
        encoders: name -> network from rows to (rows, embedding) features.
        posterior: flow whose encoder takes M * embedding + M features.
        embedding: width of an encoder's output.

    Examples:
        >>> encoders = {"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)}
        >>> q = AmortisedPosterior(encoders, FlowPosterior(nn.Linear(10, 4), latent=2), 4)
        >>> q({"a": torch.zeros(5, 3)}).log_prob(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], posterior: FlowPosterior, embedding: int
    ) -> None:
        super().__init__()
        self.encoders = ModalityDict(encoders)
        self.posterior = posterior
        self.embedding = embedding

    def forward(
        self,
        x: Mapping[str, Tensor],
        observed: Tensor | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> NormalizingFlow:
        """The posterior of each row: batch shape (rows,), event shape (latent,).

        Args:
            x: name -> rows of a modality; one that is absent is observed in no row.
            observed: which modalities, in order of their names, each row may see, (rows, M) of
                bool; by default all that there are.
            covariates: of the rows, for encoders that see them.
        """
        rows, device = _rows(x)
        names = [name for name, _ in self.encoders.items()]
        # Filled on the device: nothing is copied to it, which a captured step could not do.
        present = torch.stack([torch.full((rows,), name in x, device=device) for name in names], 1)
        seen = present if observed is None else present & observed
        nothing = torch.zeros(rows, self.embedding, device=device, dtype=torch.float32)
        parts = [
            torch.where(
                seen[:, i, None],
                torch.relu(encode_rows(encoder, x[name], covariates)).float(),
                nothing,
            )
            if name in x
            else nothing
            for i, (name, encoder) in enumerate(self.encoders.items())
        ]
        return self.posterior(torch.cat([*parts, seen.float()], -1))


def _rows(x: Mapping[str, Tensor]) -> tuple[int, torch.device]:
    first = next(iter(x.values()))
    return len(first), first.device
