"""The estimator around any system: fit, draw, generate, score, save. NumPy in, NumPy out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
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
    UnreliableDrawsWarning,
    UsageError,
    as_array,
    as_source,
    check_batch,
    check_count,
    check_seed,
    check_source,
    fingerprint,
    subset_of,
    unknown_name,
)
from mvflow.core.parts import create, dump
from mvflow.estimators.devices import check_device
from mvflow.estimators.fitting import check_fits, check_scale, restore_weights, train_stage
from mvflow.estimators.plotting import Plots
from mvflow.estimators.scoring import Chunk, log_likelihood
from mvflow.inference import Diagnostics, Sampler, Target, draw, refuse
from mvflow.nn import own_generator, torch_defaults
from mvflow.runs import Inputs, Plan, RunDirectory, StageRecord
from mvflow.systems import Bounded, Encodes, Projects, System, build_system, stages_of
from mvflow.training import (
    Callback,
    Callbacks,
    History,
    Processes,
    Progress,
    Record,
    Table,
    as_input,
    check_compile,
    free_memory,
)

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
        self._params = {"modalities": modalities, "latent_dim": latent_dim, "networks": networks}
        self._params |= settings
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
        self.history_ = History()

    # As scikit-learn has it

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Arguments of the constructor, as they were given."""
        if not hasattr(self, "_params"):
            own = ("shape", "likelihood", "weight")
            sections = self.config.modalities
            self._params = {
                "modalities": list(self.config.specifications()),
                "networks": {
                    name: {k: getattr(m, k) for k in type(m).model_fields if k not in own}
                    for name, m in sections.items()
                },
                **{
                    name: getattr(self.config, name)
                    for name in type(self.config).model_fields
                    if name not in ("format", "system", "modalities")
                },
            }
        return dict(self._params)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; `joint__epochs=3` changes one setting of a section.

        The estimator is untrained afterwards if anything changes.

        Raises:
            ConfigError: if there is no such argument, or a value cannot be used.
        """
        new = self.get_params()
        for key, value in params.items():
            section, _, setting = key.partition("__")
            if setting:
                now = self.config.model_dump().get(section)
                value = {**(now if isinstance(now, Mapping) else {}), setting: value}
            new[section] = value
        if params:
            made = type(self)(**new)
            self.__dict__ = made.__dict__
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return not any(stage not in self.records_ for stage in self.stage_names)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        target = TargetTags(required=False)
        return Tags(estimator_type=None, target_tags=target, input_tags=InputTags())

    def __repr__(self) -> str:
        changed = self.config.model_dump(mode="json", exclude_defaults=True)
        shown = {"modalities": list(self.config.modalities), "latent_dim": self.config.latent_dim}
        skipped = ("format", "system", *shown)
        shown |= {k: v for k, v in changed.items() if k not in skipped and v not in ({}, None)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

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
        callback: Callback | Sequence[Callback] | None = None,
        progress: bool = False,
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
            device: "cpu", "cuda", "cuda:1"..., or "auto": a GPU where there is one.
            callback: training callback, or several; see `mvflow.EarlyStopping`.
            progress: show a bar for each stage, in a terminal or a notebook.
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
        way, device = check_compile(compile), check_device(device)
        seed = None if seed is None else check_seed(seed)
        train = as_source(source, self.modalities)
        check_fits(train, self.modalities)
        held = None if validation is None else as_source(validation, self.modalities)
        if held is not None:
            check_source(held, self.modalities)
        plan = self._plan()
        wanted = plan.names if stages is None else tuple(stages)
        for stage in wanted:
            plan.spec(stage)
        config = self._seeded(seed, stages)
        if run is not None and self._is_main_process:
            _check_same_config(run, config)
        before = dict(self.__dict__)
        try:
            return self._train(config, wanted, (train, held), run, device, callback, progress, way)
        except BaseException:
            if before["records_"] and before.get("system_") is not self.__dict__.get("system_"):
                self.__dict__ = before  # what was trained before stays as it was
            raise

    def _train(
        self,
        config: Config,
        wanted: Sequence[str],
        sources: tuple[Source, Source | None],
        run: RunDirectory | None,
        device: str,
        callback: Callback | Sequence[Callback] | None,
        progress: bool,
        way: Any,
    ) -> Self:
        train, held = sources
        if config != self.config:
            self._set_config(config)
            self._build()
        self._reset(wanted)
        plan = self.plan_
        self.system_.to(device)
        self.history_ = History(r for r in self.history_ if r["stage"] in self.records_)
        inputs = Inputs(fingerprint(train), None if held is None else fingerprint(held))
        if self._processes is not None:
            self._processes.assert_same_on_all_ranks(
                (self.config, inputs), "what is trained differs"
            )
        budget = free_memory(device)
        rows = Table.of(train, device, budget)
        held_rows = None if held is None else Table.of(held, device, budget)
        several = callback if isinstance(callback, Sequence) else [callback] if callback else []
        with contextlib.ExitStack() as shown:
            bars = [shown.enter_context(Progress())] if progress and self._is_main_process else []
            for spec in plan.stages:
                if spec.name in wanted:
                    record = train_stage(
                        spec,
                        self.system_,
                        plan,
                        rows,
                        held_rows,
                        inputs=inputs,
                        trained=self.records_,
                        run=run if self._is_main_process else None,
                        callback=Callbacks([Record(self.history_), *several, *bars])
                        if self._is_main_process
                        else None,
                        processes=self._processes,
                        compile=way,
                    )
                    self.records_[spec.name] = record
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
        seed: int | None = 0,
        sampler: Any = None,
        combine: bool = False,
        prior: str | None = None,
    ) -> LatentDraws:
        """Draw z from q(z|x_S), with diagnostics.

        Args:
            given: observed modalities, name -> (rows, *shape). None: draws from the prior, as
                for one row.
            n: draws per row.
            seed: of these draws; None gives fresh ones.
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
        seed, n = check_seed(seed), check_count(n)
        _check_mapping(given)
        source = None if given else self._prior(prior)
        if given:
            self._check_fitted()
        observed = self._checked(given)
        algorithm = self._sampler(sampler)
        chunks = list(_chunks(observed))

        def chunk(i: int) -> dict[str, NDArray[Any]]:
            rows = chunks[i]
            with own_generator(seed, "draw", i, device=self._device), torch.no_grad():
                posterior = self._posterior(rows, combine) if source is None else source()
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
        return LatentDraws(z, Diagnostics(method, **joined))

    def sample_latent(
        self, given: Batch | None = None, n: int = 1, **options: Any
    ) -> NDArray[np.float32]:
        """Draws of z, (n, rows, latent_dim); options as in `draw`.

        Warns:
            UnreliableDrawsWarning: if their diagnostics are bad.
        """
        return _as_given(self._warned(self.draw(given, n, **options)).z, given)

    def transform(self, x: Batch, *, n: int = 100, seed: int | None = 0) -> NDArray[np.float32]:
        """Posterior mean of z given the modalities of x, (rows, latent_dim).

        With all modalities it is the mean of q(z|X), else that of `n` draws.
        """
        _check_mapping(x)
        if {*x} == {m.name for m in self.modalities} and self.can_encode:
            return self.encode(x)[0]
        return _as_given(self._warned(self.draw(x, n, seed=seed)).z.mean(0), x)

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
        **options: Any,
    ) -> Any:
        """Generate modalities from observed ones: the means of p(x_j|z) at draws of z.

        Args:
            given: observed modalities; None generates from the prior, as for one row.
            n: draws per row.
            targets: what to generate; by default all modalities that are not given.
            full_output: return the draws of z with their diagnostics, too.
            options: as in `draw`.

        Returns:
            name -> (n, rows, *shape), torch tensors where tensors were given; with `full_output`
            a pair of these and `LatentDraws`.

        Warns:
            UnreliableDrawsWarning: if diagnostics are bad and `full_output` does not return them.
        """
        _check_mapping(given)
        names = [m.name for m in self.modalities]
        rest = [name for name in names if name not in (given or {})]
        wanted = subset_of(targets, self.modalities) if targets is not None else rest or names
        drawn = self.draw(given, n, **options)
        found = _as_given(
            self.decode((drawn if full_output else self._warned(drawn)).z, wanted), given
        )
        return (found, drawn) if full_output else found

    def encode(self, x: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of q(z|X), (rows, latent_dim) each, given all modalities.

        Raises:
            UsageError: if a modality is missing, or the system has no joint encoder.
        """
        observed, system = self._checked(x), self._base_system()
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
        return _as_given(loc.cpu().numpy(), x), _as_given(scale.cpu().numpy(), x)

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
            found = {n: system.project(n, v).cpu().numpy() for n, v in observed.x.items()}
        return _as_given(found, x)

    def decode(
        self, z: ArrayLike, targets: Iterable[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Means of p(x_j|z), name -> (..., *shape), for z of shape (..., latent_dim).

        A categorical modality gives class probabilities.

        Raises:
            DataError: if z is not of that shape.
        """
        self._base_system()
        handed, z = z, self._checked_latent(z)
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
        shaped = {name: x.reshape(*z.shape[:-1], *x.shape[1:]) for name, x in found.items()}
        return _as_given(shaped, {"z": handed})

    def simulate(self, z: ArrayLike, *, seed: int | None = 0) -> dict[str, NDArray[Any]]:
        """Draws of p(x_j|z), with the likelihood's noise, name -> (rows, *shape).

        Args:
            z: (rows, latent_dim).
            seed: of the draws; None gives fresh ones.
        """
        self._base_system()
        seed, parts = check_seed(seed), []
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
        self, x: Batch, *, given: Batch | None = None, n: int = 1000, seed: int | None = 0
    ) -> NDArray[np.float64]:
        """Importance-sampled log p(x), or log p(x | given), of each row in nats, (rows,).

        Args:
            x: modalities to score.
            given: observed modalities.
            n: draws of z per row; the estimate is a lower bound on average that tightens with n.
            seed: of the draws; None gives fresh ones.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            UsageError: if there is nothing to score, or `n` is not positive.
        """
        for each in (x, given):
            _check_mapping(each)
        both = sorted(set(x) & set(given or {}))
        if both:
            msg = f"modality {both[0]!r} is both given and to be scored"
            raise UsageError(msg)
        self._check_fitted()
        seed = check_seed(seed)
        seen = self._checked({**(given or {}), **x})  # together, for equal numbers of rows
        scored = {name: seen.x[name] for name in sorted(x)}
        if not scored:
            msg = "no modality to score: x is empty"
            raise UsageError(msg)
        found = log_likelihood(
            self.system_,
            scored,
            self._checked(given).x,
            n=check_count(n),
            seed=seed,
            map_chunks=self._map_chunks,
        )
        return _as_given(found, x)

    def evaluate(self, test: Source | Batch, classifiers: Any = None, **options: Any) -> Any:
        """Measure the model on test rows, as `mvflow.evaluate`."""
        module = importlib.import_module("mvflow.evaluation")  # a higher layer
        return module.evaluate(self, self._source(test), classifiers, **options)

    def report(self, path: str | Path, test: Source | Batch, *, seed: int = 0) -> Path:
        """Write a report on the model as one HTML file, and return its path."""
        module, rows = importlib.import_module("mvflow.report"), self._source(test)
        stages = {name: record.to_dict() for name, record in self.records_.items()}
        entry = module.Entry(
            type(self).__name__,
            self,
            rows,
            list(self.history_),
            {"stages": stages, "versions": {}},
            {},
            self.evaluate(rows, seed=seed),
        )
        written: Path = module.write_report(Path(path), [entry], seed=seed)
        return written

    @property
    def plot(self) -> Plots:
        """Figures: `plot.history()`, `plot.latent(x)`, `plot.samples()`."""
        return Plots(self)

    def _source(self, data: Source | Batch) -> Source:
        source = as_source(data, self.modalities)
        check_source(source, self.modalities)
        return source

    # Keeping

    def save(self, path: str | Path) -> None:
        """Write a run directory that `mvflow.load` and every command read.

        Raises:
            UsageError: if something is there already.
        """
        if not self.records_:
            self._check_fitted()
        run = RunDirectory.create(path, self.config)
        for stage, record in self.records_.items():
            run.finish(stage, self.plan_.spec(stage).module.state_dict(), record)
        for line in self.history_:
            run.append_history(line)

    def restore(self, run: RunDirectory, device: str = "cpu") -> Self:
        """Take the weights of all finished stages of a run directory."""
        device = check_device(device)
        self._build()
        self.records_ = restore_weights(self.system_, self.plan_, run)
        self.history_ = History(run.history())
        self.system_.to(device).eval().requires_grad_(False)
        return self

    # What the model has

    def priors(self) -> list[str]:
        """What may be drawn where nothing is observed: p(z) of the model, then a fitted prior."""
        has_fitted = self._base_system().fitted_prior is not None and "prior" in self.records_
        return [STANDARD, *([self.config.prior.kind] if has_fitted else [])]

    @property
    def radius(self) -> float:
        """Of the ball in which draws given observations lie; infinity where there is none."""
        self._base_system()
        return float(self._ball)

    @property
    def can_encode(self) -> bool:
        """Whether the system has a joint encoder q(z|X) besides its subset rule."""
        return isinstance(self._base_system(), Encodes)

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
        system, known = self._base_system(), self.priors()
        if name is None and system.fitted_prior is not None:
            self._check_fitted(["prior"])
        chosen = known[-1] if name is None else name
        if chosen not in known:
            raise UsageError(unknown_name("prior", chosen, known))
        if chosen == STANDARD or system.fitted_prior is None:
            return system.prior
        return system.fitted_prior

    def _fitted_system(self) -> System:
        self._check_fitted()
        return self.system_

    def _base_system(self) -> System:
        """The system once it can encode and decode, whatever else is still to be trained."""
        self._plan()
        base = self.system_.encoder_stages if isinstance(self.system_, Encodes) else None
        self._check_fitted(base)
        return self.system_

    def _check_fitted(self, stages: Iterable[str] | None = None) -> None:
        """Check that the given stages are trained; by default all but that of the prior."""
        needed = self.stage_names if stages is None else stages
        missing = [s for s in needed if s not in self.records_]
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
        values, dim = as_array(z, "z").astype(np.float32), self.system_.latent.dim
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
        self._base_system()
        _check_mapping(given)
        batch = check_batch(given or {}, self.modalities)
        seen_bytes = {n for record in self.records_.values() for n in record.bytes}
        for name, values in batch.items():
            if len(values) == 0:
                msg = f"modality {name!r} has no rows"
                raise DataError(msg)
            check_scale(name, values, seen_bytes)
        return Observed(
            {k: as_input(torch.from_numpy(_owned(v)).to(self._device)) for k, v in batch.items()}
        )


def _check_mapping(given: Any) -> None:
    if given is not None and not isinstance(given, Mapping):
        kind = type(given).__name__
        msg = f"what is given is a {kind}: expected a dict from modality to array"
        raise UsageError(msg)


def _owned(x: NDArray[Any]) -> NDArray[Any]:
    """An array that torch may take: contiguous and writeable."""
    return np.require(x, requirements=["C", "W"])


def _as_given(found: Any, given: Mapping[str, Any] | None) -> Any:
    """Results as torch tensors on the device of what was given, if that was tensors."""
    tensors = [v for v in (given or {}).values() if isinstance(v, Tensor)]
    if not tensors:
        return found
    if isinstance(found, dict):
        return {name: _as_given(x, given) for name, x in found.items()}
    return torch.from_numpy(found).to(tensors[0].device)


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
