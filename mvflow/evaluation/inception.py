"""Features of Inception-v3, whose Fréchet distance is the FID, with weights that the user has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError, Modality
from mvflow.nn import InceptionV3
from mvflow.runs import read_state_dict

__all__ = ["InceptionFeatures"]

BATCH_ROWS = 64
CLASSES = {1008: "the port of TensorFlow's weights of 2015", 1000: "torchvision's weights"}
"""Classes that the last layer of the published files tells apart."""
FILES = (
    "pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or "
    "inception_v3_google-0cc3c7bd.pth of torchvision"
)


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2048 pool features of images, by which FIDs are measured.

    Published FIDs are of the port of TensorFlow's weights; those of torchvision's differ.

    Args:
        network: with its weights.
        about: which weights they are, with the hash of their file.

    Examples:
        >>> features = InceptionFeatures(InceptionV3(divisor=16).eval(), "random weights")
        >>> features.features("image", np.zeros((2, 1, 28, 28), np.uint8)).shape
        (2, 128)
    """

    name: ClassVar[str] = "inception-v3"
    network: InceptionV3
    about: str

    @classmethod
    def read(cls, path: str | Path, *, device: str = "cpu") -> InceptionFeatures:
        """From one of the two published files of weights, or the same tensors as safetensors.

        Args:
            path: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, or
                `inception_v3_google-0cc3c7bd.pth` of torchvision.
            device: where features are computed.

        Raises:
            DataError: if it holds code, or is none of the two.
        """
        found = read_state_dict(Path(path))
        shapes = found.shapes
        classes = shapes.get("fc.bias", (0,))[0]
        needed = _shapes()
        wrong = [name for name, shape in needed.items() if shapes.get(name) != shape]
        extra = [
            name
            for name in shapes
            if name not in needed and not name.startswith(("fc.", "AuxLogits."))
        ]
        if wrong or extra or classes not in CLASSES:
            name = (wrong or extra or ["fc.bias"])[0]
            expected = needed.get(name, "none" if extra else "(1008,) or (1000,)")
            msg = (
                f"{path} does not hold the weights of Inception-v3: its tensor {name!r} is "
                f"{shapes.get(name, 'missing')}, expected {expected}; --inception takes {FILES}"
            )
            raise DataError(msg)
        network = InceptionV3(tensorflow=classes == 1008)
        network.load_state_dict({name: found.tensors[name] for name in needed}, strict=False)
        about = f"{CLASSES[classes]}, SHA-256 {found.sha256}"
        return cls(network.to(device).eval(), about)

    def accepts(self, modality: Modality) -> bool:
        """Whether rows are images, grey or in colour."""
        return len(modality.shape) == 3 and modality.shape[0] in (1, 3)

    @torch.no_grad()
    def features(self, name: str, x: ArrayLike) -> NDArray[np.float32]:
        """Features (rows, 2048) of images (rows, 1 or 3, height, width), bytes or from 0 to 1."""
        rows = torch.from_numpy(np.asarray(x))
        weight = next(self.network.parameters())
        parts = []
        for part in rows.split(BATCH_ROWS):
            images = part.to(weight.device, weight.dtype)
            if rows.dtype == torch.uint8:
                images = images / 255
            parts.append(self.network(self.network.prepared(images)).cpu())
        return np.asarray(torch.cat(parts).numpy())


@cache
def _shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that features depend on."""
    with torch.device("meta"):
        network = InceptionV3()
    return {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
