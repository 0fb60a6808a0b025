"""JNF and JNF-Shared (Senellart and Allassonnière 2025): joint VAE, flow posteriors, subsets.

1. A joint VAE learns p(X|z) and q(z|X) (paper 3.1; `joint_vae.py`).
2. A posterior q(z|x_j) of each modality is trained on draws of the frozen q(z|X) (3.2). In
   JNF-Shared it sees only g_j(x_j), a projection to what modalities share, trained first (3.4).
3. A subset rule makes q(z|x_S) of any subset, by default their product (3.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Config, Later, Training
from mvflow.core import PRESENT, Observed, UsageError, registry
from mvflow.core.parts import Kind, create, dump
from mvflow.nn import (
    MLP,
    ConditionalNetwork,
    ModalityDict,
    Standardise,
    all_gather,
    concurrently,
    seeded,
    total_width,
)
from mvflow.posteriors import FlowPosterior, MatchingPosterior, build_posterior
from mvflow.projectors import Objective
from mvflow.stages import CachedColumn, Losses, Rows, StageSpec
from mvflow.systems.augmenting import augmentation_settings, augmentations_of, augmented
from mvflow.systems.decoders import build_encoder
from mvflow.systems.importance_weighted import importance_weighted_losses
from mvflow.systems.joint_system import JointEncoderSystem, JointTraining, build_joint_vae
from mvflow.systems.joint_vae import JointVAE
from mvflow.systems.masking import zero_unless
from mvflow.systems.pairs import check_pairs, warn_unless_learned
from mvflow.systems.sampling import check_samples

__all__ = ["JNF", "JNFShared"]

PROJECTIONS = "cached/projections/"
"""How columns of projections are named that stand beside the data."""


class Flows(Training):
    """Unimodal posteriors (paper 3.2); `summary_hidden` are the widths between g_j and them."""

    summary_hidden: tuple[PositiveInt, ...] = (512, 512)


class ImportanceWeighted(JointTraining):
    """Joint VAE (paper 3.1), by the ELBO of one draw, or the bound of `samples` draws (section 5).

    With several draws the bound is tighter, and a training step takes that many decoder passes.
    """

    samples: Annotated[PositiveInt, Later()] = 1


class JNF(JointEncoderSystem):
    """Joint VAE with normalizing-flow posteriors (paper 3.1 to 3.4).

    With a `projector` it is JNF-Shared: posteriors see only g_j(x_j). `posterior` is the family of
    the unimodal posteriors, `subset` what stands for several modalities.
    """

    class Settings(Config):
        """Settings of JNF."""

        system: str = "jnf"
        joint: ImportanceWeighted = ImportanceWeighted()
        projector: Annotated[Any, Kind("projectors", optional=True)] = None
        projectors: Training = Training()
        posterior: Annotated[Any, Kind("posteriors")] = Field(
            default_factory=lambda: create("posteriors", "maf")
        )
        flows: Flows = Flows()
        subset: Annotated[Any, Kind("subsets")] = Field(
            default_factory=lambda: create("subsets", "product")
        )

        @model_validator(mode="after")
        def _independent_by_one_draw(self) -> Self:
            if self.joint.samples > 1 and self.joint.independence:
                msg = "joint.independence is for the ELBO of one draw: leave joint.samples at 1"
                raise ValueError(msg)
            return self

        def unread(self) -> dict[str, str]:
            """What only posteriors of single modalities, or trained projectors, would read."""
            out, rule = super().unread(), self.subset
            if not rule.uses_experts:
                why = f"subset.kind = {rule.kind!r} has no posteriors of single modalities"
                own = "subset.posterior is its own; " if hasattr(rule, "posterior") else ""
                out["posterior"] = f"{why}; {own}subset.kind = 'product' multiplies such ones"
                own = "; its own epochs are subset.epochs" if isinstance(rule, Training) else ""
                out["flows"] = f"{why}, which that stage trains{own}"
            if not isinstance(self.projector, Objective):
                out["projectors"] = "there is no projector that is trained"
            return out

        @model_validator(mode="before")
        @classmethod
        def _trained_as_flows(cls, raw: Any) -> Any:
            return _with_training_of_flows(raw)

    def __init__(
        self,
        settings: JNF.Settings,
        joint: JointVAE,
        flows: Mapping[str, FlowPosterior] | None,
        projectors: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(settings, joint)
        self.projectors = None if projectors is None else ModalityDict(projectors)
        self.flows = None if flows is None else ModalityDict(flows)
        self.augmentations = augmentations_of(settings)
        self.subset_module = self.rule.build(self)

    @classmethod
    def build(cls, settings: Config) -> Self:
        """Assemble the networks; initial weights follow from the seed and the stages' names."""
        assert isinstance(settings, JNF.Settings)
        specs = {m.name: m for m in settings.specifications()}
        networks, seed, dim = settings.modalities, settings.seed, settings.latent_dim
        with seeded(seed, "weights", "joint"):
            joint = build_joint_vae(settings)
        projectors = None
        if settings.projector is not None:
            with seeded(seed, "weights", "projectors"):
                projectors = settings.projector.networks(
                    tuple(specs.values()),
                    lambda n, out, dropout: networks[n].projector.encoder(specs[n], out, dropout),
                )
        system = cls(settings, joint, None, projectors)
        if settings.subset.uses_experts:
            with seeded(seed, "weights", "flows"):
                hidden = settings.flows.summary_hidden
                flows = {
                    n: build_posterior(
                        settings.posterior, dim, partial(system.condition_encoder, n, hidden)
                    )
                    for n in specs
                }
            system.flows = ModalityDict(flows)
        return system

    # Distributions

    def expert(
        self, name: str, x: Tensor, covariates: Mapping[str, Tensor] | None = None
    ) -> Distribution:
        """q(z|x_j) (Eq. 10)."""
        assert self.flows is not None
        expert: Distribution = self.flows[name](self.condition(name, x), covariates)
        return expert

    def condition(self, name: str, x: Tensor) -> Tensor:
        """What the posterior of a modality sees of its rows: x_j, or g_j(x_j)."""
        return x if self.projectors is None else self.project(name, x)

    def project(self, name: str, x: Tensor) -> Tensor:
        """g_j(x_j) (Eq. 13)."""
        assert self.projectors is not None
        projected: Tensor = self.projectors[name](x)
        return projected.float()

    # Training

    def stages(self) -> Sequence[StageSpec]:
        """Projectors if there are any, the joint VAE, then what the subset rule needs."""
        joint = self.joint_stage(self.settings.joint, self._joint_losses)
        stages = [check_samples(joint, self.joint.decoders, 1)]
        if isinstance(self.settings.projector, Objective):
            stages.insert(0, self._projector_stage(self.settings.projector))
        if self.flows is not None:
            stages.append(self._flow_stage())
        return [*stages, *self.rule.stages(self, self.subset_module)]

    def _joint_losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        settings = self.settings.joint
        beta = settings.beta_at(progress)
        if settings.samples == 1:
            return self.joint.losses(observed, beta, settings.independence)
        q = self.encode(observed)
        return importance_weighted_losses(self.joint, q, observed, beta, settings.samples)

    def _projector_stage(self, objective: Objective) -> StageSpec:
        objective.check_batch(self.settings.projectors.batch_size)
        networks = self.settings.modalities
        kept = {"shape", "projector"}
        reads = {
            "projector": dump(objective, "projectors"),
            "modalities": {
                n: m.model_dump(mode="json", include=kept) for n, m in networks.items()
            },
            **augmentation_settings(self.augmentations),
        }

        def loss(observed: Observed, progress: float | Tensor) -> Losses:
            assert self.projectors is not None
            if self.projectors.training:
                observed = augmented(observed, self.augmentations)
            names = sorted(observed.x)
            calls = [partial(self.projectors[n], observed.encodable(n)) for n in names]
            projections = dict(zip(names, map(all_gather, concurrently(calls)), strict=True))
            masks = {
                n: all_gather(m.float()) > 0
                for n in names
                if (m := observed.is_present(n)) is not None
            }
            total = objective.loss(projections, **({"present": masks} if masks else {}))
            return Losses(total, {objective.kind: total})

        assert self.projectors is not None
        return StageSpec(
            "projectors",
            self.projectors,
            self.settings.projectors,
            loss,
            reads=reads,
            check=partial(
                check_pairs,
                [m.name for m in self.modalities],
                objective,
                self.settings.projectors.batch_size,
            ),
            finish=partial(
                warn_unless_learned,
                self.projectors,
                objective,
                self.settings.projectors.batch_size,
            ),
            min_rows=objective.min_rows,
        )

    def _flow_stage(self) -> StageSpec:
        flows = self.flows
        assert flows is not None

        def loss(z: Tensor, observed: Observed) -> Losses:
            def of(n: str, q: nn.Module) -> Tensor:
                density = q(observed.encodable(n), observed.covariates).log_prob(z)
                return zero_unless(observed.is_present(n), density).mean()

            posteriors = {n: q for n, q in flows.items() if n in observed.x}
            found = concurrently([partial(of, n, q) for n, q in posteriors.items()])
            terms = dict(zip(posteriors, found, strict=True))
            return Losses(-torch.stack(list(terms.values())).sum(), terms)

        reads = {"posterior": dump(self.settings.posterior, "posteriors")}
        return self.posterior_stage("flows", flows, self.settings.flows, reads, loss)

    def posterior_stage(
        self,
        name: str,
        module: nn.Module,
        settings: Training,
        reads: Mapping[str, Any],
        loss: Any,
        *,
        keep_data: bool = False,
    ) -> StageSpec:
        """A stage on draws of the frozen q(z|X), one of each row (Eq. 8)."""
        prefix, augments = PROJECTIONS if keep_data else "", bool(self.augmentations)

        def seen(observed: Observed) -> Observed:
            """With what posteriors see of the rows, where that could not be computed before."""
            if augments and module.training:
                observed = augmented(observed, self.augmentations)
            if self.projectors is None or not augments:
                return observed
            with torch.no_grad():
                projections = {
                    prefix + n: self.project(n, observed.encodable(n)) for n in observed.x
                }
            if not keep_data:
                return observed._replace(x=projections)
            ready = {k.removeprefix("cached/"): g for k, g in projections.items()}
            return observed._replace(cached={**observed.cached, **ready})

        def of_batch(observed: Observed, progress: float | Tensor) -> Losses:
            loc, scale = observed.cached["joint_posterior"].unbind(1)
            z = torch.addcmul(loc, scale, torch.randn_like(loc))
            return loss(z, seen(observed))

        def blocks(rows: Rows, name: str, is_data: bool) -> Iterator[Tensor]:
            if is_data or self.projectors is None:
                return _column(rows, name)
            if not augments:
                return _column(rows, prefix + name)
            return (self.project(name, x) for x in _column(rows, name))

        def start(rows: Rows) -> None:
            for part in module.modules():
                if isinstance(part, FlowPosterior | MatchingPosterior):
                    part.standardise(self.latent_mean, self.latent_std)
            for column, is_data, encoder in _encoders(module):
                for part in encoder.modules():
                    if isinstance(part, Standardise):
                        part.fit(partial(blocks, rows, column, is_data))

        columns, needs = [self.latents], self.encoder_stages
        reads = {**reads, **augmentation_settings(self.augmentations)}
        if self.projectors is not None:
            if not augments:
                columns += [self._projections(m.name, prefix) for m in self.modalities]
            if isinstance(self.settings.projector, Objective):
                needs = ("projectors", "joint")
            reads = {**reads, "projector": dump(self.settings.projector, "projectors")}
        if self.projectors is None or keep_data:
            networks = self.settings.modalities
            reads = {
                **reads,
                "encoders": {n: dump(m.encoder, "networks") for n, m in networks.items()},
            }
        return StageSpec(
            name, module, settings, of_batch, needs, reads, columns=columns, start=start
        )

    def condition_encoder(
        self, name: str, hidden: Sequence[int], out_features: int, *, data: bool = False
    ) -> nn.Module:
        """From what a posterior sees of a modality, or from its data, to features."""
        modality = next(m for m in self.modalities if m.name == name)
        if data or self.settings.projector is None:
            return build_encoder(self.settings, modality, out_features)
        width, covariates = (
            self.settings.projector.width(modality),
            self.settings.covariate_specs(),
        )
        if not covariates:
            return nn.Sequential(Standardise(width), MLP(width, *hidden, out_features))
        mlp = MLP(width + total_width(covariates), *hidden, out_features)
        return ConditionalNetwork(Standardise(width), mlp, [c.name for c in covariates])

    def _projections(self, name: str, prefix: str = "") -> CachedColumn:
        """g_j of each stored value of a modality; without a prefix it takes their place."""
        assert self.projectors is not None
        modules, compute = (self.projectors[name],), partial(self.project, name)
        return CachedColumn(prefix + name, compute, modules, ("projectors",), name)

    def facts(self) -> Mapping[str, str]:
        """System, posterior, subset rule and projector by name."""
        settings = self.settings
        projector, family = (type(p).__name__ for p in (settings.projector, settings.posterior))
        facts = {"system": "JNF" if self.projectors is None else f"JNF-Shared ({projector})"}
        if self.flows is not None:
            transforms = getattr(settings.posterior, "transforms", 0)
            facts["posterior"] = f"{family}, {transforms} transforms" if transforms else family
        if isinstance(settings.projector, Objective):
            facts["projector"] = f"{projector}, dimension {settings.projector.dim}"
        return facts | {"subset": self.rule.words(), "beta": self.settings.joint.beta_words()}


