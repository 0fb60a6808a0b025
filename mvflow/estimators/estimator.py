"""The estimator around any system: fit, draw, generate, score, save. NumPy in, NumPy out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.distributions import Distribution

from mvflow.config import Config, config_from_dict, recipe, with_part
from mvflow.core import (
    Batch,
    DataError,
    Modality,
    NotFittedError,
    Observed,
    Source,
    StageError,
    UsageError,
    as_source,
    check_batch,
    fingerprint,
    subset_of,
    unknown_name,
)
from mvflow.core.parts import create, dump
from mvflow.estimators.fitting import check_fits, restore_weights, train_stage
from mvflow.estimators.scoring import Chunk, log_likelihood
from mvflow.inference import Diagnostics, Sampler, Target, draw, refuse
from mvflow.nn import own_generator, torch_defaults
from mvflow.runs import Inputs, Plan, RunDirectory, StageRecord
from mvflow.systems import Bounded, Encodes, Projects, System, build_system, stages_of
from mvflow.training import Callback, Processes, Table, as_input, check_compile, free_memory

__all__ = ["Estimator", "LatentDraws"]

CHUNK_ROWS = 256
"""Rows that are drawn, decoded or encoded at once."""

STANDARD = "standard"
"""Name of the prior of the model itself."""


class LatentDraws(NamedTuple):
    """Draws of z given some modalities, as NumPy arrays."""

    z: NDArray[np.float32]
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics


class Estimator:
    """A multimodal generative model of any system, with a NumPy face.

    The constructor stores its configuration; `fit` trains and returns the estimator. Each system
    has an estimator of its own: `JNF`, `JNFShared`, ... (`mvflow.estimators.estimator_class`).

    Args:
        modalities: what the data hold.
        latent_dim: dimension of z, or of its shared part.
        networks: modality -> {"encoder": ..., "decoder": ..., "projector": ...}: names, mappings
            with `kind` and settings, or modules.
        settings: further fields of the system's settings, such as `joint={"epochs": 50}`.

    Attributes:
        config: everything that defines the model and its training.
        system_: the trained torch module, after `fit` or `load`.
        trained_: names of the stages trained so far, in order.
        records_: what is recorded of each: data, content hash of the weights.
    """

    system: ClassVar[str]
    _processes: Processes | None = None

    def __init__(
        self,
        modalities: Iterable[Modality],
        latent_dim: int,
        *,
        networks: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        specs = list(modalities)
        names = [m.name for m in specs]
        if len(set(names)) != len(names):
            msg = f"two modalities have the same name: {', '.join(sorted(names))}"
            raise UsageError(msg)
        sections: dict[str, dict[str, Any]] = {
            m.name: {
                k: v for k, v in dataclasses.asdict(m).items() if k != "name" and v is not None
            }
            for m in specs
        }
        for name, own in (networks or {}).items():
            sections[subset_of([name], specs)[0]].update(own)
        raw = {"latent_dim": latent_dim, "modalities": sections, **settings}
        self._set_config(config_from_dict({**raw, "system": self.system}, type(self).__name__))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """An untrained estimator of a complete configuration of its system."""
        if config.system != cls.system:
            msg = f"{cls.__name__} needs system {cls.system!r}, but got {config.system!r}"
            raise UsageError(msg)
        new = cls.__new__(cls)
        new._set_config(config)
        return new

    @classmethod
    def from_recipe(cls, name: str, *assignments: str) -> Self:
        """An untrained estimator of a named recipe, with `section.key=value` changes.

        Raises:
            ConfigError: if the recipe or a key is unknown.
        """
        return cls.from_config(
            config_from_dict(recipe(name, [f"system={cls.system}", *assignments]))
        )

    def with_parts(self, **kinds: str) -> Self:
        """An estimator with other kinds of parts, `subset="amortised"`; it shares what it can.

        Stages that do not depend on the change stay trained.

        Raises:
            UsageError: if the system has no such part, or there is no such kind.
        """
        config = self.config
        for field, kind in kinds.items():
            config = with_part(config, field, kind)
        return self._like(config)

    def with_settings(self, **settings: Any) -> Self:
        """An estimator with other values of some fields of its configuration, as `with_parts`.

        Raises:
            ConfigError: if there is no such field or a value cannot be used.
        """
        return self._like(config_from_dict({**self.config.model_dump(), **settings}))

    def _like(self, config: Config) -> Self:
        new = type(self).from_config(config)
        if self.trained_:
            new._build()
            new._adopt(self)
        return new

    def _set_config(self, config: Config) -> None:
        self.config = config
        self.records_: dict[str, StageRecord] = {}

    def _build(self) -> None:
        self.system_: System = build_system(self.config)
        self.plan_ = Plan(self.config, stages_of(self.system_))
        self.records_ = {}

    def _adopt(self, other: Estimator) -> None:
        """Copy the weights of all stages of another estimator whose keys are the same here."""
        for spec in self.plan_.stages:
            record = other.records_.get(spec.name)
            if record is None or any(name not in self.records_ for name in spec.needs):
                continue
            needs = {name: self.records_[name].key for name in spec.needs}
            if record.key == self.plan_.key(spec.name, record.inputs, needs):
                spec.module.load_state_dict(other.plan_.spec(spec.name).module.state_dict())
                self.records_[spec.name] = record
        self.system_.to(other.system_.device).eval().requires_grad_(False)

    @property
    def trained_(self) -> tuple[str, ...]:
        """Names of the stages trained so far, in order."""
        return tuple(self.records_)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications, sorted by name."""
        return self.config.specifications()

    @property
    def latent_dim(self) -> int:
        """Dimension of z, with all its parts."""
        return self._fitted_system().latent.dim

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages of the configured system, in order."""
        return self._plan().names

    def facts(self) -> dict[str, str]:
        """What the model is, in a few words each, for reports and tables."""
        self._plan()
        return {**self.system_.facts(), "prior": self.config.prior.title}

    def _plan(self) -> Plan:
        if not hasattr(self, "plan_"):
            self._build()
        return self.plan_

    # Training

    @torch_defaults()
    def fit(
        self,
        source: Source | Batch,
        *,
        seed: int | None = None,
        validation: Source | Batch | None = None,
        stages: Sequence[str] | None = None,
        run: RunDirectory | None = None,
        device: str = "cpu",
        callback: Callback | None = None,
        compile: str = "auto",
    ) -> Self:
        """Train all stages, or the named ones, in order.

        Args:
            source: training rows; a dict of arrays will do.
            seed: replaces the configuration's seed; all stages are then trained anew.
            validation: held-out rows; by default a share of `source`.
            stages: names of stages to train, each from its initial weights; those that they
                need must have been trained. Stages that rest on what is trained anew are dropped.
            run: where to keep checkpoints, history and weights. A stage that was interrupted
                there goes on where it was, and ends as if it had never been interrupted.
            device: "cpu", "cuda", "cuda:1"...
            callback: training callback.
            compile: "graph" captures each training step as a CUDA graph, "auto" does so on CUDA
                where it can, "torch" lets torch compile the losses, "no" does neither. Results
                are those of "no", up to rounding.

        Returns:
            This estimator.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            NumericsError: if a loss is not finite.
            StageError: if a stage is asked for before those it needs, or another seed for a part
                of the stages.
            UsageError: if there is no stage of a given name, no such way to compile, or the run
                has another configuration.
        """
        way = check_compile(compile)
        train = as_source(source, self.modalities)
        check_fits(train, self.modalities)
        held = None if validation is None else as_source(validation, self.modalities)
        if held is not None:
            check_fits(held, self.modalities)
        plan = self._plan()
        wanted = plan.names if stages is None else tuple(stages)
        for stage in wanted:
            plan.spec(stage)
        config = self._seeded(seed, stages)
        if run is not None and self._is_main_process:
            _check_same_config(run, config)
        if config != self.config:
            self._set_config(config)
            self._build()
        self._reset(wanted)
        plan = self.plan_
        self.system_.to(device)
        inputs = Inputs(fingerprint(train), None if held is None else fingerprint(held))
        if self._processes is not None:
            self._processes.assert_same_on_all_ranks(
                (self.config, inputs), "what is trained differs"
            )
        budget = free_memory(device)
        rows = Table.of(train, device, budget)
        held_rows = None if held is None else Table.of(held, device, budget)
        for spec in plan.stages:
            if spec.name in wanted:
                self.records_[spec.name] = train_stage(
                    spec,
                    self.system_,
                    plan,
                    rows,
                    held_rows,
                    inputs=inputs,
                    trained=self.records_,
                    run=run if self._is_main_process else None,
                    callback=callback if self._is_main_process else None,
                    processes=self._processes,
                    compile=way,
                )
        self.system_.eval().requires_grad_(False)
        return self

    def _seeded(self, seed: int | None, stages: Sequence[str] | None) -> Config:
        """The configuration with a seed, which all stages are then to be trained with."""
        if seed is None or seed == self.config.seed:
            return self.config
        kept = [n for n in self.trained_ if stages is not None and n not in stages]
        if kept:
            msg = (
                f"stage {kept[0]!r} was trained with seed {self.config.seed}: with seed {seed} "
                "all stages are trained anew, so leave stages= out, or the seed"
            )
            raise StageError(msg)
        return config_from_dict({**self.config.model_dump(), "seed": seed})

    def _reset(self, wanted: Sequence[str]) -> None:
        """Bring stages to their initial weights, and drop what was trained on them."""
        again = {*wanted, *self.plan_.after(wanted)} & {*self.trained_}
        if again:
            before = self.records_
            trained = {n: self.plan_.spec(n).module.state_dict() for n in before}
            self._build()
            for name, record in before.items():
                if name not in again:
                    self.plan_.spec(name).module.load_state_dict(trained[name])
                    self.records_[name] = record

    def distribute(self, processes: Processes | None) -> Self:
        """Train, draw, decode and score with several processes that all run the same program.

        Each takes a part of every batch in training, and some of the rows elsewhere; all get the
        result. Of the files of a run, the main process writes all.

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
        sampler: Any = None,
        combine: bool = False,
        prior: str | None = None,
    ) -> LatentDraws:
        """Draw z from q(z|x_S), with diagnostics.

        Args:
            given: observed modalities, name -> (rows, *shape). None: draws from the prior, as
                for one row.
            n: draws per row.
            seed: of these draws.
            sampler: another sampler by name, which keeps the settings that it has too, or as an
                object; or changes to the configured one, such as {"warmup": 200}.
            combine: even where all modalities are given, do without q(z|X) and combine posteriors
                as for other subsets.
            prior: where nothing is given, one of `priors()`; by default the last of them.

        Raises:
            ConfigError: if `sampler` has an unknown key or a value that cannot be used.
            DataError: if the data do not fit the modalities or are not finite.
            NotFittedError: if a stage has not been trained.
            UsageError: if there is no such prior, or sampler.
        """
        self._check_fitted()
        source = self._prior(prior)
        observed = self._checked(given)
        algorithm = self._sampler(sampler)
        chunks = list(_chunks(observed))

        def chunk(i: int) -> dict[str, NDArray[Any]]:
            rows = chunks[i]
            with own_generator(seed, "draw", i, device=self._device), torch.no_grad():
                posterior = self._posterior(rows, combine) if rows.x else source()
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
        z, method = joined.pop("z"), parts[0]["method"].tobytes().decode()
        found = Diagnostics(method, **joined)
        if moved := int(np.sum(found.moved > 0)):
            msg = (
                f"{moved} of {len(found.moved)} rows are unlike the training rows: their "
                "posterior lies outside the ball of all latents, to whose surface draws were moved"
            )
            warnings.warn(msg, stacklevel=2)
        return LatentDraws(z, found)

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
            UsageError: if a modality is missing, or the system has no joint encoder.
        """
        observed, system = self._checked(x), self._fitted_system()
        missing = [m.name for m in self.modalities if m.name not in observed.x]
        if missing:
            msg = f"q(z|X) needs all modalities, but {', '.join(missing)} is missing"
            raise UsageError(msg)
        with torch.no_grad():
            encode = system.encode if isinstance(system, Encodes) else system.posterior
            found = [encode(rows) for rows in _chunks(observed)]
            if not all(isinstance(q, Distribution) for q in found):
                msg = f"system {self.config.system!r} has no q(z|X) with moments: use draw"
                raise UsageError(msg)
            loc, scale = (torch.cat([getattr(q, of) for q in found]) for of in ("mean", "stddev"))
            finite = (loc.isfinite() & scale.isfinite()).all(-1)
            refuse(~finite, "mean or deviation of q(z|X) is not a finite number")
        return loc.cpu().numpy(), scale.cpu().numpy()

    @property
    def can_project(self) -> bool:
        """Whether the model has projections of each modality."""
        system = self._fitted_system()
        return isinstance(system, Projects) and system.projectors is not None

    def project(self, x: Batch) -> dict[str, NDArray[np.float32]]:
        """Shared information g_j(x_j) of each given modality, name -> (rows, width).

        Raises:
            UsageError: if the model has no projectors.
        """
        observed, system = self._checked(x), self._fitted_system()
        if not isinstance(system, Projects) or not self.can_project:
            msg = f"this {type(self).__name__} has no projectors: choose a projector"
            raise UsageError(msg)
        with torch.no_grad():
            return {n: system.project(n, v).cpu().numpy() for n, v in observed.x.items()}

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
        specs = {m.name: m.likelihood_part for m in self.modalities}
        wanted = subset_of(specs if targets is None else targets, self.modalities)
        flat = torch.from_numpy(z.reshape(-1, z.shape[-1]))
        chunks = flat.split(8 * CHUNK_ROWS)

        @torch.no_grad()
        def chunk(i: int) -> dict[str, NDArray[Any]]:
            decoded = self.system_.decode(chunks[i].to(self._device), wanted)
            means = {n: specs[n].mean(decoded[n]) for n in wanted}
            for name, mean in means.items():
                bad = ~mean.isfinite().flatten(1).all(1)
                refuse(bad, f"the decoded modality {name!r} is not finite")
            return {name: mean.cpu().numpy() for name, mean in means.items()}

        parts = self._map_chunks(chunk, len(chunks))
        found = {name: np.concatenate([p[name] for p in parts]) for name in wanted}
        return {name: x.reshape(*z.shape[:-1], *x.shape[1:]) for name, x in found.items()}

    def simulate(self, z: ArrayLike, *, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Draws of p(x_j|z), with the likelihood's noise, name -> (rows, *shape).

        Args:
            z: (rows, latent_dim).
            seed: of the draws.
        """
        self._check_fitted()
        parts = []
        for i, some in enumerate(torch.from_numpy(self._checked_latent(z)).split(CHUNK_ROWS)):
            with own_generator(seed, "simulate", i, device=self._device), torch.no_grad():
                decoded = self.system_.decode(some.to(self._device))
                parts.append({name: p.sample().cpu().numpy() for name, p in decoded.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    # Scoring

    def posterior_log_prob(
        self, z: ArrayLike, given: Batch, *, combine: bool = False
    ) -> NDArray[np.float64]:
        """Log q(z|x_S) in nats, (..., rows), of z (..., rows, latent_dim).

        A product of experts is not normalised. `combine` as in `draw`.

        Raises:
            DataError: if z is not of that shape.
            NotFittedError: if a stage has not been trained.
            UsageError: if no modality is given.
        """
        self._check_fitted()
        observed = self._checked(given)
        if not observed.x:
            msg = "no modality was given: q(z|x_S) needs one or more"
            raise UsageError(msg)
        values = torch.from_numpy(self._checked_latent(z, observed.rows)).to(self._device)
        with torch.no_grad():
            parts = [
                self._posterior(rows, combine).log_prob(part)
                for rows, part in zip(_chunks(observed), values.split(CHUNK_ROWS, -2), strict=True)
            ]
        found = torch.cat(parts, -1).double()
        bad = found.isnan()
        refuse(bad.reshape(-1, observed.rows).any(0), "log q(z|x_S) is not a number")
        return found.cpu().numpy()

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
        self._check_fitted()
        seen = self._checked({**(given or {}), **x})  # together, for equal numbers of rows
        scored = {name: seen.x[name] for name in sorted(x)}
        if not scored:
            msg = "no modality to score: x is empty"
            raise UsageError(msg)
        if n < 1:
            msg = f"n={n}: expected at least one draw"
            raise UsageError(msg)
        return log_likelihood(
            self.system_,
            scored,
            self._checked(given).x,
            n=n,
            seed=seed,
            map_chunks=self._map_chunks,
        )

    # Keeping

    def save(self, path: str | Path) -> None:
        """Write a run directory that `mvflow.load` and every command read.

        Raises:
            UsageError: if something is there already.
        """
        self._check_fitted()
        run = RunDirectory.create(path, self.config)
        for stage, record in self.records_.items():
            run.finish(stage, self.plan_.spec(stage).module.state_dict(), record)

    def restore(self, run: RunDirectory, device: str = "cpu") -> Self:
        """Take the weights of all finished stages of a run directory."""
        self._build()
        self.records_ = restore_weights(self.system_, self.plan_, run)
        self.system_.to(device).eval().requires_grad_(False)
        return self

    # What the model has

    def priors(self) -> list[str]:
        """What may be drawn where nothing is observed: p(z) of the model, then a fitted prior."""
        fitted = [] if self._fitted_system().fitted_prior is None else [self.config.prior.kind]
        return [STANDARD, *fitted]

    @property
    def radius(self) -> float:
        """Of the ball in which draws given observations lie; infinity where there is none."""
        self._fitted_system()
        return float(self._ball)

    @property
    def can_encode(self) -> bool:
        """Whether the system has a joint encoder q(z|X) besides its subset rule."""
        return isinstance(self._fitted_system(), Encodes)

    # Inner

    @property
    def _is_main_process(self) -> bool:
        return self._processes is None or self._processes.is_main_process

    def _map_chunks(self, work: Chunk, count: int) -> list[dict[str, NDArray[Any]]]:
        """The results of `work(0)` to `work(count - 1)`, which several processes share."""
        if self._processes is not None:
            return self._processes.map_shards(work, count)
        return [work(i) for i in range(count)]

    @property
    def _device(self) -> torch.device:
        return self.system_.device

    @property
    def _ball(self) -> Tensor | float:
        return self.system_.radius if isinstance(self.system_, Bounded) else torch.inf

    def _posterior(self, observed: Observed, combine: bool) -> Distribution | Target:
        if combine and isinstance(self.system_, Encodes):
            return self.system_.combine(observed)
        return self.system_.posterior(observed)

    def _prior(self, name: str | None) -> Callable[[], Distribution]:
        """The prior of a name; by default the configured one."""
        system, known = self._fitted_system(), self.priors()
        chosen = known[-1] if name is None else name
        if chosen not in known:
            raise UsageError(unknown_name("prior", chosen, known))
        if chosen == STANDARD or system.fitted_prior is None:
            return system.prior
        return system.fitted_prior

    def _fitted_system(self) -> System:
        self._check_fitted()
        return self.system_

    def _check_fitted(self) -> None:
        missing = [s for s in self.stage_names if s not in self.records_]
        if missing:
            what = f"this {type(self).__name__} is not trained"
            msg = f"{what} (missing: {', '.join(missing)}): call fit"
            raise NotFittedError(msg)

    def _sampler(self, changes: Any) -> Sampler:
        if changes is None:
            return self.config.sampler
        if isinstance(changes, str):
            return with_part(self.config, "sampler", changes).sampler
        if isinstance(changes, Mapping) and "kind" not in changes:
            changes = {**dump(self.config.sampler, "samplers"), **changes}
        sampler: Sampler = create("samplers", changes)
        return sampler

    def _checked_latent(self, z: ArrayLike, rows: int | None = None) -> NDArray[np.float32]:
        values, dim = np.asarray(z, np.float32), self.system_.latent.dim
        expected = (dim,) if rows is None else (rows, dim)
        if values.shape[-len(expected) :] != expected:
            shape = ", ".join(map(str, expected))
            msg = f"z has shape {values.shape}: expected (..., {shape})"
            raise DataError(msg)
        if not np.isfinite(values).all():
            msg = "z holds values that are not finite: expected numbers"
            raise DataError(msg)
        return values

    def _checked(self, given: Batch | None) -> Observed:
        self._check_fitted()
        batch = check_batch(given or {}, self.modalities)
        for name, values in batch.items():
            if len(values) == 0:
                msg = f"modality {name!r} has no rows"
                raise DataError(msg)
        return Observed(
            {k: as_input(torch.from_numpy(v).to(self._device)) for k, v in batch.items()}
        )


def _chunks(observed: Observed, size: int = CHUNK_ROWS) -> Iterator[Observed]:
    if not observed.x:
        yield observed
        return
    for start in range(0, observed.rows, size):
        yield observed.take(start, start + size)


def _check_same_config(run: RunDirectory, config: Config) -> None:
    """Check that a run was made for this configuration; where its store lies does not matter."""
    ours, theirs = (c.model_dump(mode="json") for c in (config, run.config()))
    for each in (ours, theirs):
        each["data"]["store"] = ""
    differing = [key for key in ours if ours[key] != theirs.get(key)]
    if differing:
        msg = (
            f"{run.path}/config.toml is of another configuration ({', '.join(differing)} differ): "
            "make a run with RunDirectory.create(path, estimator.config)"
        )
        raise UsageError(msg)
