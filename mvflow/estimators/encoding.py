"""The encoding estimator: latents, projections and decoded modalities of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import (
    COVARIATES,
    PRESENT,
    Batch,
    DataError,
    Observed,
    UsageError,
    as_numbers,
    check_batch,
    check_seed,
    covariate_columns,
    fill_absent,
    present_columns,
    subset_of,
    unmask,
)
from mvflow.estimators.covariates import encoded_covariates, spread_covariates
from mvflow.estimators.fitting import check_scale
from mvflow.estimators.inputs import (
    CHUNK_ROWS,
    as_given,
    check_mapping,
    checked_latent,
    chunked,
    chunks_of,
    owned,
)
from mvflow.estimators.trainable import TrainableEstimator
from mvflow.inference import refuse
from mvflow.likelihoods import present_log_prob
from mvflow.nn import GapsNetwork, own_generator
from mvflow.systems import Encodes, Projects
from mvflow.systems.base import require_all_present
from mvflow.training import as_input

__all__ = ["EncodingEstimator", "Predictive"]


class Predictive(NamedTuple):
    """What p(x_j|z) says at draws of z, by modality."""

    mean: dict[str, NDArray[Any]]
    """(n, rows, *shape); class probabilities of a categorical modality."""
    draws: dict[str, NDArray[Any]]
    """(n, rows, *shape), with the likelihood's noise."""
    log_prob: dict[str, NDArray[np.float64]]
    """(n, rows): of the true values, in nats."""


