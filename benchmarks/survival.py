"""Share of classes that survive reconstruction through q(z|X), as the first stage is trained.

    python -m benchmarks.survival --store tpm.h5 --recipe translated-polymnist-thumbnails-small
    python -m benchmarks.survival --store tpm.h5 --recipe ... --system mopoe --set joint.epochs=60
    python -m benchmarks.survival --quick

It caps the coherence of what a model generates. A row of the table is the mean over the test rows
that were drawn, given all modalities: encoded, decoded and judged by the classifiers beside the
store. One schedule is followed to its end, so rows before the last are of a training under way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    Rows,
    about,
    add_options,
    markdown,
    parsed,
    save,
    script_parser,
    show_last,
)
from benchmarks.noise import stage_on
from mvflow.config import Config, config_from_dict, recipe
from mvflow.core import Observed, generator
from mvflow.evaluation import ModalityClassifiers
from mvflow.nn import seeded
from mvflow.systems import Encodes, System, build_system, stages_of
from mvflow.training import Checkpoint, EpochRecord, NoOpCallback, Table, run_stage
from mvflow_datasets import Store, find_builder

BATCH = 500


def main() -> None:
    parser = script_parser("survival", __doc__)
    parser.add_argument("--store", type=Path, help="with classifiers beside it")
    parser.add_argument("--recipe", help="of the networks and the schedule")
    parser.add_argument("--system", help="in place of the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--every", type=int, default=5, help="epochs from one row to the next")
    parser.add_argument("--rows", type=int, default=2000, help="test rows that are reconstructed")
    add_options(parser)
    arguments = parsed(parser, "survival", {"every": 1, "rows": 32})
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick:
            arguments.store = Path(folder, "toy.h5")
            find_builder("toy").build(arguments.store, rows=200, test_rows=32)
            arguments.recipe = "toy"
            arguments.changes += ["joint.epochs=2", "joint.steps_per_epoch=2"]
            arguments.changes += ["classifiers.epochs=1", "classifiers.steps_per_epoch=2"]
        elif arguments.store is None or arguments.recipe is None:
            parser.error("name --store and --recipe, or use --quick")
        table = curve(arguments)
    out = {"about": about(device=arguments.device), "recipe": arguments.recipe}
    out |= {"changes": arguments.changes, "rows": arguments.rows}
    save(arguments.out, {**out, "table": table}, markdown(table))


def curve(arguments: argparse.Namespace) -> Rows:
    """Train the first stage, and measure after every few of its epochs."""
    named = [f"system={arguments.system}"] if arguments.system else []
    config = config_from_dict(recipe(arguments.recipe, [*named, *arguments.changes]))
    with Store.open(arguments.store) as store:
        train, test = store[config.data.train], store[config.data.test]
        at = generator(config.seed, "survival").permutation(len(test))[: arguments.rows]
        assert test.labels is not None
        cache = store.path.with_suffix(".classifiers.safetensors")
        classifiers = ModalityClassifiers.train(train, test, config.classifiers, cache=cache)
        stage = stage_on(train, first_stage(config), config, arguments.device)
        rows = Table.of(test, arguments.device).subset(at)
        assert isinstance(stage.model, System)
        callback = Survival(stage.model, rows, test.labels[at], classifiers, arguments.every)
        run_stage(stage, seed=config.seed, callback=callback)
    return callback.table


def first_stage(config: Config) -> str:
    """Name of the stage that trains the decoders."""
    return stages_of(build_system(config))[0].name


class Survival(NoOpCallback):
    """Callback that encodes, decodes and classifies rows after every few epochs."""

    def __init__(
        self,
        system: System,
        rows: Table,
        labels: np.ndarray,
        classifiers: ModalityClassifiers,
        every: int,
    ) -> None:
        self.system, self.rows, self.labels = system, rows, labels
        self.classifiers, self.every = classifiers, every
        self.table: Rows = []
        self._cpu_seconds = 0.0
        self._began = time.process_time()

    def on_epoch(self, record: EpochRecord, checkpoint: Callable[[], Checkpoint]) -> None:
        self._cpu_seconds += time.process_time() - self._began
        if (record.epoch + 1) % self.every == 0 or record.epoch + 1 == record.epochs:
            kept = self.kept()
            line: dict[str, Any] = {
                "epoch": record.epoch + 1,
                "CPU seconds": round(self._cpu_seconds),
            }
            line |= {name: f"{share:.3f}" for name, share in kept.items()}
            line |= {"mean": f"{np.mean(list(kept.values())):.3f}", "loss": f"{record.loss:.1f}"}
            self.table.append(line)
            show_last(self.table)
        self._began = time.process_time()

    @torch.no_grad()
    def kept(self) -> dict[str, float]:
        """Modality -> share of rows whose class survives."""
        training = self.system.training
        self.system.eval()
        classes: dict[str, list[np.ndarray]] = {m.name: [] for m in self.system.modalities}
        with seeded(0, "survival"):
            for batch in self.rows.batches(BATCH):
                z = _latents(self.system, Observed.from_columns(batch))
                for name, of in self.system.decode(z).items():
                    images = of.mean.float().cpu().numpy()
                    classes[name].append(self.classifiers.predict(name, images))
        self.system.train(training)
        return {n: float((np.concatenate(v) == self.labels).mean()) for n, v in classes.items()}


def _latents(system: System, observed: Observed) -> torch.Tensor:
    """One draw of q(z|X) for each row."""
    posterior = (
        system.encode(observed) if isinstance(system, Encodes) else system.posterior(observed)
    )
    if not isinstance(posterior, torch.distributions.Distribution):
        raise SystemExit(f"{type(system).__name__} gives no normalised q(z|X)")
    return posterior.sample()


if __name__ == "__main__":
    main()
