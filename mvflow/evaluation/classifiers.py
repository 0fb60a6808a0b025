"""Classifiers of single modalities: trained on real data, used to judge generated data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.core import DataError, Modality, Source, derive_seed, fingerprint, generator
from mvflow.models import Losses
from mvflow.nn import ModalityDict, build_classifier, seeded
from mvflow.runs import read_tensors, write_tensors
from mvflow.training import Callback, Stage, Table, TensorColumn, as_input, run_stage

__all__ = [
    "Classifiers",
    "classifiers_for",
    "distinct",
    "labelled",
    "train_classifiers",
    "values_of",
]

CHUNK = 1024
WIDEST = 256
"""Features of a classifier; a distance costs the third power of their number."""


@dataclass(frozen=True)
class Classifiers:
    """One classifier for each modality, with the accuracy that it reaches on real test data.

    Args:
        networks: name -> network from rows to class scores.
        accuracy: name -> share of test rows whose class is found.
        classes: number of classes.
    """

    name: ClassVar[str] = "classifier"
    networks: ModalityDict
    accuracy: dict[str, float]
    classes: int

    def predict(self, name: str, x: ArrayLike) -> NDArray[np.int64]:
        """Most probable class of each row, (rows,), for rows (rows, *shape) of one modality."""
        return self.look(name, x)[0]

    def features(self, name: str, x: ArrayLike) -> NDArray[np.float32]:
        """What the last layer sees of each row, (rows, features).

        Where that is more than `WIDEST` numbers, they are projected to as many by a fixed random
        matrix, which keeps squared distances on average.
        """
        return self.look(name, x)[1]

    @torch.no_grad()
    def look(self, name: str, x: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`predict` and `features` at once."""
        network = self.networks[name].eval()
        device = next(network.parameters()).device
        classes, features, seen = [], [], dict[str, Tensor]()
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: seen.update(last=inputs[0]))
            for layer in network.modules()
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
        ]
        try:
            for rows in torch.from_numpy(np.asarray(x)).split(CHUNK):
                classes.append(network(as_input(rows.to(device))).argmax(-1).cpu())
                features.append(_narrow(seen["last"].float().flatten(1)).cpu())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(classes).numpy(), torch.cat(features).numpy()


def train_classifiers(
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Callback | None = None,
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
        rows, _ = distinct(train, name, train.labels, device)
        stage = Stage(
            f"classifier-{name}", networks[name], _cross_entropy(networks[name]), settings, rows
        )
        run_stage(stage, seed=derive_seed(seed, "classifiers"), callback=listener)
        rows, labels = distinct(test, name, test.labels, device)
        found = Classifiers(networks, {}, classes).predict(name, values_of(rows).cpu().numpy())
        accuracy[name] = float(np.mean(found == labels))
    return Classifiers(networks.eval(), accuracy, classes)


def values_of(rows: Table) -> Tensor:
    """All that `distinct` found, as stored."""
    column = rows.columns["x"]
    assert isinstance(column, TensorColumn)
    return column.values


def classifiers_for(
    path: Path,
    train: Source,
    test: Source,
    settings: Settings,
    *,
    seed: int = 0,
    device: str = "cpu",
    listener: Callback | None = None,
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
        "data": [labelled(train), labelled(test)],
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


def _narrow(x: Tensor) -> Tensor:
    """Features (rows, features), at most `WIDEST` of them."""
    wide = x.shape[1]
    if wide <= WIDEST:
        return x
    matrix = generator(0, "features", wide).standard_normal((wide, WIDEST), np.float32)
    return x @ torch.from_numpy(matrix).to(x.device) / WIDEST**0.5


def labelled(source: Source) -> str:
    """Hash of all values and labels of a source."""
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


def distinct(
    source: Source, name: str, labels: NDArray[np.int64], device: str
) -> tuple[Table, NDArray[np.int64]]:
    """Each stored value of a modality that a row uses, once, with its label."""
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
