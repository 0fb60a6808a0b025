"""Seconds until mvflow has the held-out ELBO at which MultiVae's trainer ends; prints Markdown.

    python -m benchmarks.race --store mnist-svhn.h5 --device cuda
    python -m benchmarks.race --store mnist-svhn.h5 --systems jnf mvtcae --rows 2000
    python -m benchmarks.race --store mnist-svhn.h5 --systems mmvae --set joint.samples=3
    python -m benchmarks.race --quick

Both train the same networks, those of the recipe mnist-svhn, from the same initial weights on the
same rows and the same objective: MultiVae 1.0.3 with its trainer's defaults for `--epochs`,
mvflow with the batch, the schedule and the precision of the recipe. mvflow plans for each of
`--lengths`, the shortest first, until one has MultiVae's ELBO at its end; the seconds are those of
that training, as a whole. MultiVae has to be installed.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.agreement import without_prior
from benchmarks.common import (
    Report,
    Rows,
    add_options,
    both_clocks,
    parsed,
    script_parser,
    synchronise,
)
from benchmarks.noise import noise, stage_on
from benchmarks.rival import model_around, trainer_of
from benchmarks.systems import SYSTEMS
from mvflow.config import Config, config_from_dict, recipe
from mvflow.core import ArraySource
from mvflow.nn import seeded
from mvflow.training import Stage, Table, run_stage
from mvflow_datasets import Store

CHANGES = {
    "mmvae": ["joint.beta=1"],  # MultiVae's loss does not read its beta
    "mmvae-plus": ["family=normal"],
    "telbo": ["joint.beta=1"],  # MultiVae has none
}
"""Settings without which the two would not have the same objective."""
EVALUATED, WARM_UP = 500, 256
"""Rows of a batch of the evaluation, and of the training before the race."""


def main() -> None:
    """Race each system with each seed; each line is printed and kept as it comes."""
    logging.disable(logging.INFO)  # MultiVae announces every epoch
    arguments = _arguments()
    train, held_out = _sources(arguments)
    title = __doc__.splitlines()[0].removesuffix("; prints Markdown.")
    report = Report(title, arguments, "multivae", "pythae")
    clock = "CPU seconds" if arguments.device == "cpu" else "seconds on the wall"
    caption = f"joint stage, {len(train):,} rows, {len(held_out):,} held out; {clock}"
    rows: Rows = []
    for system, seed in product(arguments.systems, range(arguments.seeds)):
        rows.append(_raced(system, seed, train, held_out, arguments))
        report.grow("a", caption, rows)


def _raced(
    system: str,
    seed: int,
    train: ArraySource,
    held_out: ArraySource,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One line of the table, also where something fails in it."""
    device, changes = arguments.device, arguments.set
    row = _empty_row(" ".join([system, *changes]), seed)
    try:
        few = _some(train, np.arange(min(WARM_UP, len(train))))
        _train_theirs(system, seed, few, 1, device, changes)
        _train_ours(system, seed, few, 1, device, changes)
        stage, seconds = _train_theirs(system, seed, train, arguments.epochs, device, changes)
        target = held_out_elbo(stage, held_out)
        row |= {"MultiVae, s": round(seconds, 2), "MultiVae, ELBO": round(target, 2)}
        for epochs in arguments.lengths:
            stage, ours = _train_ours(system, seed, train, epochs, device, changes)
            elbo = held_out_elbo(stage, held_out)
            row |= {"mvflow, s": round(ours, 2), "mvflow, ELBO": round(elbo, 2)}
            if elbo >= target:
                row |= {"mvflow, epochs": epochs, "times as fast": round(seconds / ours, 2)}
                break
            row["mvflow, epochs"] = f"more than {epochs}"
            row["too short"] = f"{row['too short']} {epochs}: {elbo:.1f}".strip()
    except Exception as error:  # the other systems go on
        traceback.print_exc()
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/")
    return row


def _empty_row(system: str, seed: int) -> dict[str, Any]:
    columns = ("MultiVae, s", "MultiVae, ELBO", "mvflow, epochs", "mvflow, s", "mvflow, ELBO")
    row: dict[str, Any] = {"system": system, "seed": seed, **dict.fromkeys(columns, "-")}
    return row | {"times as fast": "-", "too short": "", "error": ""}


def held_out_elbo(stage: Stage, rows: ArraySource) -> float:
    """Mean per row, in float32, of the bound that the stage trains, as it is when training ends.

    It has the recipe's beta and weights of the modalities. The noise is that of one seed.

    Args:
        stage: of mvflow's system, whoever trained its networks.
        rows: that it has not seen.
    """
    table = Table.of(rows, stage.train.device)
    stage.trainable.eval()
    total = torch.zeros((), dtype=torch.float64, device=table.device)
    with torch.no_grad(), seeded(0, "race", device=table.device):
        for at in torch.arange(len(table), device=table.device).split(EVALUATED):
            total += stage.loss(table.gather(at), 1.0).total.double() * len(at)
    return -float(total) / len(table)


