"""What every estimator does: fit, draw, generate, score, save. NumPy in, NumPy out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mvflow.config import (
    Config,
    SamplerConfig,
    all_stages,
    config_from_dict,
    recipe,
    stage_names,
    stages_before,
)
from mvflow.core import (
    Batch,
    DataError,
    Modality,
    NotFittedError,
    Source,
    UsageError,
    as_source,
    check_batch,
    fingerprint,
    subset_of,
    unknown_name,
)
from mvflow.estimators.fitting import check_fits, restored, train_stage
from mvflow.estimators.scoring import Part, log_likelihood
from mvflow.inference import Diagnostics, draw, subset_posterior
from mvflow.models import build_amortised, build_model, build_prior
from mvflow.nn import seeded
from mvflow.runs import RunDirectory
from mvflow.training import Callback, Processes, Table, as_input, check_compile, free_memory

__all__ = ["Estimator", "LatentDraws"]

CHUNK = 256
"""Rows that are drawn, decoded or encoded at once."""


PRIORS = ("standard", "mixture")
"""What may be drawn where nothing is observed."""


class LatentDraws(NamedTuple):
    """Draws of z given some modalities, as NumPy arrays."""

    z: NDArray[np.float32]
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics


class Estimator:
    """A multimodal generative model with a NumPy face.

    The constructor stores its configuration; `fit` trains and returns the estimator. Use a
    concrete class: `JNF` or `JNFShared`.

    Attributes:
        config: everything that defines the model and its training.
        model_: the trained torch module, after `fit` or `load`.
        trained_: names of the stages trained so far.
    """

    kind: ClassVar[str]
    _processes: Processes | None = None

    def __init__(self, modalities: Sequence[Modality], latent_dim: int, **sections: Any) -> None:
        names = [m.name for m in modalities]
        if len(set(names)) != len(names):
            msg = f"two modalities have the same name: {', '.join(sorted(names))}"
            raise UsageError(msg)
        specs: dict[str, dict[str, Any]] = {
            m.name: {
                k: v for k, v in dataclasses.asdict(m).items() if k != "name" and v is not None
            }
            for m in modalities
        }
        for name, networks in sections.pop("networks", {}).items():
            specs[subset_of([name], modalities)[0]].update(networks)
        raw = {"latent_dim": latent_dim, "modalities": specs, **sections}
        self._take_config(config_from_dict({**raw, "model": self.kind}))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """An untrained estimator of a complete configuration."""
        new = cls.__new__(cls)
        new._take_config(config.model_copy(update={"model": cls.kind}))
        return new

    @classmethod
    def from_recipe(cls, name: str, *assignments: str) -> Self:
        """An untrained estimator of a named recipe, with `section.key=value` changes.

        Raises:
            ConfigError: if the recipe or a key is unknown.
        """
        return cls.from_config(config_from_dict(recipe(name, assignments)))

    def _take_config(self, config: Config) -> None:
        self.config = config
        self.trained_: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications, sorted by name."""
        return self.config.specifications()

    # Training

    def fit(
        self,
        source: Source | Batch,
        *,
        seed: int | None = None,
        validation: Source | Batch | None = None,
        stages: Sequence[str] | None = None,
        run: RunDirectory | None = None,
        device: str = "cpu",
        listener: Callback | None = None,
        compile: str = "auto",
    ) -> Self:
        """Train all stages, or the named ones, in order.

        Args:
            source: training rows; a dict of arrays will do.
            seed: replaces the configuration's seed.
            validation: held-out rows; by default a share of `source`.
            stages: names of stages to train, each from its initial weights; those that they
                need must have been trained. Flows that rest on what is trained anew are dropped.
            run: where to keep checkpoints, history and weights. A stage that was interrupted
                there goes on where it was, and ends as if it had never been interrupted.
            device: "cpu", "cuda", "cuda:1"...
            listener: hears of progress.
            compile: "graph" replays each training step as a CUDA graph, "torch" compiles the
                losses with `torch.compile`, "no" does neither; "auto" is "graph" on CUDA.

        Returns:
            This estimator.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            NumericsError: if a loss is not finite.
            StageError: if a stage is asked for before those it needs.
            UsageError: if there is no stage of a given name, or no such way to compile.
        """
        way = check_compile(compile)
        if seed is not None:
            self.config = config_from_dict({**self.config.model_dump(), "seed": seed})
            if run is not None and self._leads:
                run.write_config(self.config)
        train = as_source(source, self.modalities)
        check_fits(train, self.modalities)
        held = None if validation is None else as_source(validation, self.modalities)
        names = stage_names(self.config)
        wanted = names if stages is None else tuple(stages)
        for stage in wanted:
            if stage not in names:
                raise UsageError(unknown_name("stage", stage, names))
        if not self.trained_:
            self.model_ = build_model(self.config)
        elif "amortised" in wanted and self.model_.amortised is None:
            self.model_.amortised = build_amortised(self.config)
        if "prior" in wanted and self.model_.prior is None:
            self.model_.prior = build_prior(self.config)
        self.model_.to(device)
        self._forget(wanted)
        if self._processes is not None:
            self._processes.assert_same_on_all_ranks(
                (self.config, fingerprint(train)), "what is trained differs"
            )
        budget = free_memory(device)
        rows = Table.of(train, device, budget)
        held_rows = None if held is None else Table.of(held, device, budget)
        for stage in names:
            if stage in wanted:
                train_stage(
                    stage,
                    self.model_,
                    self.config,
                    rows,
                    held_rows,
                    trained=self.trained_,
                    run=run if self._leads else None,
                    data=fingerprint(train),
                    listener=listener if self._leads else None,
                    processes=self._processes,
                    compile=way,
                )
                self.trained_ = (*self.trained_, stage)
        self.model_.eval().requires_grad_(False)
        return self

    def across(self, processes: Processes | None) -> Self:
        """Train, draw, decode and score with several processes that all run the same program.

        Each takes a part of every batch in training, and some of the rows elsewhere; all get the
        result, which is that of one process (draws to the bit). Of the files of a run, the
        process that leads writes all.

        Args:
            processes: from `mvflow.training.connect`; None goes back to this one alone.

        Returns:
            This estimator.
        """
        self._processes = processes
        return self

    # Drawing

    def draw(
        self,
        given: Batch | None = None,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Mapping[str, Any] | None = None,
        product: bool = False,
        subset: str | None = None,
        prior: str | None = None,
    ) -> LatentDraws:
        """Draw z from q(z|x_S), with diagnostics.

        Args:
            given: observed modalities, name -> (rows, *shape). None: draws from the prior, as
                for one row.
            n: draws per row.
            seed: of these draws.
            sampler: changes to the configured sampler, such as {"warmup": 200}.
            product: do without q(z|X) even where all modalities are given.
            subset: "product" of experts or "amortised" posterior; by default as configured.
            prior: where nothing is given, "standard" N(0, I) or the "mixture" fitted to the
                latents; by default as configured.

        Raises:
            ConfigError: if `sampler` has an unknown key or a value that cannot be used.
            DataError: if the data do not fit the modalities or are not finite.
            NotFittedError: if posteriors of that kind, or that prior, have not been trained.
            UsageError: if there is no such kind.
        """
        kind, fitted = self._kind(subset), self._is_prior_fitted(prior)
        batch = self._checked(given, kind, fitted)
        settings = self._sampler(sampler or {})
        chunks = list(_chunks(batch))

        def part(i: int) -> dict[str, NDArray[Any]]:
            rows = chunks[i]
            with seeded(seed, "draw", i, device=self._device):
                posterior = subset_posterior(
                    self.model_, rows, product=product, subset=kind, divide_by=settings.divide_by
                )
                if fitted and not rows:
                    assert self.model_.prior is not None
                    posterior = self.model_.prior()
                radius = self.model_.joint.radius if rows else torch.inf
                drawn = draw(posterior, n, settings, radius)
            numbers = drawn.diagnostics._asdict()
            method = np.frombuffer(numbers.pop("method").encode(), np.uint8)
            return {"z": drawn.z.cpu().numpy(), "method": method, **numbers}

        parts = self._divided(part, len(chunks))
        joined = {
            k: np.concatenate([p[k] for p in parts], int(k == "z"))
            for k in parts[0]
            if k != "method"
        }
        z, method = joined.pop("z"), parts[0]["method"].tobytes().decode()
        return LatentDraws(z, Diagnostics(method, **joined))

    def sample_latent(
        self, given: Batch | None = None, n: int = 1, **options: Any
    ) -> NDArray[np.float32]:
        """Draws of z, (n, rows, latent_dim); options as in `draw`."""
        return self.draw(given, n, **options).z

    def generate(
        self,
        given: Batch | None = None,
        n: int = 1,
        *,
        targets: Iterable[str] | None = None,
        **options: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Generate modalities from observed ones: the means of p(x_j|z) at draws of z.

        Args:
            given: observed modalities; None generates from the prior, as for one row.
            n: draws per row.
            targets: what to generate; by default all modalities that are not given.
            options: as in `draw`.

        Returns:
            name -> (n, rows, *shape).
        """
        names = [m.name for m in self.modalities]
        rest = [name for name in names if name not in (given or {})]
        wanted = subset_of(targets, self.modalities) if targets is not None else rest or names
        return self.decode(self.draw(given, n, **options).z, wanted)

    def encode(self, x: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of q(z|X), (rows, latent_dim) each, given all modalities.

        Raises:
            UsageError: if a modality is missing.
        """
        batch = self._checked(x)
        missing = [m.name for m in self.modalities if m.name not in batch]
        if missing:
            msg = f"q(z|X) needs all modalities, but {', '.join(missing)} is missing"
            raise UsageError(msg)
        with torch.no_grad():
            found = [self.model_.joint.posterior(rows).base_dist for rows in _chunks(batch)]
        loc, scale = torch.cat([q.loc for q in found]), torch.cat([q.scale for q in found])
        return loc.cpu().numpy(), scale.cpu().numpy()

    def decode(
        self, z: ArrayLike, targets: Iterable[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Means of p(x_j|z), name -> (..., *shape), for z of shape (..., latent_dim).

        A categorical modality gives class probabilities.

        Raises:
            DataError: if z is not of that shape.
        """
        self._check_fitted()
        z = self._checked_latent(z)
        names = [m.name for m in self.modalities]
        wanted = subset_of(names if targets is None else targets, self.modalities)
        flat = torch.from_numpy(z.reshape(-1, z.shape[-1]))
        chunks = flat.split(8 * CHUNK)

        @torch.no_grad()
        def part(i: int) -> dict[str, NDArray[Any]]:
            decoded = self.model_.joint.decode(chunks[i].to(self._device), wanted)
            means = {n: getattr(decoded[n], "probs", decoded[n].mean) for n in wanted}
            return {name: mean.cpu().numpy() for name, mean in means.items()}

        parts = self._divided(part, len(chunks))
        found = {name: np.concatenate([p[name] for p in parts]) for name in wanted}
        return {name: x.reshape(*z.shape[:-1], *x.shape[1:]) for name, x in found.items()}

    # Scoring

    def posterior_log_prob(
        self, z: ArrayLike, given: Batch, *, product: bool = False, subset: str | None = None
    ) -> NDArray[np.float64]:
        """Log q(z|x_S) in nats, (..., rows), of z (..., rows, latent_dim).

        For several, but not all, modalities the product of experts is not normalised; the
        amortised posterior is. Options as in `draw`.

        Raises:
            DataError: if z is not of that shape.
            NotFittedError: if posteriors of that kind have not been trained.
            UsageError: if no modality is given.
        """
        kind = self._kind(subset)
        batch = self._checked(given, kind)
        if not batch:
            msg = "no modality was given: q(z|x_S) needs one or more"
            raise UsageError(msg)
        rows = len(next(iter(batch.values())))
        values = torch.from_numpy(self._checked_latent(z, rows)).to(self._device)
        divide_by = self.config.sampler.divide_by
        with torch.no_grad():
            parts = [
                subset_posterior(
                    self.model_, rows, product=product, subset=kind, divide_by=divide_by
                ).log_prob(part)
                for rows, part in zip(_chunks(batch), values.split(CHUNK, -2), strict=True)
            ]
        return torch.cat(parts, -1).double().cpu().numpy()

    def log_likelihood(
        self, x: Batch, *, given: Batch | None = None, n: int = 1000, seed: int = 0
    ) -> NDArray[np.float64]:
        """Importance-sampled log p(x), or log p(x | given), of each row in nats, (rows,).

        Args:
            x: modalities to score.
            given: observed modalities.
            n: draws of z per row; the estimate is a lower bound on average that tightens with n.
            seed: of the draws.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            UsageError: if there is nothing to score, or `n` is not positive.
        """
        both = sorted(set(x) & set(given or {}))
        if both:
            msg = f"modality {both[0]!r} is both given and to be scored"
            raise UsageError(msg)
        seen = self._checked({**(given or {}), **x})  # together, for equal numbers of rows
        batch = {name: seen[name] for name in sorted(x)}
        observed = self._checked(given)
        if not batch:
            msg = "no modality to score: x is empty"
            raise UsageError(msg)
        if n < 1:
            msg = f"n={n}: expected at least one draw"
            raise UsageError(msg)
        posterior = partial(
            subset_posterior,
            self.model_,
            subset=self._kind(None),
            divide_by=self.config.sampler.divide_by,
        )
        return log_likelihood(
            self.model_, posterior, batch, observed, n=n, seed=seed, divided=self._divided
        )

    # Keeping

    def save(self, path: str | Path) -> None:
        """Write a run directory that `mvflow.load` and every command read.

        Raises:
            UsageError: if something is there already.
        """
        self._check_fitted()
        run = RunDirectory.create(path, self.config)
        for stage in self.trained_:
            tensors = self.model_.stage_module(stage).state_dict()
            run.finish(stage, tensors, self.config, "", {})

    def restore(self, run: RunDirectory, device: str = "cpu") -> Self:
        """Take the weights of all finished stages of a run directory."""
        self.model_, self.trained_ = restored(run, self.config)
        self.model_.to(device).eval().requires_grad_(False)
        return self

    # Inner

    @property
    def _leads(self) -> bool:
        return self._processes is None or self._processes.is_main_process

    def _divided(self, work: Part, parts: int) -> list[dict[str, NDArray[Any]]]:
        """The results of `work(0)` to `work(parts - 1)`, which several processes share."""
        if self._processes is not None:
            return self._processes.map_shards(work, parts)
        return [work(i) for i in range(parts)]

    @property
    def _device(self) -> torch.device:
        return self.model_.joint.radius.device

    def _kind(self, subset: str | None) -> Literal["product", "amortised"]:
        kinds: dict[str, Literal["product", "amortised"]] = {
            "product": "product",
            "amortised": "amortised",
        }
        chosen = subset or self.config.subset
        if chosen not in kinds:
            raise UsageError(unknown_name("subset posterior", chosen, kinds))
        return kinds[chosen]

    def _is_prior_fitted(self, prior: str | None) -> bool:
        """Whether what is drawn without an observation is the mixture."""
        chosen = prior or self.config.prior.kind
        if chosen not in PRIORS:
            raise UsageError(unknown_name("prior", chosen, PRIORS))
        return chosen == "mixture"

    def _check_fitted(
        self, kind: Literal["product", "amortised"] | None = None, fitted: bool | None = None
    ) -> None:
        config = self.config
        changes: dict[str, Any] = {} if kind is None else {"subset": kind}
        if fitted is not None:
            changes["prior"] = config.prior.model_copy(update={"kind": PRIORS[fitted]})
        config = config.model_copy(update=changes)
        missing = [s for s in stage_names(config) if s not in self.trained_]
        if missing:
            what = f"this {type(self).__name__} is not trained"
            msg = f"{what} (missing: {', '.join(missing)}): call fit"
            raise NotFittedError(msg)

    def _forget(self, stages: Sequence[str]) -> None:
        """Bring stages to their initial weights, and drop what was trained on them."""
        rest = [s for s in all_stages(self.config) if {*stages} & {*stages_before(self.config, s)}]
        again = {*stages, *rest} & {*self.trained_}
        if again:
            fresh = build_model(self.config)
            if "amortised" in again:
                fresh.amortised = build_amortised(self.config)
            if "prior" in again:
                fresh.prior = build_prior(self.config)
            for stage in again:
                weights = fresh.stage_module(stage).state_dict()
                self.model_.stage_module(stage).load_state_dict(weights)
            self.trained_ = tuple(s for s in self.trained_ if s not in again)

    def _sampler(self, changes: Mapping[str, Any]) -> SamplerConfig:
        if not changes:
            return self.config.sampler
        raw = self.config.model_dump()
        return config_from_dict({**raw, "sampler": {**raw["sampler"], **changes}}).sampler

    def _checked_latent(self, z: ArrayLike, rows: int | None = None) -> NDArray[np.float32]:
        values = np.asarray(z, np.float32)
        expected = (self.config.latent_dim,) if rows is None else (rows, self.config.latent_dim)
        if values.shape[-len(expected) :] != expected:
            shape = ", ".join(map(str, expected))
            msg = f"z has shape {values.shape}: expected (..., {shape})"
            raise DataError(msg)
        return values

    def _checked(
        self,
        given: Batch | None,
        kind: Literal["product", "amortised"] | None = None,
        fitted: bool | None = None,
    ) -> dict[str, Tensor]:
        self._check_fitted(kind, fitted)
        batch = check_batch(given or {}, self.modalities)
        for name, values in batch.items():
            if len(values) == 0:
                msg = f"modality {name!r} has no rows"
                raise DataError(msg)
        return {k: as_input(torch.from_numpy(v).to(self._device)) for k, v in batch.items()}


def _chunks(batch: Mapping[str, Tensor], size: int = CHUNK) -> Iterator[dict[str, Tensor]]:
    if not batch:
        yield {}
        return
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: x[start : start + size] for name, x in batch.items()}
