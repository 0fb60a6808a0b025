"""Files of weights: safetensors whose header has hashes of all that they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mvflow.core import DataError
from mvflow.core.files import open_regular, parse_json
from mvflow.runs.files import write_atomically

__all__ = ["is_own_file", "read_header", "read_tensors", "weights_hash", "write_tensors"]


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values in the order of the names.

    Examples:
        >>> hashes = [weights_hash({"w": torch.full((2,), x)}) for x in (0.0, 0.0, 1.0)]
        >>> hashes[0] == hashes[1], hashes[0] == hashes[2]
        (True, False)
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    *,
    previous: Path | None = None,
) -> None:
    """Write tensors, a JSON object and the hashes of both as one safetensors file, atomically.

    Equal tensors and equal `about` give equal files. `previous` is where the file that was at
    `path` is kept.

    Raises:
        DataError: if the disk is full or the directory cannot be written.
    """
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}
    # One key of metadata: safetensors writes several in random order.
    header = json.loads(json.dumps({"about": about, "sha256": weights_hash(plain)}))
    text = json.dumps({**header, "header_sha256": _hash(header)}, sort_keys=True)
    content = save(plain, {"mvflow": text})  # Python then writes it, and says why it could not
    write_atomically(path, lambda p: p.write_bytes(content), previous=previous)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        DataError: if the file is missing, damaged, or was altered after it was written.
    """
    try:
        open_regular(path).close()  # a pipe would be waited for
        with safe_open(path, "pt") as file:
            about = _content(file)
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        if about["sha256"] != weights_hash(tensors):
            msg = "its content is not what was written: it does not fit its hash"
            raise ValueError(msg)
        return tensors, about
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error})"
        raise DataError(msg) from error


def read_header(path: Path) -> dict[str, Any]:
    """Header of a file of weights, without its tensors; empty if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return _content(file)
    except (OSError, SafetensorError, ValueError):
        return {}


def is_own_file(path: Path) -> bool:
    """Whether a file has a header of `write_tensors`."""
    return path.is_file() and bool(read_header(path))


def _content(file: Any) -> dict[str, Any]:
    """The JSON object of an open file, and as `sha256` the hash of its tensors."""
    text = (file.metadata() or {}).get("mvflow")
    if text is None:
        msg = "it has no header of mvflow"
        raise ValueError(msg)
    header = parse_json(text, "its header", {"about": dict, "sha256": str})
    if header.pop("header_sha256", None) != _hash(header):
        msg = "its header is not what was written: it does not fit its hash"
        raise ValueError(msg)
    return {**header["about"], "sha256": header["sha256"]}


def _hash(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
