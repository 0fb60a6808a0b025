"""Networks whose weights others have published, to judge rows as their papers do.

Classifiers of PolyMNIST, published with MoPoE (Sutter et al. 2021); classifiers and autoencoders
of MHD, published with Nexus (Vasco et al. 2022). Modules are named as in the files of weights.
Of autoencoders the encoder alone is built: its code is what distances are taken in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import nn

__all__ = ["PUBLISHED", "PublishedNetwork"]

Shapes = Mapping[str, tuple[int, ...]]


class PublishedNetwork(NamedTuple):
    """One published network."""

    title: str
    judge: str
    """"classifier" or "autoencoder"."""
    shape: tuple[int, ...]
    """Of the rows that it takes."""
    build: Callable[[Shapes], nn.Sequential]
    """From the shapes of its tensors; raises KeyError where there are not those."""


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _polymnist(_: Shapes) -> nn.Sequential:
    return _named(
        encoder=nn.Sequential(
            nn.Conv2d(3, 10, 4, 2, 1),
            nn.Dropout2d(0.5),
            nn.ReLU(),
            nn.Conv2d(10, 20, 4, 2, 1),
            nn.Dropout2d(0.5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(980, 128),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.Linear(128, 10),
        )
    )


def _image_classifier(_: Shapes) -> nn.Sequential:
    """Its two hidden linear layers have no activation between them, as published."""
    return _named(
        cnn_1=nn.Conv2d(1, 16, 5),
        relu_1=nn.ReLU(),
        pool_1=nn.MaxPool2d(2),
        cnn_2=nn.Conv2d(16, 32, 5),
        relu_2=nn.ReLU(),
        pool_2=nn.MaxPool2d(2),
        flat=nn.Flatten(),
        fc1=nn.Linear(512, 128),
        fc2=nn.Linear(128, 64),
        out=nn.Linear(64, 10),
    )


def _dense(*widths: int) -> list[nn.Module]:
    """Linear layers, each with batch normalisation and a leaky ReLU."""
    return [
        layer
        for a, b in zip(widths, widths[1:], strict=False)
        for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU())
    ]


def _trajectory_classifier(_: Shapes) -> nn.Sequential:
    return _named(network=nn.Sequential(*_dense(200, 512, 512, 128)), out=nn.Linear(128, 10))


def _sound_maps() -> nn.Sequential:
    """Over all bands at once, then twice along the frames: 256 maps of 8 frames."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride, padding in (
        (1, 128, (1, 128), (1, 1), (0, 0)),
        (128, 128, (4, 1), (2, 1), (1, 0)),
        (128, 256, (4, 1), (2, 1), (1, 0)),
    ):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _sound_classifier(_: Shapes) -> nn.Sequential:
    head = nn.Sequential(*_dense(2048, 128, 64), nn.Linear(64, 10))
    return _named(cnn=_sound_maps(), flat=nn.Flatten(), fc=head)


def _image_encoder(shapes: Shapes) -> nn.Sequential:
    """Its activation is x * sigmoid(x)."""
    convs = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1, bias=False),
        nn.SiLU(),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False),
        nn.SiLU(),
    )
    code = nn.Sequential(nn.Linear(3136, shapes["encoder_linear.0.bias"][0]))
    return _named(encoder_conv=convs, flat=nn.Flatten(), encoder_linear=code)


def _trajectory_encoder(shapes: Shapes) -> nn.Sequential:
    code = nn.Linear(512, shapes["encoder.9.bias"][0])
    return _named(encoder=nn.Sequential(*_dense(200, 512, 512, 512), code))


def _sound_encoder(shapes: Shapes) -> nn.Sequential:
    code = nn.Linear(2048, shapes["encoder_fc.bias"][0])
    return _named(encoder=_sound_maps(), flat=nn.Flatten(), encoder_fc=code)


IMAGE, TRAJECTORY, SOUND = (1, 28, 28), (200,), (1, 32, 128)

PUBLISHED = (
    PublishedNetwork("MoPoE's for PolyMNIST", "classifier", (3, 28, 28), _polymnist),
    PublishedNetwork("Nexus' for images of MHD", "classifier", IMAGE, _image_classifier),
    PublishedNetwork(
        "Nexus' for trajectories of MHD", "classifier", TRAJECTORY, _trajectory_classifier
    ),
    PublishedNetwork("Nexus' for sounds of MHD", "classifier", SOUND, _sound_classifier),
    PublishedNetwork("Nexus' for images of MHD", "autoencoder", IMAGE, _image_encoder),
    PublishedNetwork(
        "Nexus' for trajectories of MHD", "autoencoder", TRAJECTORY, _trajectory_encoder
    ),
    PublishedNetwork("Nexus' for sounds of MHD", "autoencoder", SOUND, _sound_encoder),
)
