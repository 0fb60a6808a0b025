"""VampPrior (Tomczak and Welling 2018), fitted after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from mvflow.config import Training
from mvflow.core import PRESENT, ConfigError, Modality, Observed, generator, present_columns
from mvflow.nn.base import probe_rows
from mvflow.priors.base import Prior
from mvflow.stages import Losses, Rows, StageSpec

__all__ = ["VampMixture", "VampPrior"]

Batch = Mapping[str, Tensor]


class VampPrior(Prior, Training):
    """An equal mixture of q(z|u_k) at pseudo-rows u_k, which are learned; the encoder is frozen.

    They begin as training rows, the most complete ones, in which values of other rows stand for
    what is absent. The likelihood of draws of q(z|X) is maximised; class numbers stay as they
    begin. The settings as a `Training` are those of its stage. Where posteriors are narrow, so is
    each component, and another prior is likelier: `mvflow choose-prior` tells.
    """

    epochs: int = Field(default=200, ge=0)
    steps_per_epoch: int | None = Field(default=10, gt=0)
    learning_rate: float = Field(default=1e-2, gt=0)
    """Of the pseudo-rows, which have the scale of data and not of weights."""
    components: PositiveInt = 100
    """Number of pseudo-rows."""

    def build(self, system: Any) -> VampMixture:
        """The mixture, at rows of zeros.

        Raises:
            ConfigError: if q(z|X) of the system is not a distribution.
        """
        if system.settings.covariates:
            msg = (
                "prior 'vampprior' knows no covariates of its pseudo-rows: use prior 'mixture' or "
                "'standard', or leave the covariates out"
            )
            raise ConfigError(msg)
        encode = getattr(system, "encode", system.posterior)
        system.eval()  # one row is too few for batch normalisation
        with torch.no_grad():
            posterior = encode(Observed({m.name: probe_rows(m) for m in system.modalities}))
        system.train()
        if not isinstance(posterior, Distribution):
            msg = (
                f"prior 'vampprior' needs q(z|X) as a distribution, but system "
                f"{system.settings.system!r} has an unnormalised density: use prior 'mixture'"
            )
            raise ConfigError(msg)
        return VampMixture(system.modalities, self.components, encode)

    def stages(self, system: Any, module: nn.Module) -> Sequence[StageSpec]:
        """One stage: maximum likelihood of draws of q(z|X), one of each row and step."""
        assert isinstance(module, VampMixture)

        def start(rows: Rows) -> None:
            order = generator(system.settings.seed, "prior", "rows").permutation(len(rows))
            order = order[np.argsort(_absent(rows)[order], kind="stable")]
            chosen = rows.subset([order[i % len(rows)] for i in range(self.components)])
            module.begin_at(chosen.batches(256), rows.subset(order).batches(256))

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            with torch.no_grad():
                z = module.encode(observed).sample()
            fit = module().log_prob(z).mean()
            return Losses(-fit, {"log_density": fit})

        needs = getattr(system, "encoder_stages", None) or tuple(s.name for s in system.stages())
        return [StageSpec("prior", module, self, loss, needs, start=start)]


class VampMixture(nn.Module):
    """Equal mixture of q(z|u_k).

    Args:
        modalities: of the pseudo-rows.
        components: how many.
        encode: rows of all modalities -> q(z|X); its networks are not this module's.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        components: int,
        encode: Callable[[Observed], Distribution],
    ) -> None:
        super().__init__()
        self.names, self.components = [m.name for m in modalities], components
        self.encode = encode
        for j, modality in enumerate(modalities):
            zeros = probe_rows(modality).repeat_interleave(components, 0)
            if zeros.is_floating_point():
                self.register_parameter(f"rows_{j}", nn.Parameter(zeros))
            else:
                self.register_buffer(f"rows_{j}", zeros)

    def pseudo_rows(self) -> dict[str, Tensor]:
        """Modality -> (components, *shape)."""
        return {name: getattr(self, f"rows_{j}") for j, name in enumerate(self.names)}

    @torch.no_grad()
    def begin_at(self, batches: Iterable[Batch], donors: Iterable[Batch] = ()) -> None:
        """Set the pseudo-rows to given rows of all modalities.

        Args:
            batches: the rows, as many as there are components.
            donors: rows of which the first ones with a value give what a given row lacks.
        """
        batches, pseudo = list(batches), self.pseudo_rows()
        absent = {}
        for name, rows in pseudo.items():
            rows.copy_(torch.cat([batch[name] for batch in batches]))
            if PRESENT + name in batches[0]:
                present = torch.cat([_present(batch, name) for batch in batches])
                absent[name] = ~present.expand_as(rows)
        for batch in donors if absent else ():
            for name, lacks in absent.items():
                present = _present(batch, name).expand_as(batch[name])
                for shift in range(len(present)):
                    if not lacks.any():
                        break
                    at = (torch.arange(len(lacks), device=lacks.device) + shift) % len(present)
                    filled = lacks & present[at]
                    pseudo[name].copy_(torch.where(filled, batch[name][at], pseudo[name]))
                    lacks &= ~filled

    def forward(self) -> MixtureSameFamily:
        """The distribution of z: batch shape (1,), event shape (latent.dim,)."""
        rows = self.pseudo_rows()
        each = self.encode(Observed(rows))
        device = rows[self.names[0]].device
        equal = torch.zeros(1, self.components, device=device, dtype=torch.float32)
        components = each.expand(torch.Size([1, self.components]))
        return MixtureSameFamily(Categorical(logits=equal), components)


def _present(batch: Batch, name: str) -> Tensor:
    """Which values of a modality are present, to be broadcast over them."""
    x = batch[name]
    mask = batch.get(PRESENT + name, torch.ones(len(x), dtype=torch.bool, device=x.device))
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def _absent(rows: Rows) -> NDArray[np.float64]:
    """How much each row lacks: shares of its modalities, summed."""
    counts = []
    for batch in rows.batches(2048):
        masks = [
            m.flatten(1) if m.ndim > 1 else m[:, None] for m in present_columns(batch).values()
        ]
        if not masks:
            return np.zeros(len(rows))
        counts.append(sum((~m).double().mean(1) for m in masks).cpu().numpy())
    return np.concatenate(counts)
