"""MultiVae's trainer with the networks of Table E.6, to race against, where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvflow.core import ArraySource

__all__ = ["SHAPES", "decoder_bodies", "encoder_bodies", "mlp", "their_epoch", "trainer_of"]

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
    trainer = trainer_of(model, source, batch, device)
    epoch = 1 if name == "joint" else 2
    if epoch == 2:
        trainer.prepare_train_step(2, torch.inf, torch.inf)
    return lambda: trainer.train_step(epoch)


def trainer_of(model: Any, source: ArraySource, batch: int, device: str) -> Any:
    """MultiVae's trainer of a model on uint8 rows, without progress bars."""
    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.trainers import MultistageTrainer, MultistageTrainerConfig

    rows = source.take(np.arange(len(source)))
    data = {m: torch.from_numpy(x).float() / 255 for m, x in rows.items()}
    trainer = MultistageTrainer(
        model,
        MultimodalBaseDataset(data),
        training_config=MultistageTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch,
            learning_rate=1e-3,
            drop_last=True,
            no_cuda=device == "cpu",
        ),
    )
    trainer.callback_handler.callbacks.clear()
    return trainer


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
