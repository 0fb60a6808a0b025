"""The generative estimator: draws of z given any modalities, and what they decode to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.config import with_part
from mvflow.core import (
    COVARIATES,
    Batch,
    Observed,
    UnreliableDrawsWarning,
    UsageError,
    as_numbers,
    check_count,
    check_seed,
    registry,
    subset_of,
    unknown_name,
)
from mvflow.core.parts import create, dump
from mvflow.estimators.empty_rows import in_place, observed_rows, rows_of, warn_of_empty
from mvflow.estimators.encoding import EncodingEstimator
from mvflow.estimators.inputs import as_given, check_mapping, chunked
from mvflow.inference import Diagnostics, DrawsWithDensity, Guidable, Sampler, Target, draw
from mvflow.nn import own_generator
from mvflow.systems import Bounded, Encodes, Guides, LearnsPrior
from mvflow.systems.base import LearnedPrior

__all__ = ["GenerativeEstimator", "LatentDraws"]

STANDARD = "standard"
"""Name of the prior of the model itself."""


class LatentDraws(NamedTuple):
    """Draws of z given some modalities, as NumPy arrays."""

    z: NDArray[np.float32]
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics
    covariates: Mapping[str, NDArray[np.float32]] = {}
    """`covariates/NAME` -> (rows, width): encoded covariates of the rows, for `decode`."""


class GenerativeEstimator(EncodingEstimator):
    """An estimator that draws z given some modalities, and generates others."""

    def draw(
        self,
        given: Batch | None = None,
        n: int = 1,
        *,
        seed: int | None = 0,
        sampler: Any = None,
        combine: bool = False,
        prior: str | None = None,
        guidance: float | None = None,
        covariates: Mapping[str, Any] | None = None,
    ) -> LatentDraws:
        """Draw z from q(z|x_S), with diagnostics.

        Args:
            given: observed modalities, name -> (rows, *shape). None: draws from the prior, as
                for one row. A row may lack some, in NumPy's masked arrays or by a mask
                `present/NAME`: it is conditioned on what it has.
            n: draws per row.
            seed: of these draws; None gives fresh ones. They hang on it and on how many rows are
                asked for at once, up to 256, not on what the other rows hold: networks and
                generators round and count differently for arrays of another size.
            sampler: another sampler by name, which keeps the settings that it has too, or as an
                object; or changes to the configured one, such as {"warmup": 200}.
            combine: even where all modalities are given, do without q(z|X) and combine posteriors
                as for other subsets.
            prior: where nothing is given, one of `priors()`; by default the last of them.
            guidance: how much more than the posterior does draws follow what is given, for subset
                rules that have it: w in v + w (v - v_0). Such draws are not posterior draws. By
                default as the configuration has it; q(z|X), of all modalities, is never guided.
            covariates: of the given rows, for a model that has some: name -> (rows,) values, or
                one for all. Columns `covariates/NAME` of a source may be among `given` instead.

        Raises:
            ConfigError: if `sampler` has an unknown key or a value that cannot be used.
            DataError: if the data do not fit the modalities or are not finite.
            NotFittedError: if a stage has not been trained.
            UsageError: if there is no such prior, or sampler, or no guidance.

        Examples:
            >>> drawn = model.draw({"a": x["a"]}, n=5)
            >>> drawn.z.shape, drawn.diagnostics.method
            ((5, 4, 2), 'exact')
        """
        seed, n = check_seed(seed), check_count(n)
        check_mapping(given)
        is_given = any(m.name in (given or {}) for m in self.modalities)
        source = None if is_given else self._prior(prior)
        if is_given:
            self._check_fitted()
        observed = self._checked(given, covariates)
        algorithm, weight = self._sampler(sampler), self._guidance(guidance)
        order = chunked(observed)
        chunks = order.parts

        def chunk(i: int) -> dict[str, NDArray[Any]]:
            rows = chunks[i]
            with own_generator(seed, "draw", i, device=self._device), torch.no_grad():
                posterior = self._posterior(rows, combine) if source is None else source()
                if weight and isinstance(posterior, Guidable):
                    posterior = posterior.guided(weight)
                drawn = draw(posterior, n, algorithm, self._ball if rows.x else torch.inf)
            numbers = drawn.diagnostics._asdict()
            method = np.frombuffer(numbers.pop("method").encode(), np.uint8)
            return {"z": drawn.z.cpu().numpy(), "method": method, **numbers}

        parts = self._map_chunks(chunk, len(chunks))
        joined = {
            k: np.concatenate([p[k] for p in parts], int(k == "z"))
            for k in parts[0]
            if k != "method"
        }
        methods = [part["method"].tobytes().decode() for part in parts]
        method = next((m for m in methods if m != "exact"), "exact")
        z = order.restored(joined.pop("z"), 1)
        joined = {k: order.restored(v) for k, v in joined.items()}
        columns = {COVARIATES + k: v.cpu().numpy() for k, v in (observed.covariates or {}).items()}
        return LatentDraws(z, Diagnostics(method, **joined), columns)

    def sample_latent(
        self, given: Batch | None = None, n: int = 1, **options: Any
    ) -> NDArray[np.float32]:
        """Draws of z, (n, rows, latent_dim); options as in `draw`.

        Warns:
            UnreliableDrawsWarning: if their diagnostics are bad.

        Examples:
            >>> model.sample_latent({"a": x["a"]}, n=5).shape
            (5, 4, 2)
        """
        return as_given(self._warned(self.draw(given, n, **options)).z, given)

    def transform(
        self,
        x: Batch,
        *,
        n: int = 100,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
        return_std: bool = False,
    ) -> Any:
        """Posterior mean of z given the modalities of x, (rows, latent_dim).

        In rows that have all modalities it is the mean of q(z|X), in others that of `n` draws;
        NaN where nothing is given. `covariates` as in `draw`.

        Args:
            x: modalities, name -> (rows, *shape), as in `draw`.
            n: draws per row.
            seed: of the draws.
            covariates: of the rows.
            return_std: return the standard deviations of z, too.

        Warns:
            UnreliableDrawsWarning: if diagnostics are bad, or nothing is given of some rows.

        Examples:
            >>> model.transform(x).shape
            (4, 2)
            >>> [of.shape for of in model.transform({"a": x["a"]}, return_std=True)]
            [(4, 2), (4, 2)]
        """
        check_mapping(x)
        has_all = {*x} >= {m.name for m in self.modalities} and self.can_encode
        observed = self._checked(x, covariates)
        options: dict[str, Any] = {"n": n, "seed": seed}
        if has_all and not observed.present:
            both = self.encode(x, covariates=covariates)
            return both if return_std else both[0]
        if not (has := observed_rows(observed)).all():
            warn_of_empty(has, observed.x)
            some, own = (rows_of(of, has) for of in (x, covariates or {}))
            known = self.transform(some, covariates=own, return_std=True, **options)
            both = tuple(as_given(in_place(as_numbers(of, "z"), has), x) for of in known)
            return both if return_std else both[0]
        guidance = None if self._guidance(None) is None else 0.0
        drawn = self.draw(x, guidance=guidance, covariates=covariates, **options)
        z = self._warned(drawn).z
        means, deviations = z.mean(0), z.std(0)
        chunks = chunked(observed)
        for i, rows in enumerate(chunks.parts if has_all else ()):
            if len(rows.x) == len(self.modalities) and isinstance(self.system_, Encodes):
                with torch.no_grad():
                    q = self.system_.encode(rows)
                means[chunks.at(i)] = q.mean.cpu().numpy()
                deviations[chunks.at(i)] = q.stddev.cpu().numpy()
        means, deviations = (as_given(of, x) for of in (means, deviations))
        return (means, deviations) if return_std else means

    @staticmethod
    def _warned(drawn: LatentDraws) -> LatentDraws:
        moved = drawn.diagnostics.moved
        if rows := int(np.sum(moved > 0)):
            msg = (
                f"{rows} of {len(moved)} rows are unlike the training rows: their posterior lies "
                "outside the ball of all latents, to whose surface draws were moved"
            )
            warnings.warn(msg, UnreliableDrawsWarning, stacklevel=3)
        doubts = drawn.diagnostics.doubts()
        if doubts:
            msg = f"these draws are not to be trusted: {doubts}; draw longer chains (sampler=)"
            warnings.warn(msg, UnreliableDrawsWarning, stacklevel=3)
        return drawn

    def generate(
        self,
        given: Batch | None = None,
        n: int = 1,
        *,
        targets: Iterable[str] | None = None,
        full_output: bool = False,
        noise: bool | Mapping[str, bool] | None = None,
        hold: Mapping[str, Any] | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> Any:
        """Generate modalities from observed ones: draws or means of p(x_j|z) at draws of z.

        Args:
            given: observed modalities; None generates from the prior, as for one row.
            n: draws per row.
            targets: what to generate; by default all modalities that are not given.
            full_output: return the draws of z with their diagnostics, too.
            noise: draws of p(x_j|z), with the likelihood's noise, as intervals and quantiles need
                them (True), or its means (False), or either by modality. None: as the likelihood
                has it: draws for tables, means for images and classes (`has_noise`).
            seed: of all draws, as in `draw`; None gives fresh ones.
            hold: covariates that decoders see in place of the rows' own: with
                `generate(rows, covariates={"batch": batches}, hold={"batch": "A"})` all is
                generated as if it were of batch A, which takes the effect of the batch out.
            options: as in `draw`.

        Returns:
            name -> (n, rows, *shape), draws of classes (n, rows); torch tensors where tensors were
            given; with `full_output` a pair of these and `LatentDraws`.

        Warns:
            UnreliableDrawsWarning: if diagnostics are bad and `full_output` does not return them.

        Examples:
            >>> made = model.generate({"a": x["a"]}, n=5)
            >>> {name: values.shape for name, values in made.items()}
            {'b': (5, 4, 2)}
        """
        check_mapping(given)
        names = [m.name for m in self.modalities]
        missing = [name for name in names if name not in (given or {})]
        wanted = subset_of(targets, self.modalities) if targets is not None else missing or names
        seed = check_seed(seed)
        drawn = self.draw(given, n, seed=seed, **options)
        z = (drawn if full_output else self._warned(drawn)).z
        seen = {**drawn.covariates, **(hold or {})}
        has_noise = self.has_noise(wanted, noise)
        means = self.decode(z, [n for n in wanted if not has_noise[n]], covariates=seen)
        noisy = [n for n in wanted if has_noise[n]]
        draws = self.simulate(z, noisy, seed=seed, covariates=seen)
        both = {**means, **draws}
        generated = as_given({name: both[name] for name in wanted}, given)
        return (generated, drawn) if full_output else generated

    def needs_sampler(self, given: Batch) -> bool:
        """Whether draws given these rows of modalities need a sampler, as a product's do.

        Examples:
            >>> model.needs_sampler({"a": x["a"]})
            False
        """
        self._check_fitted()
        return any(
            not isinstance(self._posterior(rows, False), Distribution)
            for rows in chunked(self._checked(given)).parts
        )

    def solves_densities(self, given: Batch) -> bool:
        """Whether log q(z|x_S) given these rows is solved for at every z, which costs much.

        Examples:
            >>> model.solves_densities({"a": x["a"]})
            False
        """
        self._check_fitted()
        return any(
            isinstance(self._posterior(rows, False), DrawsWithDensity)
            for rows in chunked(self._checked(given)).parts
        )

    def priors(self) -> list[str]:
        """Names of the priors to draw from: p(z) of the model, then a fitted or learned one.

        Examples:
            >>> model.priors()
            ['standard']
        """
        if self._base_system().fitted_prior is not None:
            return [STANDARD, *([self.config.prior.kind] if "prior" in self.records_ else [])]
        learned = self._learned_prior()
        return [STANDARD, *([learned.name] if learned and learned.stage in self.records_ else [])]

    @property
    def guidance(self) -> float | None:
        """How much draws follow what is given beyond the posterior; None: there is no guidance.

        Examples:
            >>> model.guidance is None
            True
        """
        self._plan()
        return self._guidance(None)

    def with_guidance(self, weight: float) -> Self:
        """An estimator that shares all weights, whose draws are guided so much by default.

        Raises:
            UsageError: if it has no guidance.

        Examples:
            >>> JNF(specs, latent_dim=2, subset="matching").with_guidance(1.5).guidance
            1.5
        """
        self._plan()
        update = {"guidance": self._guidance(weight)}
        parts = {name: getattr(self.config, name) for name in type(self.config).model_fields}
        guided = {
            n: p.model_copy(update=update) for n, p in parts.items() if hasattr(p, "guidance")
        }
        return self.with_settings(**guided)

    @property
    def radius(self) -> float:
        """Radius of the ball in which draws given observations lie; infinity for none.

        Examples:
            >>> model.radius > 0
            True
        """
        self._base_system()
        return float(self._ball)

    @property
    def _ball(self) -> Tensor | float:
        return self.system_.radius if isinstance(self.system_, Bounded) else torch.inf

    def _posterior(self, observed: Observed, combine: bool) -> Distribution | Target:
        if combine and isinstance(self.system_, Encodes):
            return self.system_.combine(observed)
        return self.system_.posterior(observed)

    def _prior(self, name: str | None) -> Callable[[], Distribution]:
        """The prior of a name; by default the configured one."""
        system, known = self._base_system(), self.priors()
        learned = None if system.fitted_prior is not None else self._learned_prior()
        if name is None and system.fitted_prior is not None:
            self._check_fitted(["prior"])
        if name is None and learned is not None:
            self._check_fitted([learned.stage])
        chosen = known[-1] if name is None else name
        if chosen not in known:
            raise UsageError(unknown_name("prior", chosen, known))
        if chosen == STANDARD:
            return system.prior
        if learned is not None:
            return learned.distribution
        assert system.fitted_prior is not None
        return system.fitted_prior

    def _learned_prior(self) -> LearnedPrior | None:
        return self.system_.learned_prior if isinstance(self.system_, LearnsPrior) else None

    def _guidance(self, weight: float | None) -> float | None:
        """How much draws are guided; None where that cannot be."""
        own = self.system_.guidance if isinstance(self.system_, Guides) else None
        if weight is None:
            return own
        if own is None:
            rule, rules = self.system_.facts().get("subset"), registry("subsets")
            what = f"system {self.config.system!r}" if rule is None else f"subset rule {rule!r}"
            able = [n for n in rules.names() if "guidance" in rules.load(n).model_fields]
            having = f"a subset rule that has it ({', '.join(able)})"
            msg = f"{what} has no guidance: leave it out, or train {having}"
            raise UsageError(msg)
        if not 0 <= weight < math.inf:
            msg = f"guidance is {weight}: expected a number from 0 on"
            raise UsageError(msg)
        return float(weight)

    def _sampler(self, changes: Any) -> Sampler:
        if changes is None:
            return self.config.sampler
        if isinstance(changes, str):
            return with_part(self.config, "sampler", changes).sampler
        if isinstance(changes, Mapping) and "kind" not in changes:
            changes = {**dump(self.config.sampler, "samplers"), **changes}
        sampler: Sampler = create("samplers", changes)
        return sampler
