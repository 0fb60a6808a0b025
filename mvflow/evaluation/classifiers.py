"""Classifiers of single modalities: trained on real data, used to judge generated data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.core import DataError, Modality, Source, derive_seed, fingerprint
from mvflow.models import Losses
from mvflow.nn import ModalityDict, build_classifier, seeded
from mvflow.runs import read_tensors, write_tensors
from mvflow.training import Listener, Stage, Table, TensorColumn, as_input, run_stage

__all__ = ["Classifiers", "classifiers_for", "train_classifiers"]

CHUNK = 1024


@dataclass(frozen=True)
class Classifiers:
    """One classifier for each modality, with the accuracy that it reaches on real test data.

    Args:
        networks: name -> network from rows to class scores.
        accuracy: name -> share of test rows whose class is found.
        classes: number of classes.
    """

    networks: ModalityDict
    accuracy: dict[str, float]
    classes: int

    @torch.no_grad()
    def predict(self, name: str, x: ArrayLike) -> NDArray[np.int64]:
        """Most probable class of each row, (...,), for rows (..., *shape) of one modality."""
        network = self.networks[name].eval()
        device = next(network.parameters()).device
        rows = torch.from_numpy(np.asarray(x))
        scores = [network(as_input(c.to(device))).argmax(-1).cpu() for c in rows.split(CHUNK)]
        return torch.cat(scores).numpy()


def train_classifiers(
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Listener | None = None,
) -> Classifiers:
    """Train a classifier for each modality on its distinct values, and test it (Appendix G).

    Raises:
        DataError: if the rows have no labels, or all the same.
    """
    if train.labels is None or test.labels is None:
        msg = "the data have no labels: coherence needs a class for each row"
        raise DataError(msg)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    if len(np.unique(train.labels)) < 2:
        msg = "all training rows have the same label: coherence needs two classes or more"
        raise DataError(msg)
    networks, accuracy = _untrained(train.modalities, settings, classes, seed).to(device), {}
    for modality in train.modalities:
        name = modality.name
        rows, labels = _distinct(train, name, train.labels, device)
        stage = Stage(
            f"classifier-{name}", networks[name], _cross_entropy(networks[name]), settings, rows
        )
        run_stage(stage, seed=derive_seed(seed, "classifiers"), listener=listener)
        rows, labels = _distinct(test, name, test.labels, device)
        found = Classifiers(networks, {}, classes).predict(
            name, rows.columns["x"].values.cpu().numpy()
        )
        accuracy[name] = float(np.mean(found == labels))
    return Classifiers(networks.eval(), accuracy, classes)


def classifiers_for(
    path: Path,
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Listener | None = None,
) -> Classifiers:
    """The classifiers kept at `path`; trained and kept if there are none for these data.

    Args:
        path: a safetensors file, usually beside the store.
        train: labelled rows to train on.
        test: labelled rows for the accuracy.
        settings: network and optimisation.
        seed: of weights, order and noise.
        device: where to train.
        listener: hears of progress.
    """
    key = {
        "data": [_labelled(train), _labelled(test)],
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    if path.is_file():
        tensors, about = read_tensors(path)
        if about.get("key") == key:
            networks = _untrained(train.modalities, settings, about["classes"], seed)
            networks.load_state_dict(tensors)
            return Classifiers(networks.to(device).eval(), about["accuracy"], about["classes"])
    made = train_classifiers(train, test, settings, seed=seed, device=device, listener=listener)
    about = {"key": key, "accuracy": made.accuracy, "classes": made.classes}
    write_tensors(path, made.networks.state_dict(), about)
    return made


def _labelled(source: Source) -> str:
    """Hash of all values and labels."""
    digest = hashlib.sha256(fingerprint(source).encode())
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels).data)
    return digest.hexdigest()


def _untrained(
    modalities: tuple[Modality, ...], settings: Settings, classes: int, seed: int
) -> ModalityDict:
    with seeded(seed, "weights", "classifiers"):
        specs = sorted(modalities, key=lambda m: m.name)
        return ModalityDict({m.name: build_classifier(settings, m, classes) for m in specs})


def _distinct(
    source: Source, name: str, labels: NDArray[np.int64], device: str
) -> tuple[Table, NDArray[np.int64]]:
    """Each stored value that a row uses, once, with its label."""
    column = source.columns()[name]
    values, classes = column.values, labels
    if column.index is not None:
        used, first = np.unique(column.index, return_index=True)
        values, classes = values[used], labels[first]
    x = torch.from_numpy(np.array(values)).to(device)
    y = torch.from_numpy(np.array(classes)).to(device)
    columns = {"x": TensorColumn(x, None), "label": TensorColumn(y, None)}
    return Table(columns, len(x)), np.asarray(classes)


def _cross_entropy(network: nn.Module) -> Any:
    def loss(batch: Mapping[str, Tensor], progress: float) -> Losses:
        scores = network(batch["x"])
        total = nn.functional.cross_entropy(scores, batch["label"])
        hits = (scores.argmax(-1) == batch["label"]).float().mean()
        return Losses(total, {"accuracy": hits})

    return loss
