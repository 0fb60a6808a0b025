"""Time that the training of a run will take, from a few measured steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvflow.core import Source
    from mvflow_cli.jobs import Job

__all__ = ["stage_seconds"]

STEPS, EPOCHS = 4, 2
"""Of the short training; the rate of its last epoch counts, when all is warm."""


def stage_seconds(job: Job, train: Source, device: str) -> dict[str, float]:
    """Seconds of each stage if it takes all its epochs; stages in closed form are left out.

    Args:
        job: a run; it is not changed.
        train: its training rows.
        device: where it will be trained.
    """
    import numpy as np

    from mvflow.config import config_from_dict
    from mvflow.estimators import estimator_class

    stages = {spec.name: spec.settings for spec in job.plan.stages if spec.settings is not None}
    sections = {
        name: {**settings.model_dump(mode="json"), "epochs": EPOCHS, "steps_per_epoch": STEPS}
        for name, settings in stages.items()
    }
    short = config_from_dict({**job.config.model_dump(mode="json"), **sections})
    rows = min(len(train), STEPS * max(settings.batch_size for settings in stages.values()))
    numbers = np.linspace(0, len(train) - 1, rows).astype(int)
    model = estimator_class(short.system).from_config(short)
    logging.disable(logging.WARNING)  # so few steps teach nothing, which would be said
    try:
        model.fit(train.take(numbers), device=device)
    finally:
        logging.disable(logging.NOTSET)
    rates = {r["stage"]: r["samples_per_second"] for r in model.history_}
    seconds = {}
    for name, settings in stages.items():
        epoch = len(train)
        if settings.steps_per_epoch is not None:
            epoch = min(epoch, settings.steps_per_epoch * settings.batch_size)
        seconds[name] = settings.epochs * epoch / rates[name]
    return seconds
