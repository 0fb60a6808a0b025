"""The configured estimator: constructor, parameters as scikit-learn has them, untrained system."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from mvflow.config import Config, config_from_dict, recipe, with_part
from mvflow.core import Modality, NotFittedError, UsageError, subset_of
from mvflow.estimators.annotated import (
    AnnotatedRows,
    config_for,
    rows_of_anndata,
    rows_of_mudata,
)
from mvflow.runs import Plan, StageRecord
from mvflow.systems import Encodes, LearnsPrior, System, build_system, stages_of
from mvflow.systems.subsets import with_protocol
from mvflow.training import History, Processes

__all__ = ["ConfiguredEstimator"]


class ConfiguredEstimator:
    """An estimator's configuration and the system that it describes."""

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
        if stray := [m for m in specs if not isinstance(m, Modality)]:
            msg = (
                f"modalities holds {stray[0]!r}: expected a list of mvflow.Modality, "
                'as in [Modality("rna", (2000,)), Modality("protein", (30,))]'
            )
            raise UsageError(msg)
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
        """An untrained estimator of a complete configuration of its system.

        Examples:
            >>> type(model).from_config(model.config).trained_
            ()
        """
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

        Examples:
            >>> JNF.from_recipe("toy", "joint.epochs=3").config.joint.epochs
            3
        """
        return cls.from_config(
            config_from_dict(recipe(name, [f"system={cls.system}", *assignments]))
        )

    @classmethod
    def from_mudata(
        cls,
        mdata: Any,
        *assignments: str,
        layers: Mapping[str, str] | None = None,
        covariates: Iterable[str] = (),
    ) -> tuple[Self, AnnotatedRows]:
        """An untrained estimator that suits a MuData object, and its rows, for `fit`.

        The recipe `auto` chooses networks; matrices of counts get a likelihood of counts, with the
        library size of each row where there are many columns; other numbers are standardised.

        Args:
            mdata: whose modalities become those of the model.
            assignments: `section.key=value` changes to the configuration.
            layers: modality -> layer that stands for `X`, such as `{"rna": "counts"}`.
            covariates: columns of `obs`, or `modality:column`.

        Raises:
            DataError: if a layer, a column or a value is missing.
            UsageError: if a modality is unknown.

        Examples:
            >>> import anndata, mudata
            >>> _ = mudata.set_options(pull_on_update=False)
            >>> parts = {n: anndata.AnnData(v) for n, v in rows.items()}
            >>> for name, part in parts.items():
            ...     part.var_names = [f"{name}{i}" for i in range(part.n_vars)]
            >>> made, cells = JNF.from_mudata(mudata.MuData(parts), "joint.epochs=1")
            >>> made.fit(cells).encode(cells.take([0, 1]))[0].shape
            (2, 2)
        """
        cells = rows_of_mudata(mdata, layers, covariates)
        return cls.from_config(config_for(cells, cls.system, assignments)), cells

    @classmethod
    def from_anndata(
        cls,
        adata: Any,
        *assignments: str,
        matrices: Mapping[str, str],
        covariates: Iterable[str] = (),
    ) -> tuple[Self, AnnotatedRows]:
        """An untrained estimator of matrices of one AnnData object, and its rows, for `fit`.

        Args:
            adata: the object.
            assignments: `section.key=value` changes to the configuration.
            matrices: modality -> where its matrix is: `X`, `layers/counts`, `obsm/protein`.
            covariates: columns of `obs`.

        Raises:
            DataError: if a matrix, a column or a value is missing.

        Examples:
            >>> import anndata
            >>> adata = anndata.AnnData(rows["a"], obsm={"b": rows["b"]})
            >>> matrices = {"a": "X", "b": "obsm/b"}
            >>> made, cells = JNF.from_anndata(adata, "latent_dim=3", matrices=matrices)
            >>> made.config.latent_dim, cells.row_names[:2]
            (3, ('0', '1'))
        """
        cells = rows_of_anndata(adata, matrices, covariates)
        return cls.from_config(config_for(cells, cls.system, assignments)), cells

    def with_parts(self, **kinds: Any) -> Self:
        """An estimator with other kinds of parts, `subset="amortised"`; it shares what it can.

        A name keeps the settings that both kinds have; a mapping or an object is taken as it is.

        Stages that do not depend on the change stay trained.

        Raises:
            UsageError: if the system has no such part, or there is no such kind.

        Examples:
            >>> model.with_parts(posterior="gaussian").trained_  # the flows are to be trained anew
            ('joint',)
        """
        config = self.config
        for field, kind in kinds.items():
            config = with_part(config, field, kind)
        return self._like(config)

    def with_settings(self, **settings: Any) -> Self:
        """An estimator with other values of some fields of its configuration, as `with_parts`.

        Raises:
            ConfigError: if there is no such field or a value cannot be used.

        Examples:
            >>> model.with_settings(sampler={"kind": "sir"}).trained_
            ('joint', 'flows')
        """
        return self._like(config_from_dict({**self.config.model_dump(), **settings}))

    def with_protocol(self, name: str) -> Self:
        """An estimator that draws as the paper does: its sampler and divisor, and no ball.

        Args:
            name: "paper", or "paper-f3", which divides products by the prior once (F.3).

        Raises:
            UsageError: if there is no such protocol, or the subset rule is not a product.

        Examples:
            >>> model.with_protocol("paper").config.subset.divisor
            'prior'
        """
        return self._like(with_protocol(self.config, name))

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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Arguments of the constructor, as they were given.

        Examples:
            >>> model.get_params()["latent_dim"]
            2
        """
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

        Examples:
            >>> JNF(specs, latent_dim=2).set_params(joint__epochs=3).config.joint.epochs
            3
        """
        new = self.get_params()
        for key, value in params.items():
            section, _, setting = key.partition("__")
            if setting:
                now = self.config.model_dump().get(section)
                value = {**(now if isinstance(now, Mapping) else {}), setting: value}
            new[section] = value
        if params:
            changed = type(self)(**new)
            self.__dict__ = changed.__dict__
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

    def _adopt(self, other: ConfiguredEstimator) -> None:
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
        """Names of the stages trained so far, in order.

        Examples:
            >>> model.trained_
            ('joint', 'flows')
        """
        return tuple(self.records_)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications, sorted by name.

        Examples:
            >>> [m.name for m in model.modalities]
            ['a', 'b']
        """
        return self.config.specifications()

    @property
    def latent_dim(self) -> int:
        """Dimension of z, with all its parts.

        Examples:
            >>> model.latent_dim
            2
        """
        return self._fitted_system().latent.dim

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages of the configured system, in order.

        Examples:
            >>> JNF(specs, latent_dim=2).stage_names
            ('joint', 'flows')
        """
        return self._plan().names

    def facts(self) -> dict[str, str]:
        """What the model is, in a few words each, for reports and tables.

        Examples:
            >>> model.facts()["posterior"]
            'MAF, 2 transforms'
        """
        self._plan()
        system, prior = self.system_, self.config.prior.title
        if system.fitted_prior is None and isinstance(system, LearnsPrior):
            learned = system.learned_prior
            prior = prior if learned is None else learned.title
        return {**system.facts(), "prior": prior}

    def _plan(self) -> Plan:
        if not hasattr(self, "plan_"):
            self._build()
        return self.plan_

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
