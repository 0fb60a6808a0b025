"""Encoders and decoders of all modalities, and the likelihoods that decoders' outputs mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Config
from mvflow.core import PRESENT, ConfigError, Covariate, LatentSpace, Modality, Observed
from mvflow.likelihoods import LikelihoodModule
from mvflow.nn import (
    MeasuredInputs,
    ModalityDict,
    concurrently,
    encode_rows,
    join_covariates,
    total_width,
    upcast_to_float32,
)
from mvflow.stages import Rows

__all__ = [
    "Decoders",
    "Encoders",
    "build_decoders",
    "build_encoder",
    "build_encoders",
    "measure_inputs",
    "network_settings",
    "present_values",
]


BLOCK_ROWS = 2048
"""Rows that are read at once."""


class Decoders(ModalityDict):
    """p(x_j|z) of every modality.

    Args:
        modalities: their specifications.
        networks: name -> network from (rows, features) to the outputs of the likelihood.
        latent: z, of which each decoder sees the shared parts and its own.
        covariates: which decoders see besides.
    """

    def __init__(
        self,
        modalities: Iterable[Modality],
        networks: Mapping[str, object],
        latent: LatentSpace,
        covariates: Iterable[Covariate] = (),
    ) -> None:
        super().__init__(networks)  # type: ignore[arg-type]
        self.latent = latent
        specs = {c.name: c for c in covariates}
        self.covariates = tuple(specs)
        modalities = tuple(modalities)
        for m in modalities:
            self.add_module(f"likelihood_{m.name}", LikelihoodModule(m.likelihood_part, m.shape))
        self._sizes = {m.name: size for m in modalities if (size := _size_of(m, specs))}

    def likelihood(self, name: str) -> LikelihoodModule:
        """The likelihood of a modality."""
        likelihood = self.get_submodule(f"likelihood_{name}")
        assert isinstance(likelihood, LikelihoodModule)
        return likelihood

    def measure(self, rows: Rows) -> None:
        """Let likelihoods take what they need of all training rows, before training begins."""
        for name in self:
            self.likelihood(name).measure(partial(present_values, rows, name))

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z) for z of shape (..., latent.dim), of each modality or of the named ones.

        Args:
            z: latents.
            names: of modalities.
            covariates: name -> (..., width), for as many rows as z has.
        """
        return {
            name: self.likelihood(name)(
                self._raw(name, z, covariates), self._size(name, covariates)
            )
            for name in self
            if names is None or name in names
        }

    def log_prob(self, z: Tensor, observed: Observed) -> dict[str, Tensor]:
        """Log p(x_j|z) in nats per row of each observed modality, summed over what is present.

        Args:
            z: (..., rows, latent.dim).
            observed: of these rows.
        """
        present = observed.present or {}

        def of(name: str) -> Tensor:
            raw = self._raw(name, z, observed.covariates)
            size = self._size(name, observed.covariates)
            return self.likelihood(name).log_prob(raw, observed.x[name], present.get(name), size)

        names = sorted(observed.x)
        return dict(zip(names, concurrently([partial(of, name) for name in names]), strict=True))

    def mean(self, name: str, distribution: Distribution) -> Tensor:
        """What is generated without noise from `decode`'s distribution of a modality."""
        return self.likelihood(name).mean(distribution)

    def _size(self, name: str, covariates: Mapping[str, Tensor] | None) -> Tensor | None:
        """Number that scales each row of a modality, in its own units, if there is one."""
        if name not in self._sizes:
            return None
        covariate = self._sizes[name]
        encoded = join_covariates([covariate.name], covariates)
        return encoded.double() * covariate.scale + covariate.mean

    def _raw(self, name: str, z: Tensor, covariates: Mapping[str, Tensor] | None) -> Tensor:
        seen = self.latent.seen_by(name, z)
        if self.covariates:
            joined = join_covariates(self.covariates, covariates)
            seen = torch.cat([seen, joined.expand(*z.shape[:-1], joined.shape[-1])], -1)
        outputs: Tensor = self[name](seen.reshape(-1, seen.shape[-1]))
        return outputs if z.ndim == 2 else outputs.unflatten(0, z.shape[:-1])


