"""The stages of JNF and JNF-Shared: projectors, joint VAE, posteriors (paper 3.1, 3.2, 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvflow.config import Config
from mvflow.core import DataError, generator
from mvflow.models import JNFModel, Losses
from mvflow.nn import ModalityDict, Standardise
from mvflow.posteriors import FlowPosterior
from mvflow.projectors import OBJECTIVES
from mvflow.training.distributed import whole
from mvflow.training.schedules import annealed
from mvflow.training.stage import Stage
from mvflow.training.table import MappedColumn, Table, TensorColumn

__all__ = ["build_stage", "finish_stage"]

CHUNK = 2048
"""Rows encoded at once when a frozen part is computed for all rows."""


def build_stage(
    name: str, model: JNFModel, config: Config, rows: Table, validation: Table | None = None
) -> Stage:
    """The stage `name` of a model, ready for `run_stage`.

    Args:
        name: "projectors", "joint", "flows" or "amortised".
        model: its parts trained by earlier stages are frozen here: they are evaluated once for
            every row and the results become the columns that this stage trains on.
        config: settings of the stage.
        rows: training rows; a share of them is held out unless `validation` is given.
        validation: held-out rows.
    """
    if validation is None:
        rows, validation = rows.split(config.data.validation, generator(config.seed, "validation"))
    build = {
        "projectors": _projector_stage,
        "joint": _joint_stage,
        "flows": _flows_stage,
        "amortised": _amortised_stage,
    }
    return build[name](model, config, rows, validation)


def finish_stage(name: str, model: JNFModel, rows: Table) -> None:
    """What a stage leaves behind besides its weights: the extent of the latents after `joint`."""
    if name == "joint":
        model.joint.record_latents(*_joint_posterior(model, rows))


def _projector_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None
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
        total = objective({name: whole(g(batch[name])) for name, g in projectors.items()})
        return Losses(total, {config.projectors.kind: total})

    return Stage("projectors", projectors, loss, config.projectors, rows, validation)


def _joint_stage(model: JNFModel, config: Config, rows: Table, validation: Table | None) -> Stage:
    settings = config.joint

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        beta = annealed(settings.beta_start, settings.beta, settings.anneal, progress)
        return model.joint.losses(batch, beta)

    return Stage("joint", model.joint, loss, settings, rows, validation)


def _flows_stage(model: JNFModel, config: Config, rows: Table, validation: Table | None) -> Stage:
    for _, posterior in model.flows.items():
        _standardise_latent(posterior, model)

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        z = _joint_draw(batch)
        terms = {name: q(batch[name]).log_prob(z).mean() for name, q in model.flows.items()}
        return Losses(-torch.stack(list(terms.values())).sum(), terms)

    cached, held = _cached(model, rows), None if validation is None else _cached(model, validation)
    _standardise_conditions(model.flows, cached)
    return Stage("flows", model.flows, loss, config.flows, cached, held)


def _amortised_stage(
    model: JNFModel, config: Config, rows: Table, validation: Table | None
) -> Stage:
    posterior, names = model.amortised, [m.name for m in model.modalities]
    assert posterior is not None
    _standardise_latent(posterior.posterior, model)

    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        z = _joint_draw(batch)
        observed = torch.rand(len(z), len(names), device=z.device) < 0.5  # all 2^M subsets alike
        fit = posterior({name: batch[name] for name in names}, observed).log_prob(z).mean()
        return Losses(-fit, {"log_density": fit})

    cached, held = _cached(model, rows), None if validation is None else _cached(model, validation)
    _standardise_conditions(posterior.encoders, cached)
    return Stage("amortised", posterior, loss, config.amortised, cached, held)


def _joint_draw(batch: Mapping[str, Tensor]) -> Tensor:
    """Draws of q(z|X), one for each row, at which all posteriors are trained (Eq. 8)."""
    return torch.addcmul(batch["loc "], batch["scale "], torch.randn_like(batch["loc "]))


def _standardise_latent(posterior: nn.Module, model: JNFModel) -> None:
    assert isinstance(posterior, FlowPosterior)
    posterior.standardise(model.joint.latent_mean, model.joint.latent_std)


def _standardise_conditions(networks: ModalityDict, cached: Table) -> None:
    """Fit what standardises conditions: a projection's scale is arbitrary, DCCA's above all."""
    all_rows = torch.arange(len(cached), device=cached.device)
    for name, network in networks.items():
        for part in network.modules():
            if isinstance(part, Standardise):
                part.fit(cached.columns[name].gather(all_rows))


def _cached(model: JNFModel, rows: Table) -> Table:
    """Rows with the frozen q(z|X) of each, and the conditions: x_j, or g_j(x_j) computed once.

    The names of the added columns end in a space, which no modality's name may hold.
    """
    loc, scale = _joint_posterior(model, rows)
    conditions = dict(rows.columns)
    if model.projectors is not None:
        conditions = {
            name: TensorColumn(_mapped(g, rows.columns[name]), rows.columns[name].index)
            for name, g in model.projectors.items()
        }
    return rows.with_columns(conditions).joined({"loc ": loc, "scale ": scale})


@torch.no_grad()
def _mapped(module: nn.Module, column: TensorColumn | MappedColumn) -> Tensor:
    """What a frozen network makes of each stored value, whatever rows share it."""
    module.eval()
    stored = replace(column, index=None)
    whole = Table({"x": stored}, column.length)
    return torch.cat([module(batch["x"]).float() for batch in whole.batches(CHUNK)])


@torch.no_grad()
def _joint_posterior(model: JNFModel, rows: Table) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|X) of every row, (rows, latent_dim), in float32."""
    model.joint.eval()
    found = [model.joint.posterior(batch).base_dist for batch in rows.batches(CHUNK)]
    return torch.cat([q.loc for q in found]), torch.cat([q.scale for q in found])
