"""Classifiers of single modalities: they tell the class of generated rows (paper Appendix G)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mvflow.config import Classifiers as Settings
from mvflow.core import Modality, generator
from mvflow.evaluation.networks import ModalityNetworks
from mvflow.nn import build_classifier
from mvflow.stages import Losses
from mvflow.training import as_input

__all__ = ["ModalityClassifiers"]

MAX_FEATURES = 256
"""Features of a classifier; a distance costs the third power of their number."""


class ModalityClassifiers(ModalityNetworks):
    """One classifier for each modality; their scores are accuracies on real test rows.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> labels = np.arange(40) % 2
        >>> rows = ArraySource({"a": labels[:, None] + np.zeros((40, 3))}, labels=labels)
        >>> settings = Settings(kind="mlp", epochs=40, dropout=0)
        >>> ModalityClassifiers.train(rows, rows, settings).accuracy
        {'a': 1.0}
    """

    name: ClassVar[str] = "classifier"
    score: ClassVar[str] = "accuracy"
    needs_classes: ClassVar[bool] = True

    @property
    def accuracy(self) -> dict[str, float]:
        """Name -> share of test rows whose class is found."""
        return self.scores

    def predict(self, name: str, x: ArrayLike) -> NDArray[np.int64]:
        """Most probable class of each row, (rows,), for rows (rows, *shape) of one modality."""
        return self.predict_with_features(name, x)[0]

    def predict_with_features(
        self, name: str, x: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`predict` and `features` at once."""
        both = self._apply(name, x, _classes_and_features)
        return both[:, 0].astype(np.int64), both[:, 1:]

    @classmethod
    def _build(cls, modality: Modality, settings: Settings, classes: int) -> nn.Module:
        return build_classifier(settings, modality, classes)

    @classmethod
    def _training(cls, settings: Settings) -> Settings:
        return settings

    @classmethod
    def _kept_settings(cls, kept: Mapping[str, Any]) -> Settings:
        return Settings.model_validate(kept)

    @classmethod
    def _losses(cls, network: Any, batch: Mapping[str, Tensor], progress: float) -> Losses:
        scores = network(batch["x"])
        total = nn.functional.cross_entropy(scores, batch["label"])
        hits = (scores.argmax(-1) == batch["label"]).float().mean()
        return Losses(total, {"accuracy": hits})

    @classmethod
    def _fit(cls, network: Any, values: Tensor, optimise: Callable[[], object]) -> None:
        optimise()

    @classmethod
    def _features(cls, network: Any, x: Tensor) -> Tensor:
        return _scores_and_features(network, x)[1]

    def _evaluate(self, name: str, values: Tensor, labels: Tensor) -> float:
        found = self.predict(name, values.cpu().numpy())
        return float(np.mean(found == labels.cpu().numpy()))


def _classes_and_features(network: nn.Module, x: Tensor) -> Tensor:
    scores, features = _scores_and_features(network, x)
    return torch.cat([scores.argmax(-1, keepdim=True).float(), features], 1)


def _scores_and_features(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Class scores, and the input of the last layer, at most `MAX_FEATURES` numbers a row.

    Where it has more, they are projected to as many by a fixed random matrix, which keeps squared
    distances on average.
    """
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.update(last=inputs[0]))
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    try:
        scores = network(as_input(x))
    finally:
        for hook in hooks:
            hook.remove()
    return scores, _projected(seen["last"].float().flatten(1))


def _projected(x: Tensor) -> Tensor:
    """Features (rows, features), at most `MAX_FEATURES` of them."""
    width = x.shape[1]
    if width <= MAX_FEATURES:
        return x
    matrix = generator(0, "features", width).standard_normal((width, MAX_FEATURES), np.float32)
    return x @ torch.from_numpy(matrix).to(x.device) / MAX_FEATURES**0.5