class EncodingEstimator(TrainableEstimator):
    """An estimator that encodes rows to z, and decodes z."""

    @property
    def can_encode(self) -> bool:
        """Whether the system has a joint encoder q(z|X) besides its subset rule.

        Examples:
            >>> model.can_encode
            True
        """
        return isinstance(self._base_system(), Encodes)

    def encode(
        self, x: Batch, *, covariates: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of q(z|X), (rows, latent_dim) each, given all modalities.

        A model that was trained on rows that lack modalities takes such rows: it is q(z|x_S) of
        the joint encoder then.

        Args:
            x: all modalities, name -> (rows, *shape); of NumPy's masked arrays, and where a mask
                `present/NAME` says so, values are absent.
            covariates: name -> (rows,) values, for a model that has covariates.

        Raises:
            UsageError: if a modality is missing, or the system has no joint encoder.

        Examples:
            >>> loc, scale = model.encode(x)
            >>> loc.shape, bool((scale > 0).all())
            ((4, 2), True)
        """
        observed, system = self._checked(x, covariates), self._base_system()
        self._check_encodable(observed)
        chunks = chunked(observed)
        with torch.no_grad():
            encode = system.encode if isinstance(system, Encodes) else system.posterior
            posteriors = [encode(rows) for rows in chunks.parts]
            if not all(isinstance(q, Distribution) for q in posteriors):
                msg = f"system {self.config.system!r} has no q(z|X) with moments: use draw"
                raise UsageError(msg)
            loc, scale = (
                torch.cat([getattr(q, of) for q in posteriors]) for of in ("mean", "stddev")
            )
            finite = (loc.isfinite() & scale.isfinite()).all(-1)
            refuse(~finite, "mean or deviation of q(z|X) is not a finite number")
        means, deviations = (chunks.restored(t.cpu().numpy()) for t in (loc, scale))
        return as_given(means, x), as_given(deviations, x)

    def _check_encodable(self, observed: Observed) -> None:
        """Check that all modalities were given where q(z|X) needs them."""
        missing = [m.name for m in self.modalities if m.name not in observed.x]
        if missing and not (observed.x and getattr(self.system_, "encodes_subsets", False)):
            msg = f"q(z|X) needs all modalities, but {', '.join(missing)} is missing"
            raise UsageError(msg)
        if isinstance(self.system_, Encodes) and not getattr(
            self.system_, "encodes_subsets", False
        ):
            require_all_present(self.system_, observed, "train it on rows that lack some")

    @property
    def can_project(self) -> bool:
        """Whether the model has projections of each modality.

        Examples:
            >>> model.can_project, shared.can_project
            (False, True)
        """
        system = self._fitted_system()
        return isinstance(system, Projects) and system.projectors is not None

    def project(self, x: Batch) -> dict[str, NDArray[np.float32]]:
        """Shared information g_j(x_j) of each given modality, name -> (rows, width).

        Rows that lack the modality are NaN.

        Raises:
            UsageError: if the model has no projectors.

        Examples:
            >>> {name: g.shape for name, g in shared.project(x).items()}
            {'a': (4, 2), 'b': (4, 2)}
        """
        observed, system = self._checked(x, need_covariates=False), self._fitted_system()
        if not isinstance(system, Projects) or not self.can_project:
            msg = f"this {type(self).__name__} has no projectors: choose a projector"
            raise UsageError(msg)
        with torch.no_grad():
            projections = {}
            for name in observed.x:
                found = system.project(name, observed.encodable(name))
                if (here := observed.is_present(name)) is not None:
                    found = torch.where(here[:, None], found, torch.nan)
                projections[name] = found.cpu().numpy()
        return as_given(projections, x)

    def decode(
        self,
        z: ArrayLike,
        targets: Iterable[str] | None = None,
        *,
        covariates: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Means of p(x_j|z), name -> (..., *shape), for z of shape (..., latent_dim).

        A categorical modality gives class probabilities.

        Args:
            z: latents.
            targets: names of modalities; by default all.
            covariates: of the rows, the last length but one of z: name -> (rows,) values or one
                for all; for a model that has covariates. `LatentDraws.covariates` will do.

        Raises:
            DataError: if z is not of that shape.
            UsageError: if a covariate of the model is missing.

        Examples:
            >>> z = model.sample_latent(n=7)
            >>> {name: mean.shape for name, mean in model.decode(z).items()}
            {'a': (7, 1, 3), 'b': (7, 1, 2)}
        """
        specs = {m.name: m.likelihood_part for m in self.modalities}

        def means(i: int, decoded: Mapping[str, Distribution]) -> dict[str, Tensor]:
            return {name: specs[name].mean(p) for name, p in decoded.items()}

        return self._decoded(z, targets, covariates, means, 8 * CHUNK_ROWS)

    def simulate(
        self,
        z: ArrayLike,
        targets: Iterable[str] | None = None,
        *,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Draws of p(x_j|z), with the likelihood's noise, name -> (..., *row_shape).

        A categorical modality gives class numbers.

        Args:
            z: (..., latent_dim).
            targets: names of modalities; by default all.
            seed: of the draws; None gives fresh ones.
            covariates: as in `decode`.

        Examples:
            >>> z = model.encode(x)[0]
            >>> model.simulate(z, ["b"])["b"].shape
            (4, 2)
        """
        seed = check_seed(seed)

        def draws(i: int, decoded: Mapping[str, Distribution]) -> dict[str, Tensor]:
            samples = {}
            for name, p in decoded.items():  # each by itself, whatever else is drawn
                with own_generator(seed, "simulate", name, i, device=self._device):
                    samples[name] = p.sample()
            return samples

        return self._decoded(z, targets, covariates, draws, CHUNK_ROWS)

    def of_own_draws(self) -> Self:
        """An estimator that shares all weights, and takes what `simulate` draws.

        The noise of images leaves [0, 1], beyond which other images of such numbers are refused.

        Examples:
            >>> rows = model.simulate(model.encode(x)[0])
            >>> model.of_own_draws().draw(rows).z.shape
            (1, 4, 2)
        """
        made = copy(self)
        made.records_ = {name: replace(r, bytes=[]) for name, r in self.records_.items()}
        return made

    def has_noise(
        self,
        targets: Iterable[str] | None = None,
        noise: bool | Mapping[str, bool] | None = None,
    ) -> dict[str, bool]:
        """Whether `generate` gives draws of p(x_j|z) rather than its means, by modality.

        Args:
            targets: names of modalities; by default all.
            noise: for all alike, or by modality; None, and for those not named: as the
                likelihood of each has it, which says draws for tables and means for images and
                classes.

        Examples:
            >>> model.has_noise(), model.has_noise(noise=False)
            ({'a': True, 'b': True}, {'a': False, 'b': False})
        """
        specs = {m.name: m for m in self.modalities}
        wanted = subset_of(specs if targets is None else targets, self.modalities)
        own = {n: specs[n].likelihood_part.draws_by_default(specs[n].shape) for n in wanted}
        if isinstance(noise, bool):
            return dict.fromkeys(wanted, noise)
        return own | {n: bool(of) for n, of in (noise or {}).items() if n in own}

    def _decoded(
        self,
        z: ArrayLike,
        targets: Iterable[str] | None,
        covariates: Mapping[str, Any] | None,
        take: Callable[[int, Mapping[str, Distribution]], dict[str, Tensor]],
        size: int,
    ) -> dict[str, NDArray[Any]]:
        """What `take` makes of p(x_j|z), for so many latents at once: means or draws."""
        self._base_system()
        given_z, z = z, checked_latent(z, self.system_.latent.dim)
        names = [m.name for m in self.modalities]
        wanted = subset_of(names if targets is None else targets, self.modalities)
        chunks = torch.from_numpy(z.reshape(-1, z.shape[-1])).split(size)
        covariates_of = self._covariate_chunks(covariates, z.shape[:-1], size)

        @torch.no_grad()
        def chunk(i: int) -> dict[str, NDArray[Any]]:
            decoded = self.system_.decode(chunks[i].to(self._device), wanted, covariates_of(i))
            taken = take(i, decoded)
            for name, x in taken.items():
                bad = ~x.reshape(len(x), -1).isfinite().all(1)
                refuse(bad, f"the decoded modality {name!r} is not finite")
            return {name: x.cpu().numpy() for name, x in taken.items()}

        parts = self._map_chunks(chunk, len(chunks))
        flat = {name: np.concatenate([p[name] for p in parts]) for name in wanted}
        shaped = {name: x.reshape(*z.shape[:-1], *x.shape[1:]) for name, x in flat.items()}
        return as_given(shaped, {"z": given_z})

    def predictive(
        self,
        z: ArrayLike,
        x: Batch,
        *,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> Predictive:
        """Means and draws of p(x_j|z) with the density of true values, of each modality of x.

        Args:
            z: (n, rows, latent_dim).
            x: values of as many rows.
            seed: of the draws; None gives fresh ones.
            covariates: as in `decode`.

        Examples:
            >>> scored = model.predictive(np.zeros((5, 4, 2)), {"b": x["b"]})
            >>> scored.mean["b"].shape, scored.draws["b"].shape, scored.log_prob["b"].shape
            ((5, 4, 2), (5, 4, 2), (5, 4))
        """
        observed, seed = self._checked(x, need_covariates=False), check_seed(seed)
        z = checked_latent(z, self.system_.latent.dim, observed.rows)
        parts: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
        specs = {m.name: m.likelihood_part for m in self.modalities}
        for i, rows in enumerate(chunks_of(observed)):
            at = slice(i * CHUNK_ROWS, i * CHUNK_ROWS + rows.rows)
            own = {k: np.asarray(v)[at] for k, v in (covariates or {}).items()}
            flat = torch.from_numpy(np.ascontiguousarray(z[:, at])).to(self._device)
            encoded = self._covariate_chunks(own, flat.shape[:-1], flat[..., 0].numel())(0)
            with own_generator(seed, "simulate", i, device=self._device), torch.no_grad():
                decoded = self.system_.decode(flat.flatten(0, 1), rows.x.keys(), encoded)
                parts.append({})
                for name, value in rows.x.items():
                    q, shape = decoded[name], flat.shape[:2]
                    repeated = value.repeat(len(z), *[1] * (value.ndim - 1))
                    mask = (rows.present or {}).get(name)
                    shown = None if mask is None else mask.repeat(len(z), *[1] * (mask.ndim - 1))
                    density = present_log_prob(q, repeated, shown).double()
                    values = specs[name].mean(q), q.sample(), density
                    parts[-1][name] = tuple(t.unflatten(0, shape).cpu() for t in values)
        joined = [
            {name: torch.cat([p[name][k] for p in parts], 1).numpy() for name in observed.x}
            for k in range(3)
        ]
        return Predictive(*joined)

    @property
    def _device(self) -> torch.device:
        return self.system_.device

    def _covariate_chunks(
        self, covariates: Mapping[str, Any] | None, shape: tuple[int, ...], size: int
    ) -> Callable[[int], dict[str, Tensor] | None]:
        """Number of a chunk of so many latents -> their encoded covariates."""
        specs = self.config.covariate_specs()
        encoded = encoded_covariates(covariates, specs)
        if not specs:
            return lambda i: None
        spread = {
            name: torch.from_numpy(owned(x)).split(size)
            for name, x in spread_covariates(encoded, shape, specs).items()
        }
        return lambda i: {name: parts[i].to(self._device) for name, parts in spread.items()}

    def _check_gaps(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Check that an encoder takes rows of which a part is present, bool (rows, values)."""
        partial = mask.any(1) & ~mask.all(1)
        if partial.any() and not isinstance(self.config.modalities[name].encoder, GapsNetwork):
            msg = (
                f"row {int(np.argmax(partial))} of modality {name!r} has absent values, but its "
                "encoder was trained on rows without: train a model with "
                f"modalities.{name}.encoder.kind='gaps', or leave such rows out"
            )
            raise UsageError(msg)

    def _checked(
        self,
        given: Batch | None,
        covariates: Mapping[str, Any] | None = None,
        *,
        need_covariates: bool = True,
    ) -> Observed:
        """What is observed of some rows: modalities, and covariates as values or as columns."""
        self._base_system()
        check_mapping(given)
        columns = covariate_columns(given or {})
        masks = {k.removeprefix(PRESENT): m for k, m in present_columns(given or {}).items()}
        named = {
            n: x
            for n, x in (given or {}).items()
            if n not in columns and not n.startswith(PRESENT)
        }
        named, present = unmask(named, masks)
        named = {
            n: fill_absent(n, as_numbers(x, f"modality {n!r}"), present[n]) if n in present else x
            for n, x in named.items()
        }
        batch = check_batch(named, self.modalities)
        rows, specs = len(next(iter(batch.values()), ())), self.config.covariate_specs()
        encoded = encoded_covariates({**columns, **(covariates or {})}, specs, rows or None)
        if batch and need_covariates:
            spread_covariates(encoded, (rows,), specs)
        seen_bytes = {n for record in self.records_.values() for n in record.bytes}
        for name, values in batch.items():
            if len(values) == 0:
                msg = f"modality {name!r} has no rows"
                raise DataError(msg)
            check_scale(name, values, seen_bytes)
        for name, mask in present.items():
            self._check_gaps(name, mask.reshape(len(mask), -1))
        arrays = {
            **batch,
            **{PRESENT + k: mask for k, mask in present.items() if not mask.all()},
            **{COVARIATES + k: v for k, v in encoded.items()},
        }
        tensors = {k: torch.from_numpy(owned(v)).to(self._device) for k, v in arrays.items()}
        return Observed.from_columns({k: as_input(x) for k, x in tensors.items()})
