"""`mvflow choose-prior`: the prior for draws without any observation, by held-out likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mvflow_cli.opening import open_store, set_up
from mvflow_cli.options import Device, Json, RunPath, Seed, StorePath, Threads
from mvflow_cli.output import say, show, show_json
from mvflow_cli.training import TrainOptions, train_stages

if TYPE_CHECKING:
    from mvflow.tuning import PriorScore

__all__ = ["choose_prior"]


def choose_prior(
    run: RunPath,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="A kind to try ('mvflow list priors'); may be repeated. By default all.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit priors of several kinds, score them on held-out rows, and give the run the best.

    The score is the mean of log p(z), z ~ q(z|X) of training rows that the fit has not seen: the
    part of the ELBO that depends on the prior. The best is then fitted to all training rows.

    Example: mvflow choose-prior runs/toy
    """
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory
    from mvflow.tuning import best_prior, score_priors

    set_up(device, threads)
    opened = RunDirectory.open(run)
    model = load(run, device)
    opened.require([name for name in model.stage_names if name != "prior"], model.plan_)
    with open_store(opened, model.config, store) as data:
        scores = score_priors(
            model,
            data[model.config.data.train],
            None if prior is None else list(dict.fromkeys(prior)),
            seed=seed,
            callback=lambda score: say(_sentence(score), err=True) if json else None,
        )
    best = best_prior(scores)
    if not json:
        show(_table(str(run), scores))
    config = opened.config()
    if best == "standard":
        if config.prior.kind != best:
            from mvflow.config import with_part

            opened.write_config(with_part(config, "prior", best))
    else:
        options = TrainOptions(
            store=store, device=device, json=json, settings=(f"prior.kind={best}",)
        )
        train_stages(run, ["prior"], options)
    if json:
        show_json({"run": str(run), "prior": best, "scores": {s.kind: _about(s) for s in scores}})
        return
    say(f"{run}: prior {best}")


def _sentence(score: PriorScore) -> str:
    found = score.log_density
    return f"{score.kind}: {score.why_not if found is None else f'{found.mean:.2f} nats'}"


def _about(score: PriorScore) -> dict[str, object]:
    if score.log_density is None:
        return {"why_not": score.why_not}
    return {
        "log_density": score.log_density.mean,
        "standard_error": score.log_density.standard_error,
        "difference": score.difference.mean if score.difference else None,
        "difference_standard_error": score.difference.standard_error if score.difference else None,
    }


def _table(run: str, scores: list[PriorScore]) -> Table:
    table = Table(title=f"{run}: held-out log p(z), nats a row", title_justify="left")
    for name in ("prior", "log p(z)", f"less that of {scores[0].kind}"):
        table.add_column(name, justify="left" if name == "prior" else "right", overflow="fold")
    for kind, found, difference, why_not in scores:
        if found is None or difference is None:
            table.add_row(kind, "-", why_not)
            continue
        cells = (f"{v.mean:.2f} ± {v.standard_error:.2f}" for v in (found, difference))
        table.add_row(kind, *cells)
    return table
