"""A training step of each system, beside that of MultiVae's trainer; prints Markdown.

    python -m benchmarks.systems
    python -m benchmarks.systems mmvae nexus --turns 3

Networks, batch and likelihoods of Table E.6, random rows, K = 3 where a system draws several.
MultiVae 1.0.3 takes part where the interpreter that runs this finds it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import (
    Report,
    Rows,
    add_options,
    both_clocks,
    parsed,
    script_parser,
    turn_by_turn,
)
from benchmarks.noise import Epochs, noise, stage_on
from benchmarks.rival import (
    AS_OURS,
    LATENT,
    SHAPES,
    decoder_bodies,
    encoder_bodies,
    mlp,
    trainer_of,
)
from mvflow.config import config_from_dict, recipe

BATCH, SAMPLES = 128, 3
PRECISIONS = ("float32", "bfloat16")
SYSTEMS = {
    "jnf": "JNF",
    "jmvae": "JMVAE",
    "telbo": "TELBO",
    "mvae": "MVAE",
    "mmvae": "MMVAE",
    "mmvae-plus": "MMVAEPlus",
    "mopoe": "MoPoE",
    "mvtcae": "MVTCAE",
    "crmvae": "CRMVAE",
    "nexus": "Nexus",
}
"""System -> class of MultiVae."""
NEXUS = {"private_dim": 20, "message_dim": 512, "hidden": [512, 512]}


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.INFO)  # MultiVae announces every epoch
    report = Report(
        __doc__.splitlines()[0].removesuffix("; prints Markdown."), arguments, "multivae"
    )
    began = time.perf_counter()
    rows: Rows = []
    for system in arguments.systems or SYSTEMS:
        rows += _raced(system, arguments)
        report.add("a", "joint stage, Table E.6, batch 128: medians over turns", rows, began)


def _raced(system: str, arguments: argparse.Namespace) -> Rows:
    timed: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        config = _config(system, precision)
        source = noise(config.specifications(), arguments.steps * BATCH)
        epochs = Epochs(stage_on(source, "joint", config, arguments.device))
        epochs.warm_up()
        timed[f"mvflow, {precision}"] = epochs
    if find_spec("multivae"):
        batch = {"per_device_train_batch_size": BATCH}
        trainer = trainer_of(_model(system), source, arguments.device, **batch, **AS_OURS)
        timed["MultiVae"] = lambda: trainer.train_step(1)
        timed["MultiVae"]()
    seconds = turn_by_turn(timed, arguments.turns, both_clocks)
    out: Rows = []
    for way, each in seconds.items():
        wall = sorted(t[1] for t in each)[len(each) // 2]
        row: dict[str, Any] = {"system": system, "trained by": way}
        row["ms/step"] = round(1e3 * wall / arguments.steps, 2)
        for i, clock in ((1, "x MultiVae"), (0, "x MultiVae, CPU")):
            row[clock] = "-"
            if "MultiVae" in seconds:
                pairs = zip(seconds["MultiVae"], each, strict=True)
                ratios = sorted(theirs[i] / ours[i] for theirs, ours in pairs)
                row[clock] = round(ratios[len(ratios) // 2], 2)
        out.append(row)
    return out


def _config(system: str, precision: str) -> Any:
    changes = [f"joint.batch_size={BATCH}", "joint.epochs=1", f"joint.precision={precision}"]
    if system in ("mmvae", "mmvae-plus"):
        changes.append(f"joint.samples={SAMPLES}")
    raw = recipe("mnist-svhn", [f"system={system}", *changes])
    return config_from_dict({**raw, **(NEXUS if system == "nexus" else {})})


def _model(system: str) -> Any:
    """MultiVae's model with the networks of Table E.6 in plain torch."""
    import multivae.models as models
    from multivae.models.nn.base_architectures import BaseJointEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder
    from pythae.models.normalizing_flows.maf import MAF, MAFConfig

    class Encoder(BaseEncoder):
        def __init__(self, body: nn.Module, dim: int, style: nn.Module | None = None) -> None:
            super().__init__()
            self.body, self.style, self.latent_dim = body, style, dim

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.body(x).chunk(2, -1)
            out = {"embedding": loc, "log_covariance": log_variance}
            if self.style is not None:
                loc, log_variance = self.style(x).chunk(2, -1)
                out |= {"style_embedding": loc, "style_log_covariance": log_variance}
            return ModelOutput(**out)

    class Message(BaseEncoder):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.latent_dim = nn.Linear(LATENT, width), width

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.body(x))

    class JointEncoder(BaseJointEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.latent_dim = nn.ModuleDict(encoder_bodies(2 * LATENT)), LATENT
            self.merge = mlp(2 * 2 * LATENT, 512, 512, 2 * LATENT)

        def forward(self, x: dict[str, Tensor]) -> Any:
            features = torch.cat([head(x[name]) for name, head in self.heads.items()], -1)
            loc, log_variance = self.merge(features).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, body: nn.Module, dim: int) -> None:
            super().__init__()
            self.body, self.latent_dim = body, dim

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    is_plus = system == "mmvae-plus"
    latent = LATENT // 2 if is_plus else LATENT
    styles = encoder_bodies(2 * latent)
    options: dict[str, Any] = {"beta": 2.5}
    networks: dict[str, Any] = {}
    if system in ("jnf", "jmvae", "telbo"):
        networks["joint_encoder"] = JointEncoder()
    if system == "jnf":
        networks["flows"] = {m: MAF(MAFConfig(input_dim=(LATENT,))) for m in SHAPES}
    if system in ("jnf", "jmvae", "telbo", "mvae"):
        options["warmup"] = 1
    if system == "telbo":
        options = {"warmup": 1}
    if system in ("mmvae", "mmvae-plus"):
        options["K"] = SAMPLES
    if is_plus:
        options |= {"modalities_specific_dim": latent, "loss": "iwae_looser"}
    if system == "nexus":
        widths = dict.fromkeys(SHAPES, LATENT)
        options = {"modalities_specific_dim": widths, "msg_dim": 512, "dropout_rate": 0.2}
        networks["top_encoders"] = {m: Message(512) for m in SHAPES}
        networks["joint_encoder"] = Encoder(mlp(512, 512, 512, 2 * LATENT), LATENT)
        tops = {m: mlp(LATENT, 512, 512, 512, LATENT) for m in SHAPES}
        networks["top_decoders"] = {m: Decoder(body, LATENT) for m, body in tops.items()}
    name = SYSTEMS[system]
    return getattr(models, name)(
        getattr(models, f"{name}Config")(
            n_modalities=2,
            latent_dim=latent,
            input_dims=SHAPES,
            decoders_dist=dict.fromkeys(SHAPES, "laplace"),
            decoder_dist_params={m: {"scale": 0.75} for m in SHAPES},
            uses_likelihood_rescaling=True,
            **options,
        ),
        encoders={
            m: Encoder(body, latent, styles[m] if is_plus else None)
            for m, body in encoder_bodies(2 * latent).items()
        },
        decoders={m: Decoder(body, LATENT) for m, body in decoder_bodies(LATENT).items()},
        **networks,
    )


def _arguments() -> argparse.Namespace:
    parser = script_parser("systems", __doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    add_options(parser)
    arguments = parsed(parser, "systems", {"turns": 1, "steps": 1})
    unknown = sorted(set(arguments.systems) - set(SYSTEMS))
    if unknown:
        parser.error(f"no system {', '.join(unknown)}: expected some of {', '.join(SYSTEMS)}")
    return arguments


if __name__ == "__main__":
    main()