def _train_ours(
    system: str,
    seed: int,
    rows: ArraySource,
    epochs: int,
    device: str,
    changes: Sequence[str] = (),
) -> tuple[Stage, float]:
    """The stage after `epochs`, as `mvflow train` computes its steps, and the seconds of it."""
    config = _config(system, seed, epochs, changes)
    began = _now(device)
    stage = stage_on(rows, "joint", config, device)
    run_stage(stage, seed=seed)
    return stage, _now(device) - began


def _train_theirs(
    system: str,
    seed: int,
    rows: ArraySource,
    epochs: int,
    device: str,
    changes: Sequence[str] = (),
) -> tuple[Stage, float]:
    """Our stage after MultiVae has trained its networks, and the seconds of its `train`."""
    config = _config(system, seed, epochs, changes)
    stage = stage_on(rows, "joint", config, device)
    system_of_ours: Any = stage.model
    system_of_ours.requires_grad_(True)
    model = model_around(system_of_ours, SYSTEMS[system], _options(config, epochs))
    if system == "mopoe":
        without_prior(model)
    trainer = trainer_of(model, rows, device, num_epochs=epochs, seed=seed)
    began = _now(device)
    trainer.train()
    seconds = _now(device) - began
    shutil.rmtree(trainer.training_config.output_dir)
    if system == "mmvae-plus":  # of log variances, of log scales here
        bounded = [model.logvars_priors[m.name][0] / 14 for m in system_of_ours.modalities]
        system_of_ours.joint.log_scales.data.copy_(7 * torch.stack(bounded).atanh())
    return stage, seconds


def _now(device: str) -> float:
    """CPU seconds of this process; with a GPU, seconds on the wall when it has done its work."""
    synchronise(device)
    return float(both_clocks()[0 if device == "cpu" else 1])


def _config(system: str, seed: int, epochs: int, changes: Sequence[str] = ()) -> Config:
    own = [f"system={system}", f"seed={seed}", f"joint.epochs={epochs}"]
    return config_from_dict(recipe("mnist-svhn", [*own, *CHANGES.get(system, []), *changes]))


def _options(config: Any, epochs: int) -> Mapping[str, Any]:
    """MultiVae's configuration with our weights, draws and warm-up."""
    joint, system = config.joint, config.system
    if system == "nexus":
        names = [m.name for m in config.specifications()]
        return {
            "bottom_betas": dict.fromkeys(names, joint.beta),
            "top_beta": joint.beta,
            "dropout_rate": joint.dropout,
            "modalities_specific_dim": dict.fromkeys(names, config.private_dim),
            "msg_dim": config.message_dim,
            "warmup": max(1, round(joint.warmup * epochs)),
        }
    if system == "mmvae":
        family = {"prior_and_posterior_dist": "laplace_with_softmax", "learn_prior": False}
        return {"K": joint.samples, **family}
    options: dict[str, Any] = {} if system == "telbo" else {"beta": joint.beta}
    if system in ("jnf", "telbo"):
        options["warmup"] = epochs + 1  # epochs of the first stage
    if system == "mvae":
        options["warmup"] = 1
    if system in ("jmvae", "mvtcae"):
        options["alpha"] = joint.alpha
    if system == "jmvae":
        options["warmup"] = max(1, round(joint.warmup * epochs))
    if system == "mmvae-plus":
        options |= {"K": joint.samples, "modalities_specific_dim": config.private_dim}
        options |= {"prior_and_posterior_dist": "normal", "loss": "iwae_looser"}
    return options


def _sources(arguments: argparse.Namespace) -> tuple[ArraySource, ArraySource]:
    """Rows to train on and held-out ones, drawn from the splits of a store, or noise."""
    counts = arguments.rows, arguments.held_out
    if arguments.store is None:
        all_rows = noise(_config("jnf", 0, 1).specifications(), sum(counts))
        at = np.arange(sum(counts))
        return _some(all_rows, at[: counts[0]]), _some(all_rows, at[counts[0] :])
    rng = np.random.default_rng(0)
    with Store.open(arguments.store) as store:
        train, test = (
            _some(store[split], rng.permutation(len(store[split]))[:count])
            for split, count in zip(("train", "test"), counts, strict=True)
        )
    return train, test


def _some(source: Any, rows: np.ndarray) -> ArraySource:
    arrays = source.take(np.sort(rows))
    return ArraySource({m.name: arrays[m.name] for m in source.modalities}, source.modalities)


def _arguments() -> argparse.Namespace:
    parser = script_parser("race", __doc__)
    parser.add_argument("--store", type=Path, help="of mnist-svhn; without one, noise (--quick)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--rows", type=int, default=10_000, help="to train on")
    parser.add_argument("--held-out", type=int, default=2000, help="rows of the test split")
    parser.add_argument("--epochs", type=int, default=20, help="of MultiVae's trainer")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8, 12, 20])
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    words = "of the recipe, on both sides: joint.samples=3"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=words)
    add_options(parser)
    sizes = {"rows": 192, "held_out": 64, "epochs": 1, "lengths": [1]}
    arguments = parsed(parser, "race", sizes)
    if not find_spec("multivae"):
        parser.error("MultiVae is not installed: pip install --no-deps multivae==1.0.3 pythae")
    if arguments.store is None and not arguments.quick:
        parser.error("name the --store of mnist-svhn, or use --quick")
    arguments.lengths = sorted(arguments.lengths)
    return arguments


if __name__ == "__main__":
    main()
