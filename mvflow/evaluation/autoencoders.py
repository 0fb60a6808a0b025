"""Class-based autoencoders of single modalities: features for the MFD (paper, 4.2).

The paper takes features of "pretrained, class-based and modality specific autoencoders", those
published with Nexus (Vasco et al. 2022), and gives no loss. Theirs reconstruct all rows of one
modality and see no class. Here the code must also tell the class by a linear map, where rows have
labels. Features are scaled so that those of real rows have a mean variance of one: distances then
do not depend on the size in which an autoencoder happens to write its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.config import Training
from mvflow.core import Modality
from mvflow.evaluation.networks import BATCH_ROWS, ModalityNetworks
from mvflow.nn import MLP, flat, flat_features
from mvflow.stages import Losses
from mvflow.training import as_input

__all__ = ["Autoencoder", "ModalityAutoencoders"]

CODE, HIDDEN = 64, 256
"""Widths; Vasco et al. have codes of 64 for trajectories, 128 for images, 512 for sound."""
STEPS, LEARNING_RATE = 1000, 1e-3


class Autoencoder(nn.Module):
    """From rows of one modality to a short code and back, with the class read off the code.

    Args:
        modality: whose rows it takes.
        classes: number of classes; 0 if none is known.
    """

    def __init__(self, modality: Modality, classes: int) -> None:
        super().__init__()
        self.flat = flat(modality)
        self.encoder = MLP(flat_features(modality), HIDDEN, CODE)
        self.decoder = MLP(CODE, HIDDEN, flat_features(modality))
        self.head = nn.Linear(CODE, classes) if classes else None
        for name in ("centre", "spread", "scale"):
            self.register_buffer(name, torch.ones(()))
        self.centre: Tensor
        self.spread: Tensor
        self.scale: Tensor

    def standard(self, x: Tensor) -> Tensor:
        """Rows (rows, *shape) as vectors, all values together of mean 0 and variance 1."""
        return (self.flat(as_input(x)) - self.centre) / self.spread

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, 64)."""
        return self.encoder(self.standard(x)) / self.scale


class ModalityAutoencoders(ModalityNetworks):
    """One autoencoder for each modality; their scores are shares of variance reconstructed.

    Batch size and number of epochs are those of the classifiers; there are some 1000 steps.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
        >>> rows = ArraySource({"a": x})
        >>> ModalityAutoencoders.train(rows, rows, Settings(epochs=1)).features("a", x).shape
        (200, 64)
    """

    name: ClassVar[str] = "autoencoder"
    score: ClassVar[str] = "explained"
    needs_classes: ClassVar[bool] = False
    constants: ClassVar[dict[str, Any]] = {"widths": [HIDDEN, CODE]}

    @property
    def explained(self) -> dict[str, float]:
        """Name -> share of the variance of test rows that is reconstructed."""
        return self.scores

    @classmethod
    def _build(cls, modality: Modality, settings: Settings, classes: int) -> Autoencoder:
        return Autoencoder(modality, classes)

    @classmethod
    def _training(cls, settings: Settings) -> Training:
        epochs = max(settings.epochs, 1)
        return Training(
            epochs=epochs,
            steps_per_epoch=-(-STEPS // epochs),
            batch_size=settings.batch_size,
            learning_rate=LEARNING_RATE,
        )

    @classmethod
    def _losses(cls, network: Any, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """Share of the variance that is not reconstructed, and cross-entropy of the class."""
        target = network.standard(batch["x"])
        code = network.encoder(target)
        terms = {"unexplained": ((network.decoder(code) - target) ** 2).mean()}
        if network.head is not None:
            terms["class"] = nn.functional.cross_entropy(network.head(code), batch["label"])
        return Losses(torch.stack(list(terms.values())).sum(), terms)

    @classmethod
    def _fit(cls, network: Any, values: Tensor, optimise: Callable[[], object]) -> None:
        """Inputs are standardised before, features scaled after the optimisation."""
        with torch.no_grad():
            some = network.flat(as_input(values[: 16 * BATCH_ROWS]))
            network.centre.copy_(some.mean())
            network.spread.copy_(some.std(correction=0).clamp_min(1e-12))
        optimise()
        with torch.no_grad():
            codes = torch.cat([network.eval()(x).cpu() for x in values.split(BATCH_ROWS)]).numpy()
        network.scale.fill_(max(float(np.sqrt(codes.var(0).mean())), 1e-12))

    @classmethod
    def _features(cls, network: Any, x: Tensor) -> Tensor:
        code: Tensor = network(as_input(x))
        return code

    @torch.no_grad()
    def _evaluate(self, name: str, values: Tensor, labels: Tensor) -> float:
        """Share of the variance of values around their mean that is reconstructed."""
        network: Any = self.networks[name]
        batches = values.split(BATCH_ROWS)
        mean = torch.stack([network.standard(x).sum(0) for x in batches]).sum(0) / len(values)
        left, spread = 0.0, 0.0
        for x in batches:
            target = network.standard(x)
            left += float(((network.decoder(network.encoder(target)) - target) ** 2).sum())
            spread += float(((target - mean) ** 2).sum())
        return 1 - left / spread if spread > 0 else 0.0
