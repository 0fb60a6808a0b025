"""The stages of JNF and JNF-Shared: projectors, joint VAE, posteriors (paper 3.1, 3.2, 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mvflow.config import Config
from mvflow.core import DataError, generator
from mvflow.models import JNFModel, Losses
from mvflow.nn import ModalityDict, Standardise
from mvflow.posteriors import FlowPosterior
from mvflow.projectors import OBJECTIVES
from mvflow.training.caching import CHUNK, LATENTS, Cache, conditioned, latents
from mvflow.training.distributed import all_gather
from mvflow.training.schedules import annealed
from mvflow.training.stage import Stage
from mvflow.training.table import Table

__all__ = ["build_stage", "finish_stage", "fit_prior"]


def build_stage(
    name: str,
    model: JNFModel,
    config: Config,
    rows: Table,
    validation: Table | None = None,
    cache: Cache | None = None,
) -> Stage:
    """The stage `name` of a model, ready for `run_stage`.

    Args:
        name: "projectors", "joint", "flows" or "amortised".
        model: its parts trained by earlier stages are frozen here: they are evaluated once for
            every row and the results become the columns that this stage trains on.
        config: settings of the stage.
        rows: training rows; a share of them is held out unless `validation` is given.
        validation: held-out rows.
        cache: where to keep what frozen parts give, if it is too large for memory.

    Raises:
        DataError: if there are too few rows, or the cache cannot be written.
    """
    if validation is None:
        rows, validation = rows.split(config.data.validation, generator(config.seed, "validation"))
    tables = (rows,) if validation is None else (rows, validation)
    if name in ("flows", "amortised"):
        build = {"flows": _flows_stage, "amortised": _amortised_stage}[name]
        stage = build(model, config, *conditioned(model, tables, cache))
    else:
        build = {"projectors": _projector_stage, "joint": _joint_stage}[name]
        stage = build(model, config, *tables)
    return replace(stage, model=model, resident_tables=tables)


def finish_stage(name: str, model: JNFModel, rows: Table, cache: Cache | None = None) -> None:
    """What a stage leaves behind besides its weights: the extent of the latents after `joint`.

    Raises:
        DataError: if the cache cannot be written.
    """
    if name == "joint":
        model.joint.record_latents(*latents(model, rows, cache))


def fit_prior(
    model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Table:
    """Fit the model's prior to one draw of q(z|X) for each of `config.prior.rows` training rows.

    Args:
        model: its joint stage is trained.
        config: settings of the prior.
        rows: training rows; a share of them is held out unless `validation` is given.
        validation: held-out rows.

    Returns:
        The rows that it was fitted to.
    """
    assert model.prior is not None
    if validation is None:
        rows, _ = rows.split(config.data.validation, generator(config.seed, "validation"))
    random = generator(config.seed, "prior")
    chosen = rows.subset(np.sort(random.permutation(len(rows))[: config.prior.rows]))
    loc, scale = (part.double().cpu().numpy() for part in latents(model, chosen))
    model.prior.fit(loc + scale * random.standard_normal(loc.shape), random)
    return chosen


def _projector_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Stage:
    projectors, objective = model.projectors, OBJECTIVES[config.projectors.kind](config.projectors)
    assert projectors is not None
    fewest = 10 * config.projectors.dim if config.projectors.kind == "dcca" else 2
    for what, table in (("training", rows), ("validation", validation)):
        if table is not None and len(table) < fewest:
            msg = (
                f"{len(table)} {what} rows are too few for projectors of dimension "
                f"{config.projectors.dim}: at least {fewest} are needed"
            )
            raise DataError(msg)

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        total = objective({name: all_gather(g(batch[name])) for name, g in projectors.items()})
        return Losses(total, {config.projectors.kind: total})

    return Stage("projectors", projectors, loss, config.projectors, rows, validation)


def _joint_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Stage:
    settings = config.joint

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        beta = annealed(settings.beta_start, settings.beta, settings.anneal, progress)
        return model.joint.losses(batch, beta)

    return Stage("joint", model.joint, loss, settings, rows, validation)


def _flows_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Stage:
    for _, posterior in model.flows.items():
        _standardise_latent(posterior, model)

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        z = _joint_draw(batch)
        terms = {name: q(batch[name]).log_prob(z).mean() for name, q in model.flows.items()}
        return Losses(-torch.stack(list(terms.values())).sum(), terms)

    _standardise_conditions(model.flows, rows)
    return Stage("flows", model.flows, loss, config.flows, rows, validation)


def _amortised_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Stage:
    posterior, names = model.amortised, [m.name for m in model.modalities]
    assert posterior is not None
    _standardise_latent(posterior.posterior, model)

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        z = _joint_draw(batch)
        observed = torch.rand(len(z), len(names), device=z.device) < 0.5  # all 2^M subsets alike
        fit = posterior({name: batch[name] for name in names}, observed).log_prob(z).mean()
        return Losses(-fit, {"log_density": fit})

    _standardise_conditions(posterior.encoders, rows)
    return Stage("amortised", posterior, loss, config.amortised, rows, validation)


def _joint_draw(batch: Mapping[str, Tensor]) -> Tensor:
    """Draws of q(z|X), one for each row, at which all posteriors are trained (Eq. 8)."""
    loc, scale = batch[LATENTS].unbind(1)
    return torch.addcmul(loc, scale, torch.randn_like(loc))


def _standardise_latent(posterior: nn.Module, model: JNFModel) -> None:
    assert isinstance(posterior, FlowPosterior)
    posterior.standardise(model.joint.latent_mean, model.joint.latent_std)


def _standardise_conditions(networks: ModalityDict, rows: Table) -> None:
    """Fit what standardises conditions: a projection's scale is arbitrary, DCCA's above all."""
    for name, network in networks.items():
        for part in network.modules():
            if isinstance(part, Standardise):
                part.fit(partial(_blocks, rows, name))


def _blocks(rows: Table, name: str) -> Iterator[Tensor]:
    """One column, some rows after others, without the rest."""
    for at in torch.arange(len(rows), device=rows.device).split(CHUNK):
        yield rows.columns[name].gather(at)
