"""Classifiers and autoencoders that a user brings: published ones, or those kept by mvflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch import nn

from mvflow.core import DataError, Modality, Source, UsageError
from mvflow.evaluation.autoencoders import ModalityAutoencoders
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.networks import ModalityNetworks
from mvflow.evaluation.published_networks import PUBLISHED, PublishedNetwork
from mvflow.nn import ModalityDict
from mvflow.runs import is_own_file, read_state_dict

__all__ = ["read_autoencoders", "read_classifiers"]

ERRORS_APART = 3.0
"""Standard errors of an accuracy by which a classifier must be above chance."""

Networks = TypeVar("Networks", bound=ModalityNetworks)


def read_classifiers(
    paths: Sequence[str | Path], test: Source, *, device: str = "cpu"
) -> ModalityClassifiers:
    """Classifiers from files, scored on test rows.

    Args:
        paths: a file that mvflow keeps beside a store, or published state dicts, one for each
            modality, or a folder with them: those of MoPoE for PolyMNIST, of Nexus for MHD. A
            file is for the modality that its name has, such as `clf_m0`, or `m0=FILE` says so.
        test: rows with labels.
        device: where they run.

    Raises:
        DataError: if a file is another network, or one for other rows.
        UsageError: if it is not clear for which modality a file is.
    """
    found = _read(ModalityClassifiers, paths, test, device)
    labels = test.labels
    if labels is None:
        msg = "the test rows have no labels: coherence needs a class for each row"
        raise DataError(msg)
    found = found.scored(test, device)
    chance = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    noise = ERRORS_APART * (chance * (1 - chance) / len(labels)) ** 0.5
    for name, accuracy in found.accuracy.items():
        if accuracy <= chance + noise:
            msg = (
                f"the classifier of {name!r} finds {accuracy:.3f} of the classes of real test "
                f"rows, where chance finds {chance:.3f}: it is for other data or another modality"
            )
            raise DataError(msg)
    return found


def read_autoencoders(
    paths: Sequence[str | Path], test: Source, *, device: str = "cpu"
) -> ModalityAutoencoders:
    """Autoencoders from files, in whose codes distances are taken; see `read_classifiers`.

    Raises:
        DataError: if a file is another network, or one for other rows.
        UsageError: if it is not clear for which modality a file is.
    """
    return _read(ModalityAutoencoders, paths, test, device)


class _File(NamedTuple):
    """A published network in a file."""

    path: Path
    network: PublishedNetwork
    module: nn.Module
    sha256: str


def _read(
    kind: type[Networks], paths: Sequence[str | Path], test: Source, device: str
) -> Networks:
    modalities = {m.name: m for m in test.modalities}
    if len(paths) == 1 and is_own_file(Path(paths[0])):
        return kind.read(Path(paths[0]), modalities.values(), device=device)
    chosen: dict[str, Path] = {}
    for given in paths:
        for name, path in _assigned(kind, str(given), modalities).items():
            if name in chosen:
                msg = f"{chosen[name]} and {path} are both for {name!r}: name one of them"
                raise UsageError(msg)
            chosen[name] = path
    if missing := sorted(modalities.keys() - chosen):
        msg = (
            f"there is no {kind.name} for {', '.join(map(repr, missing))}: name a file for each "
            f"modality, as in --{kind.name}s {missing[0]}=FILE"
        )
        raise UsageError(msg)
    files = {name: _file(kind, path) for name, path in chosen.items()}
    for name, file in files.items():
        if modalities[name].shape != file.network.shape:
            msg = (
                f"{file.path} holds {file.network.title}, whose rows have shape "
                f"{file.network.shape}: those of {name!r} have {modalities[name].shape}"
            )
            raise DataError(msg)
    networks = ModalityDict({name: file.module for name, file in files.items()})
    about = "; ".join(
        f"{name}: {file.network.title}, SHA-256 {file.sha256}"
        for name, file in sorted(files.items())
    )
    return replace(kind(networks.to(device).eval(), {}, 0), about=about)


def _assigned(
    kind: type[ModalityNetworks], given: str, modalities: Mapping[str, Modality]
) -> dict[str, Path]:
    """For which modality each file is."""
    name, _, path = given.partition("=")
    if path and name in modalities:
        return {name: Path(path)}
    place = Path(given)
    files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
    found = {m: p for p in files for m in modalities if m.lower() in _words(p)}
    if place.is_dir() or found:
        if not found:
            listed = ", ".join(map(repr, modalities))
            msg = f"no file in {place} has the name of a modality: they are {listed}"
            raise UsageError(msg)
        return found
    network = _file(kind, place).network
    fitting = [m.name for m in modalities.values() if m.shape == network.shape]
    if len(fitting) != 1:
        shapes = ", ".join(f"{m.name} {m.shape}" for m in modalities.values())
        msg = (
            f"{place} holds {network.title}, for rows of shape {network.shape}, but the rows are "
            f"{shapes}: say for which modality it is, as in --{kind.name}s NAME={place.name}"
        )
        raise UsageError(msg)
    return {fitting[0]: place}


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z0-9]+", path.name.lower())


def _file(kind: type[ModalityNetworks], path: Path) -> _File:
    """The published network that a file holds, told by the names and shapes of its tensors."""
    state = read_state_dict(path)
    for network in PUBLISHED:
        if network.judge != kind.name:
            continue
        try:
            module = network.build(state.shapes)
        except (KeyError, IndexError):
            continue
        needed = {
            name: tuple(value.shape)
            for name, value in module.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        others = {name for name in state.shapes if not name.startswith("decoder")}
        if others == set(needed) and all(state.shapes[n] == s for n, s in needed.items()):
            tensors = {name: state.tensors[name] for name in needed}
            module.load_state_dict(tensors, strict=False)
            return _File(path, network, module, state.sha256)
    known = "; ".join(f"{n.title} {n.shape}" for n in PUBLISHED if n.judge == kind.name)
    some = ", ".join(f"{name} {shape}" for name, shape in [*state.shapes.items()][:2])
    msg = (
        f"{path} holds no {kind.name} that is known: its tensors are {some}, ...; known are "
        f"{known}; and files that mvflow keeps beside stores"
    )
    raise DataError(msg)