class JNFShared(JNF):
    """JNF whose posteriors see only what the modalities share, g_j(x_j) (paper 3.4): a preset."""

    class Settings(JNF.Settings):
        """Settings of JNF with a projector by default."""

        system: str = "jnf-shared"
        projector: Annotated[Any, Kind("projectors", optional=True)] = Field(
            default_factory=lambda: create("projectors", "contrastive")
        )


def _with_training_of_flows(raw: Any) -> Any:
    """What a trained subset rule's section lacks is that of `flows`, with twice the epochs."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("subset"), str | Mapping):
        return raw
    subset, flows = raw["subset"], raw.get("flows", {})
    subset = {"kind": subset} if isinstance(subset, str) else dict(subset)
    flows = flows.model_dump() if isinstance(flows, Training) else flows
    if not isinstance(flows, Mapping) or not isinstance(subset.get("kind"), str):
        return raw
    try:
        rule = registry("subsets").load(subset["kind"])
    except UsageError:
        return raw
    if not issubclass(rule, Training):
        return raw
    same = {k: v for k, v in flows.items() if k in rule.model_fields}
    if isinstance(same.get("epochs"), int):
        same["epochs"] *= 2
    return {**raw, "subset": {**same, **subset}}


def _encoders(module: nn.Module) -> Iterator[tuple[str, bool, nn.Module]]:
    """Networks within the module of posteriors: modality, whether it sees data, network."""
    seen = module if isinstance(module, ModalityDict) else getattr(module, "encoders", None)
    for is_data, encoders in ((False, seen), (True, getattr(module, "data_encoders", None))):
        if isinstance(encoders, ModalityDict):
            yield from ((name, is_data, encoder) for name, encoder in encoders.items())


def _column(rows: Rows, name: str) -> Iterator[Tensor]:
    """A column in the rows that have its modality, some at a time."""
    mask, values = PRESENT + name.removeprefix(PROJECTIONS), rows.only(name).batches(2048)
    if mask not in next(iter(rows.batches(1))):
        yield from (batch[name] for batch in values)
        return
    for batch, there in zip(values, rows.only(mask).batches(2048), strict=True):
        yield batch[name][there[mask].flatten(1).any(1) if there[mask].ndim > 1 else there[mask]]
