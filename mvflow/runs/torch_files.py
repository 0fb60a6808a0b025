"""Files of other programs with tensors: by `torch.save` or safetensors, without any code."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mvflow.core import DataError
from mvflow.core.files import open_regular
from mvflow.core.memory import check_memory

__all__ = ["StateDict", "load_torch", "read_state_dict"]

MAX_STATE_DICT = 1 << 32
"""Bytes of a file of weights, at most."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which checkpoints keep the weights."""


class StateDict(NamedTuple):
    """Weights of a network."""

    tensors: dict[str, Tensor]
    sha256: str
    """Hash of the file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, without the counters of batch normalisation."""
        return {
            name: tuple(value.shape)
            for name, value in self.tensors.items()
            if not name.endswith("num_batches_tracked")
        }


def read_state_dict(path: Path) -> StateDict:
    """Weights that `torch.save(network.state_dict(), path)` or safetensors wrote.

    Of a checkpoint, its `state_dict`. A saved network is refused: reading it would run code.

    Raises:
        DataError: if the file is missing, damaged, holds code, or no weights that are numbers.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "net.pth"
        >>> torch.save(torch.nn.Linear(2, 1).state_dict(), path)
        >>> read_state_dict(path).shapes
        {'weight': (1, 2), 'bias': (1,)}
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if size > MAX_STATE_DICT:
            msg = f"{path} has {size:,} bytes: more than the weights of a judge"
            raise DataError(msg)
        check_memory(2 * size, str(path))
        file.seek(0)
        content = file.read()
    found: Any
    if content[8:9] == b"{":
        try:
            found = load(content)
        except (SafetensorError, ValueError) as error:
            msg = f"{path} is damaged, or no safetensors file ({error})"
            raise DataError(msg) from error
    else:
        found = _loaded(io.BytesIO(content), path)
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    is_weights = isinstance(found, Mapping) and found
    if not is_weights or not all(isinstance(value, Tensor) for value in found.values()):
        actual = type(found).__name__
        msg = f"{path} holds no weights but a {actual}: save network.state_dict() in it"
        raise DataError(msg)
    tensors = {str(name): value for name, value in found.items()}
    for name, value in tensors.items():
        _check_numbers(path, name, value)
    return StateDict(tensors, hashlib.sha256(content).hexdigest())


def _check_numbers(path: Path, name: str, value: Tensor) -> None:
    """Refuse a tensor whose values are not all in the file, or are no finite real numbers."""
    is_dense = value.layout is torch.strided and not (value.is_meta or value.is_quantized)
    held = value.untyped_storage().nbytes() if is_dense else 0
    if value.is_complex() or value.numel() * value.element_size() > held:
        msg = f"{path}: its tensor {name!r} is no dense array of real numbers"
        raise DataError(msg)
    if not value.isfinite().all():
        msg = f"{path}: its tensor {name!r} holds values that are not finite numbers"
        raise DataError(msg)


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote; only tensors, containers and numbers are let through.

    Raises:
        DataError: if the file is missing or damaged, or reading it would run code.
    """
    with open_regular(path) as file:
        return _loaded(file, path)


def _loaded(file: IO[bytes], path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_number_types()):
            if zipfile.is_zipfile(file):
                unpacked = sum(info.file_size for info in zipfile.ZipFile(file).infolist())
                check_memory(unpacked, str(path))
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # torch fails on damaged files in many ways
        if named := re.search(r"(?:GLOBAL|class|type) ([\w.]+)", str(error)):
            msg = (
                f"{path} is refused: it is not made of tensors and numbers alone, "
                f"and reading it would run {named[1]}"
            )
            raise DataError(msg) from error
        msg = f"{path} is truncated or not a file of torch.save: download it again"
        raise DataError(msg) from error


def _number_types() -> list[Any]:
    """NumPy's numbers, as which a mean or a scaling may have been saved."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    types = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [np.dtype, *types, *((scalar, name) for name in names)]
