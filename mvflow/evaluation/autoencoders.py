"""Class-based autoencoders of single modalities: features for the MFD (paper, 4.2).

The paper takes features of "pretrained, class-based and modality specific autoencoders", those
published with Nexus (Vasco et al. 2022), and gives no loss. Theirs reconstruct all rows of one
modality and see no class. Here the code must also tell the class by a linear map, where rows have
labels. Features are scaled so that those of real rows have a mean variance of one: distances then
do not depend on the size in which an autoencoder happens to write its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.config import Training
from mvflow.core import Modality, Source, derive_seed
from mvflow.evaluation.classifiers import distinct, labelled, values_of
from mvflow.models import Losses
from mvflow.nn import MLP, ModalityDict, flat, seeded
from mvflow.runs import read_tensors, write_tensors
from mvflow.training import Callback, Stage, as_input, run_stage

__all__ = ["Autoencoder", "Autoencoders", "autoencoders_for", "train_autoencoders"]

CODE, HIDDEN = 64, 256
"""Widths; Vasco et al. have codes of 64 for trajectories, 128 for images, 512 for sound."""
STEPS, LEARNING_RATE = 1000, 1e-3
CHUNK = 1024


class Autoencoder(nn.Module):
    """From rows of one modality to a short code and back, with the class read off the code.

    Args:
        modality: whose rows it takes.
        classes: number of classes; 0 if none is known.
    """

    def __init__(self, modality: Modality, classes: int) -> None:
        super().__init__()
        self.flat = flat(modality)
        self.encoder = MLP(modality.size, HIDDEN, CODE)
        self.decoder = MLP(CODE, HIDDEN, modality.size)
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

    def losses(self, batch: Mapping[str, Tensor]) -> Losses:
        """Share of the variance that is not reconstructed, and cross-entropy of the class."""
        target = self.standard(batch["x"])
        code = self.encoder(target)
        terms = {"unexplained": ((self.decoder(code) - target) ** 2).mean()}
        if self.head is not None:
            terms["class"] = nn.functional.cross_entropy(self.head(code), batch["label"])
        return Losses(torch.stack(list(terms.values())).sum(), terms)


@dataclass(frozen=True)
class Autoencoders:
    """One autoencoder for each modality, with what it keeps of real test rows.

    Args:
        networks: name -> `Autoencoder`.
        explained: name -> share of the variance of test rows that it reconstructs.
        classes: number of classes; 0 if the rows have no labels.
    """

    name: ClassVar[str] = "autoencoder"
    networks: ModalityDict
    explained: dict[str, float]
    classes: int

    @torch.no_grad()
    def features(self, name: str, x: ArrayLike) -> NDArray[np.float32]:
        """Codes (rows, 64) of rows (rows, *shape) of one modality."""
        network = self.networks[name].eval()
        device = next(network.parameters()).device
        rows = torch.from_numpy(np.asarray(x)).split(CHUNK)
        return torch.cat([network(c.to(device)).cpu() for c in rows]).numpy()


def train_autoencoders(
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Callback | None = None,
) -> Autoencoders:
    """Train an autoencoder for each modality on its distinct values, some 1000 steps.

    Args:
        train: rows to train on.
        test: rows to measure on what they keep.
        settings: of the classifiers, whose batch size and number of epochs they share.
        seed: of weights and order.
        device: where to train.
        listener: hears of progress.
    """
    classes = 0
    if train.labels is not None and test.labels is not None:
        classes = int(max(train.labels.max(), test.labels.max())) + 1
    networks, explained = _untrained(train.modalities, classes, seed).to(device), {}
    for modality in train.modalities:
        name, network = modality.name, networks[modality.name]
        assert isinstance(network, Autoencoder)
        rows, _ = distinct(train, name, _labels(train), device)
        values = values_of(rows)
        with torch.no_grad():
            some = network.flat(as_input(values[: 16 * CHUNK]))
            network.centre.copy_(some.mean())
            network.spread.copy_(some.std(correction=0).clamp_min(1e-12))
        stage = Stage(f"autoencoder-{name}", network, _loss(network), _training(settings), rows)
        run_stage(stage, seed=derive_seed(seed, "autoencoders"), callback=listener)
        codes = Autoencoders(networks, {}, classes).features(name, values.cpu().numpy())
        network.scale.fill_(max(float(np.sqrt(codes.var(0).mean())), 1e-12))
        held, _ = distinct(test, name, _labels(test), device)
        explained[name] = _explained(network, values_of(held))
    return Autoencoders(networks.eval(), explained, classes)


def autoencoders_for(
    path: Path,
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Callback | None = None,
) -> Autoencoders:
    """The autoencoders kept at `path`; trained and kept if there are none for these data.

    Args:
        path: a safetensors file, usually beside the store.
        train: rows to train on.
        test: rows to measure on what they keep.
        settings: as for `train_autoencoders`.
        seed: of weights and order.
        device: where to train.
        listener: hears of progress.
    """
    key = {
        "data": [labelled(train), labelled(test)],
        "settings": {**_training(settings).model_dump(mode="json"), "widths": [HIDDEN, CODE]},
        "seed": seed,
    }
    if path.is_file():
        tensors, about = read_tensors(path)
        if about.get("key") == key:
            networks = _untrained(train.modalities, about["classes"], seed)
            networks.load_state_dict(tensors)
            return Autoencoders(networks.to(device).eval(), about["explained"], about["classes"])
    made = train_autoencoders(train, test, settings, seed=seed, device=device, listener=listener)
    about = {"key": key, "explained": made.explained, "classes": made.classes}
    write_tensors(path, made.networks.state_dict(), about)
    return made


def _training(settings: Settings) -> Training:
    epochs = max(settings.epochs, 1)
    return Training(
        epochs=epochs,
        steps_per_epoch=-(-STEPS // epochs),
        batch_size=settings.batch_size,
        learning_rate=LEARNING_RATE,
    )


def _untrained(modalities: tuple[Modality, ...], classes: int, seed: int) -> ModalityDict:
    with seeded(seed, "weights", "autoencoders"):
        specs = sorted(modalities, key=lambda m: m.name)
        return ModalityDict({m.name: Autoencoder(m, classes) for m in specs})


def _labels(source: Source) -> NDArray[np.int64]:
    return np.zeros(len(source), np.int64) if source.labels is None else source.labels


def _loss(network: Autoencoder) -> Any:
    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        return network.losses(batch)

    return loss


@torch.no_grad()
def _explained(network: Autoencoder, values: Tensor) -> float:
    """Share of the variance of rows around their mean that is reconstructed."""
    chunks = values.split(CHUNK)
    mean = torch.stack([network.standard(x).sum(0) for x in chunks]).sum(0) / len(values)
    left, spread = 0.0, 0.0
    for x in chunks:
        target = network.standard(x)
        left += float(((network.decoder(network.encoder(target)) - target) ** 2).sum())
        spread += float(((target - mean) ** 2).sum())
    return 1 - left / spread if spread > 0 else 0.0
