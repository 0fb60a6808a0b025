"""Classifiers of one modality, for measuring coherence (paper Appendix G)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mvflow.core import ConfigError, Modality
from mvflow.nn.inputs import flat, flat_features
from mvflow.nn.mlp import MLP

if TYPE_CHECKING:
    from mvflow.config import Classifiers

__all__ = ["build_classifier"]


def build_classifier(settings: Classifiers, modality: Modality, classes: int) -> nn.Module:
    """Network from rows of `modality` to class scores (rows, classes).

    A network that `settings` names for the modality is built as an encoder is. `lenet` is Table
    G.8: two 5x5 convolutions with pooling, dropout, two linear layers. (The table prints 350
    inputs of the linear layer for 28x28 images; two unpadded convolutions and poolings leave 320.)

    Raises:
        ConfigError: if a network cannot take rows of that shape; `lenet` takes images of 16x16
            or more.
    """
    network = settings.networks.get(modality.name)
    if network is not None:
        encoder: nn.Module = network.encoder(modality, classes, settings.dropout)
        return encoder
    is_image = len(modality.shape) == 3 and min(modality.shape[1:]) >= 16
    if settings.kind == "mlp" or (settings.kind == "auto" and not is_image):
        return nn.Sequential(
            flat(modality), MLP(flat_features(modality), *settings.hidden, classes)
        )
    if not is_image:
        msg = (
            f"a lenet classifier cannot take {modality.name!r} of shape {modality.shape}: "
            "expected (channels, height, width) from 16x16; use classifiers.kind=mlp or auto"
        )
        raise ConfigError(msg)
    channels, *sides = modality.shape
    height, width = (((n - 4) // 2 - 4) // 2 for n in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(settings.dropout),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * height * width, 50),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(50, classes),
    )
