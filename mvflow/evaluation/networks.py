"""Networks that measure generated rows: one for each modality, trained once and kept in a file."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.config import Training
from mvflow.core import (
    PRESENT,
    UNLABELLED,
    Batch,
    DataError,
    Modality,
    Source,
    as_source,
    derive_seed,
    fingerprint,
)
from mvflow.nn import ModalityDict, seeded
from mvflow.runs import read_tensors, write_tensors
from mvflow.stages import Losses
from mvflow.training import Callback, Stage, Table, TensorColumn, run_stage

__all__ = ["BATCH_ROWS", "ModalityNetworks"]

_log = logging.getLogger(__name__)

BATCH_ROWS = 1024
"""Rows that pass through a network at once."""


@dataclass(frozen=True)
class ModalityNetworks(ABC):
    """One trained network for each modality, and its score on real test rows.

    Args:
        networks: name -> network.
        scores: name -> its score on test rows; what that is depends on the kind.
        classes: number of classes; 0 if the rows have no labels.
        about: whose weights they are, where they were not trained here on these rows.
    """

    name: ClassVar[str]
    """By which its distances are called; its plural is part of the file's name."""
    score: ClassVar[str]
    """What `scores` are."""
    needs_classes: ClassVar[bool]
    constants: ClassVar[dict[str, Any]] = {}
    """What the weights depend on besides the settings."""

    networks: ModalityDict
    scores: dict[str, float]
    classes: int
    about: str = ""

    @classmethod
    def train(
        cls,
        train: Source | Batch,
        test: Source | Batch,
        settings: Settings,
        *,
        cache: Path | None = None,
        seed: int = 0,
        device: str = "cpu",
        callback: Callback | None = None,
    ) -> Self:
        """Train a network for each modality on its distinct values, and score it on test rows.

        Args:
            train: rows to train on.
            test: rows to score on.
            settings: network and optimisation.
            cache: a safetensors file, usually beside the store. Networks of the same data,
                settings and seed are taken from it; else they are trained and kept there.
            seed: of weights, order and noise.
            device: where to train.
            callback: training callback.

        Raises:
            DataError: if classes are needed and the rows have no labels, or all the same.
        """
        train, test = (as_source(data) for data in (train, test))
        data = [_fingerprint_with_labels(source) for source in (train, test)]
        key_settings = cls._training(settings).model_dump(mode="json") | cls.constants
        key = {"data": data, "settings": key_settings, "seed": seed}
        initial = partial(cls._initial, train.modalities, settings, seed=seed, device=device)
        if cache is not None and cache.is_file():
            try:
                tensors, about = read_tensors(cache)
            except DataError as error:
                _log.warning("%s: trained anew", error)
                about = {}
            if about.get("key") == key:
                kept = initial(about["classes"], about[cls.score])
                kept.networks.load_state_dict(tensors)
                return kept
        made = initial(cls._count_classes(train, test), {})
        for name in sorted(m.name for m in train.modalities):
            network, rows = (
                made.networks[name],
                _distinct_rows(train, name, device, needs_classes=made.classes > 0),
            )
            loss = partial(cls._losses, network)
            stage = Stage(f"{cls.name}-{name}", network, loss, cls._training(settings), rows)
            order = derive_seed(seed, f"{cls.name}s")
            optimise = partial(run_stage, stage, seed=order, callback=callback)
            cls._fit(network, _values(rows), optimise)
            held_out = _distinct_rows(test, name, device, needs_classes=made.classes > 0)
            made.scores[name] = made._evaluate(name, _values(held_out), _values(held_out, "label"))
        if cache is not None:
            about = {"key": key, cls.score: made.scores, "classes": made.classes}
            write_tensors(cache, made.networks.state_dict(), about)
        return made

    @classmethod
    def read(cls, path: Path, modalities: Iterable[Modality], *, device: str = "cpu") -> Self:
        """Networks that `train` has kept in a file, on any rows of such modalities.

        Raises:
            DataError: if the file is damaged, or its networks are others.
        """
        tensors, about = read_tensors(path)
        if cls.score not in about or "key" not in about:
            msg = f"{path} holds no {cls.name}s that 'mvflow train-classifiers' has kept"
            raise DataError(msg)
        specs = {m.name: m for m in modalities}
        settings = cls._kept_settings(about["key"]["settings"])
        made = cls._initial(specs.values(), settings, about["classes"], {}, seed=0, device=device)
        for name, network in made.networks.items():
            kept = {k: v for k, v in tensors.items() if k.startswith(f"x_{name}.")}
            shapes = {f"x_{name}.{k}": v.shape for k, v in network.state_dict().items()}
            if {k: v.shape for k, v in kept.items()} != shapes:
                names = {key.partition(".")[0].removeprefix("x_") for key in tensors}
                held = "one for other shapes" if kept else f"those for {', '.join(sorted(names))}"
                msg = (
                    f"{path} has no {cls.name} for {name!r} with rows of shape "
                    f"{specs[name].shape}, but {held}: name a file kept beside a store with such "
                    "modalities"
                )
                raise DataError(msg)
            made.networks.load_state_dict(kept, strict=False)
        return replace(made, about=f"{path.name}, SHA-256 of the weights {about['sha256']}")

    def scored(self, test: Source, device: str = "cpu") -> Self:
        """The same networks with their scores on other test rows."""
        scores = {}
        for name in self.networks:
            rows = _distinct_rows(test, name, device)
            scores[name] = self._evaluate(name, _values(rows), _values(rows, "label"))
        return replace(self, scores=scores)

    @classmethod
    def _count_classes(cls, train: Source, test: Source) -> int:
        labels = train.labels
        if labels is None or test.labels is None:
            if cls.needs_classes:
                msg = "the data have no labels: coherence needs a class for each row"
                raise DataError(msg)
            return 0
        if cls.needs_classes and len(np.unique(labels[labels != UNLABELLED])) < 2:
            msg = "all training rows have the same label: coherence needs two classes or more"
            raise DataError(msg)
        return int(max(labels.max(), test.labels.max())) + 1

    @classmethod
    def _initial(
        cls,
        modalities: Iterable[Modality],
        settings: Settings,
        classes: int,
        scores: dict[str, float],
        *,
        seed: int,
        device: str,
    ) -> Self:
        with seeded(seed, "weights", f"{cls.name}s"):
            specs = sorted(modalities, key=lambda m: m.name)
            networks = ModalityDict({m.name: cls._build(m, settings, classes) for m in specs})
        return cls(networks.to(device).eval(), scores, classes)

    def features(self, name: str, x: ArrayLike) -> NDArray[np.float32]:
        """Features (rows, features) of rows (rows, *shape) of one modality."""
        return self._apply(name, x, self._features)

    @torch.no_grad()
    def _apply(
        self, name: str, x: ArrayLike, function: Callable[[Any, Tensor], Tensor]
    ) -> NDArray[Any]:
        """A function of a modality's network and some rows, in batches of all rows."""
        network = self.networks[name].eval()
        device = next(network.parameters()).device
        batches = torch.from_numpy(np.asarray(x)).split(BATCH_ROWS)
        return torch.cat([function(network, b.to(device)).cpu() for b in batches]).numpy()

    # What a kind says. Networks are `Any`, since each kind has its own.

    @classmethod
    @abstractmethod
    def _build(cls, modality: Modality, settings: Settings, classes: int) -> nn.Module:
        """An untrained network."""

    @classmethod
    @abstractmethod
    def _training(cls, settings: Settings) -> Training:
        """Settings that the weights depend on."""

    @classmethod
    def _kept_settings(cls, kept: Mapping[str, Any]) -> Settings:
        """Settings to build networks by, from what a file says of them."""
        return Settings()

    @classmethod
    @abstractmethod
    def _losses(cls, network: Any, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """The loss of a batch with the columns `x` and `label`."""

    @classmethod
    @abstractmethod
    def _fit(cls, network: Any, values: Tensor, optimise: Callable[[], object]) -> None:
        """Call `optimise`, with what must be set from all values before and after it."""

    @classmethod
    @abstractmethod
    def _features(cls, network: Any, x: Tensor) -> Tensor:
        """Features (rows, features) of some rows."""

    @abstractmethod
    def _evaluate(self, name: str, values: Tensor, labels: Tensor) -> float:
        """Score of a trained network on held-out values."""


def _distinct_rows(
    source: Source, name: str, device: str, *, needs_classes: bool = False
) -> Table:
    """Each stored value of a modality that a row uses, once, with its label (0 without labels).

    Values of which something is missing are left out, and where classes are needed those of rows
    whose class is not known.
    """
    columns = source.columns()
    column, mask = columns[name], columns.get(PRESENT + name)
    labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    values = column.values
    index = np.arange(len(source)) if column.index is None else np.asarray(column.index)
    usable = index >= 0
    if mask is not None and len(mask.values.shape) > 1:
        is_full = np.asarray(np.asarray(mask.values).reshape(len(mask.values), -1).all(1))
        usable &= is_full[index]
    if needs_classes:
        usable &= labels != UNLABELLED
    if not usable.any():
        msg = (
            f"no row has all values of modality {name!r}"
            f"{' and a class that is known' if needs_classes else ''}: "
            "nothing can be learnt of it; evaluate without classifiers"
        )
        raise DataError(msg)
    if column.index is not None or not usable.all():
        rows = np.flatnonzero(usable)
        used, first = np.unique(index[rows], return_index=True)
        values, labels = values[used], labels[rows[first]]
    tensors = {
        key: TensorColumn(torch.from_numpy(np.array(array)).to(device), None)
        for key, array in (("x", values), ("label", labels))
    }
    return Table(tensors, len(values))


def _values(rows: Table, key: str = "x") -> Tensor:
    column = rows.columns[key]
    assert isinstance(column, TensorColumn)
    return column.values


def _fingerprint_with_labels(source: Source) -> str:
    """Hash of all values and labels of a source."""
    digest = hashlib.sha256(fingerprint(source).encode())
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels).data)
    return digest.hexdigest()
