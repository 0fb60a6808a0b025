"""Training on noise: what it costs does not depend on the values of the rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from mvflow.config import Config
from mvflow.core import ArraySource, Modality, Source
from mvflow.systems import build_system, stages_of
from mvflow.training import Compile, Stage, Table, build_stage, compiled
from mvflow.training.captured import training_step
from mvflow.training.step import Step, Sums, new_optimizer

STAGES = (
    ("joint", "jnf"),
    ("flows", "jnf"),
    ("projectors", "jnf-shared"),
    ("flows", "jnf-shared"),
)
"""Stage and system: all that the recipes train."""


def noise(modalities: Iterable[Modality], rows: int) -> ArraySource:
    """Random rows, images as bytes and all else as floats in [0, 1]."""
    rng, arrays, modalities = np.random.default_rng(0), {}, tuple(modalities)
    for m in modalities:
        shape = (rows, *m.shape)
        if m.kind == "bernoulli":
            arrays[m.name] = 255 * rng.integers(0, 2, shape, np.uint8)
        elif len(m.shape) == 3 and m.shape[1] == m.shape[2]:
            arrays[m.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            arrays[m.name] = rng.random(shape, np.float32)
    return ArraySource(arrays, modalities)


def stage_on(source: Source, name: str, config: Config, device: str) -> Stage:
    """The stage `name`, new and ready for `run_stage`, with no rows held out."""
    system = build_system(config).to(device).eval().requires_grad_(False)
    (spec,) = (spec for spec in stages_of(system) if spec.name == name)
    spec.module.requires_grad_(True)
    return build_stage(spec, system, Table.of(source, device))


class Epochs:
    """Epochs of a stage, step for step as `run_stage` has them, without what comes at their ends.

    There is no validation, checkpoint or callback. A step that is captured or compiled is kept
    from one call to the next.

    Args:
        stage: what to train.
        compile: how steps are computed; see `run_stage`.
        rows: positions of the rows of each batch, (steps, batch); by default all, once,
            in random order.
    """

    def __init__(
        self, stage: Stage, compile: Compile = "auto", rows: torch.Tensor | None = None
    ) -> None:
        self.stage = stage = compiled(stage) if compile == "torch" else stage
        size = stage.settings.batch_size
        if rows is None:
            order = np.random.default_rng(0).permutation(len(stage.train))
            rows = torch.from_numpy(order[: len(order) // size * size])
        self.rows = rows.to(stage.train.device).view(-1, size)
        self._sums = Sums()
        self._step = training_step(Step(stage, new_optimizer(stage), self._sums), compile)

    def __call__(self) -> None:
        """Train on all batches, and wait for the device."""
        self.stage.trainable.train()
        for i, batch in enumerate(self.rows):
            self._step(batch, i / len(self.rows))
        self._sums.means()

    def warm_up(self) -> None:
        """Train for one epoch, in which libraries initialise and losses are compiled."""
        self()
