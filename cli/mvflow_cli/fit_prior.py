"""`mvflow fit-prior`: what is drawn where nothing is observed."""

from __future__ import annotations

from typing import Annotated

import typer

from mvflow_cli.options import Again, Device, Json, RunPath, StorePath, Threads
from mvflow_cli.training import How, train_command

__all__ = ["fit_prior"]


def fit_prior(
    run: RunPath,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Gaussians in the mixture; by default as in config.toml.",
            show_default=False,
        ),
    ] = None,
    again: Again = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit a mixture of Gaussians to the latents, for samples without any observation.

    N(0, I) also reaches where no latents are, and what is decoded from there does not belong
    together. From now on the run's samples without --given come from the mixture.

    Example: mvflow fit-prior runs/toy
    """
    train_command(run, "prior", How(store, device, threads, again, json, components=components))