class Encoders(ModalityDict):
    """One encoder of each modality, all of one width; what is absent is never read."""

    def forward(self, observed: Observed) -> tuple[Tensor, Tensor]:
        """Features of all observed modalities by name, and the rows in which each is present.

        Returns:
            Features (modalities, rows, width), bool (modalities, rows).
        """
        names = sorted(observed.x)
        calls = [
            partial(encode_rows, self[n], observed.encodable(n), observed.covariates)
            for n in names
        ]
        features = torch.stack(concurrently(calls))
        everywhere = torch.ones_like(features[0, :, 0], dtype=torch.bool)
        masks = [everywhere if (m := observed.is_present(n)) is None else m for n in names]
        return upcast_to_float32(features), torch.stack(masks)


def _size_of(modality: Modality, covariates: Mapping[str, Covariate]) -> Covariate | None:
    name = modality.likelihood_part.size_covariate
    if name is None:
        return None
    if name not in covariates or covariates[name].levels is not None:
        known = ", ".join(n for n, c in covariates.items() if c.levels is None) or "none"
        msg = (
            f"the likelihood of {modality.name!r} has library={name!r}, which is no covariate "
            f'that is a number: such covariates are {known}; or say "observed" or "none"'
        )
        raise ConfigError(msg)
    return covariates[name]


def present_values(rows: Rows, name: str) -> Iterator[Tensor]:
    """Rows of a modality, some at a time; NaN where a value is absent."""
    for batch in rows.only(name).batches(BLOCK_ROWS):
        x, present = batch[name], batch.get(PRESENT + name)
        if present is not None:
            wide = present.reshape(*present.shape, *([1] * (x.ndim - present.ndim)))
            x = torch.where(wide, x, torch.nan)
        yield x


@torch.no_grad()
def measure_inputs(networks: ModalityDict, rows: Rows) -> None:
    """Let the first layers of networks by modality take what they need of all training rows."""
    for name, network in networks.items():
        inner: set[nn.Module] = set()
        for part in network.modules():
            if isinstance(part, MeasuredInputs) and part not in inner:
                part.measure(partial(present_values, rows, name))
                inner.update(part.modules())


def build_encoder(config: Config, modality: Modality, out_features: int) -> nn.Module:
    """The configured encoder of a modality, which sees the covariates if there are any.

    Call it by `mvflow.nn.encode_rows`.
    """
    network, covariates = config.modalities[modality.name].encoder, config.covariate_specs()
    encoder: nn.Module = (
        network.conditional_encoder(modality, out_features, covariates)
        if covariates
        else network.encoder(modality, out_features)
    )
    return encoder


def build_encoders(config: Config, out_features: int) -> Encoders:
    """The configured encoders, from rows of a modality to (rows, out_features)."""
    return Encoders(
        {m.name: build_encoder(config, m, out_features) for m in config.specifications()}
    )


def network_settings(config: Config) -> dict[str, Any]:
    """All settings that encoders and decoders depend on, for a stage that trains them."""
    kept = {"shape", "likelihood", "weight", "encoder", "decoder"}
    sections = {n: m.model_dump(mode="json", include=kept) for n, m in config.modalities.items()}
    return {"latent_dim": config.latent_dim, "modalities": sections}


def build_decoders(config: Config, latent: LatentSpace) -> Decoders:
    """The configured decoders.

    Raises:
        ConfigError: if a network cannot make the outputs of its modality's likelihood.
    """
    specs, covariates = config.specifications(), config.covariate_specs()
    width = total_width(covariates)
    widths = {
        m.name: width + sum(part.dim for part in latent.parts if part.of in (None, m.name))
        for m in specs
    }
    networks = {
        m.name: config.modalities[m.name].decoder.decoder(widths[m.name], m) for m in specs
    }
    return Decoders(specs, networks, latent, covariates)
