"""MultiVae's models and its trainer, to race against, where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvflow.core import ArraySource

__all__ = [
    "AS_OURS",
    "SHAPES",
    "decoder_bodies",
    "encoder_bodies",
    "mlp",
    "model_around",
    "their_epoch",
    "trainer_of",
]

LATENT = 20
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}


def their_epoch(
    name: str, kind: str, source: ArraySource, batch: int, device: str
) -> Callable[[], Any]:
    """One epoch of MultiVae's trainer in one stage, "joint" or "flows", on uint8 rows.

    For "jnf-shared" its encoders are heads on projectors that are frozen.
    """
    from multivae.models import JNF, JNFConfig
    from pythae.models.normalizing_flows.maf import MAF, MAFConfig

    flow = MAFConfig(input_dim=(LATENT,), n_made_blocks=2, n_hidden_in_made=2, hidden_size=128)
    model = JNF(
        JNFConfig(
            n_modalities=2,
            latent_dim=LATENT,
            input_dims=SHAPES,
            decoders_dist=dict.fromkeys(SHAPES, "laplace"),
            decoder_dist_params={m: {"scale": 0.75} for m in SHAPES},
            uses_likelihood_rescaling=True,
            warmup=1,
            beta=2.5,
        ),
        **_networks_of(kind),
        flows={m: MAF(flow) for m in SHAPES},
    )
    trainer = trainer_of(model, source, device, per_device_train_batch_size=batch, **AS_OURS)
    epoch = 1 if name == "joint" else 2
    if epoch == 2:
        trainer.prepare_train_step(2, torch.inf, torch.inf)
    return lambda: trainer.train_step(epoch)


def trainer_of(model: Any, source: ArraySource, device: str, **options: Any) -> Any:
    """MultiVae's trainer of a model on uint8 rows, without progress bars.

    Args:
        model: of MultiVae.
        source: all rows.
        device: cpu or cuda.
        options: of the trainer's configuration; all others are its defaults.
    """
    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.trainers import (
        BaseTrainer,
        BaseTrainerConfig,
        MultistageTrainer,
        MultistageTrainerConfig,
    )

    rows = source.take(np.arange(len(source)))
    data = {m: torch.from_numpy(x).float() / 255 for m, x in rows.items()}
    has_stages = bool(getattr(model, "reset_optimizer_epochs", ()))
    new, config = (
        (MultistageTrainer, MultistageTrainerConfig)
        if has_stages
        else (BaseTrainer, BaseTrainerConfig)
    )
    settings = config(output_dir=tempfile.mkdtemp(), no_cuda=device == "cpu", **options)
    trainer = new(model, MultimodalBaseDataset(data), training_config=settings)
    trainer.callback_handler.callbacks.clear()
    return trainer


AS_OURS: Mapping[str, Any] = {"learning_rate": 1e-3, "drop_last": True}
"""Options of the trainer where steps are compared: Table E.6."""


def model_around(ours: Any, model: str, options: Mapping[str, Any]) -> Any:
    """MultiVae's model around the networks of a system of ours, which training it trains.

    Args:
        ours: a system without covariates, all of whose likelihoods have fixed scales.
        model: class of MultiVae.
        options: of its configuration, besides latents, modalities and likelihoods.
    """
    import multivae.models as models
    from multivae.models.nn.base_architectures import BaseJointEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder

    is_raw = options.get("prior_and_posterior_dist") == "laplace_with_softmax"
    joint, latent = ours.joint, ours.settings.latent_dim
    names = [m.name for m in ours.modalities]
    scales = {m.name: {"scale": m.likelihood["scale"]} for m in ours.modalities}

    def moments(features: Tensor, prefix: str = "") -> dict[str, Tensor]:
        loc, raw = features.chunk(2, -1)
        log_variance = raw if is_raw else 14 * torch.tanh(raw / 7)
        return {f"{prefix}embedding": loc, f"{prefix}log_covariance": log_variance}

    class Encoder(BaseEncoder):
        def __init__(self, body: Any, dim: int = latent, style: Any = None) -> None:
            super().__init__()
            self.body, self.style, self.latent_dim = body, style, dim

        def forward(self, x: Tensor) -> Any:
            own = {} if self.style is None else moments(self.style(x), "style_")
            return ModelOutput(**moments(self.body(x)), **own)

    class JointEncoder(BaseJointEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.merge, self.latent_dim = joint.heads, joint.merge, latent

        def forward(self, x: dict[str, Tensor]) -> Any:
            features = [head(x[n]) for n, head in self.heads.items()]
            return ModelOutput(**moments(self.merge(torch.cat(features, -1))))

    class Plain(BaseEncoder):
        """A message: an embedding alone."""

        def __init__(self, body: Any, dim: int) -> None:
            super().__init__()
            self.body, self.latent_dim = body, dim

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.body(x))

    class Decoder(BaseDecoder):
        def __init__(self, body: Any, dim: int = latent) -> None:
            super().__init__()
            self.body, self.latent_dim = body, dim

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    bodies = getattr(ours, "experts", None) or getattr(joint, "encoders", None)
    bodies = bodies or getattr(joint, "shared", None) or joint.heads
    styles = getattr(joint, "private", None)
    widths = dict.fromkeys(names, latent)
    networks: dict[str, Any] = {}
    if model == "Nexus":
        width = ours.settings.message_dim
        widths = {p.name: p.dim for p in joint.bottom.parts}
        networks = {
            "top_encoders": {n: Plain(m, width) for n, m in joint.messages.items()},
            "joint_encoder": Encoder(joint.top_encoder),
            "top_decoders": {n: Decoder(m) for n, m in joint.top_decoders.items()},
        }
    elif hasattr(joint, "heads"):
        networks = {"joint_encoder": JointEncoder()}
    if model == "JNF":
        from pythae.models.normalizing_flows.maf import MAF, MAFConfig

        flow = MAFConfig(input_dim=(latent,), n_made_blocks=1)
        networks["flows"] = {n: MAF(flow) for n in names}
    extra = latent if styles is not None else 0
    return getattr(models, model)(
        getattr(models, f"{model}Config")(
            n_modalities=len(names),
            latent_dim=latent,
            input_dims={m.name: m.shape for m in ours.modalities},
            decoders_dist={m.name: m.kind for m in ours.modalities},
            decoder_dist_params=scales,
            uses_likelihood_rescaling=True,
            **options,
        ),
        encoders={
            n: Encoder(bodies[n], widths[n], None if styles is None else styles[n]) for n in names
        },
        decoders={n: Decoder(joint.decoders[n], widths[n] + extra) for n in names},
        **networks,
    )


def _networks_of(kind: str) -> dict[str, Any]:
    """Plain torch, as Table E.6 has them; for JNF-Shared, heads on frozen projectors."""
    from multivae.models.nn.base_architectures import BaseJointEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.latent_dim = body, LATENT

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.body(x).split(LATENT, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class JointEncoder(BaseJointEncoder):
        def __init__(self, heads: dict[str, nn.Module]) -> None:
            super().__init__()
            self.heads, self.latent_dim = nn.ModuleDict(heads), LATENT
            self.merge = mlp(2 * 2 * LATENT, 512, 512, 2 * LATENT)

        def forward(self, x: dict[str, Tensor]) -> ModelOutput:
            features = torch.cat([head(x[name]) for name, head in self.heads.items()], -1)
            loc, log_variance = self.merge(features).split(LATENT, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.latent_dim = body, LATENT

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z))

    encoders = encoder_bodies(2 * LATENT)
    if kind == "jnf-shared":
        encoders = {
            name: nn.Sequential(body.requires_grad_(False), mlp(10, 512, 512, 2 * LATENT))
            for name, body in encoder_bodies(10).items()
        }
    return {
        "encoders": {name: Encoder(body) for name, body in encoders.items()},
        "decoders": {name: Decoder(body) for name, body in decoder_bodies(LATENT).items()},
        "joint_encoder": JointEncoder(encoder_bodies(2 * LATENT)),
    }


def decoder_bodies(latent: int) -> dict[str, nn.Module]:
    """Decoders of Table E.6 in plain torch."""
    mnist = nn.Sequential(mlp(latent, 400, 784), nn.Unflatten(1, (1, 28, 28)), nn.Sigmoid())
    svhn: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1))]
    for n_in, n_out, stride in ((latent, 128, 1), (128, 64, 2), (64, 32, 2), (32, 3, 2)):
        padding = (0, 1)[stride == 2]
        svhn += [nn.ConvTranspose2d(n_in, n_out, 4, stride, padding), nn.ReLU()]
    svhn[-1] = nn.Sigmoid()
    return {"mnist": mnist, "svhn": nn.Sequential(*svhn)}


def encoder_bodies(out: int) -> dict[str, nn.Module]:
    """Encoders of Table E.6 in plain torch."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.ReLU()]
    return {
        "mnist": nn.Sequential(nn.Flatten(), mlp(784, 400, out)),
        "svhn": nn.Sequential(*layers, nn.Conv2d(128, out, 4), nn.Flatten()),
    }


def mlp(*widths: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
