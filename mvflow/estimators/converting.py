"""Run directories of format 1 (mvflow 0.1), read once and written in the present format."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvflow.config import Config, config_from_dict, read_toml
from mvflow.core import DataError, Source, UsageError, fingerprint
from mvflow.core.files import check_shape
from mvflow.runs import (
    Inputs,
    Plan,
    RunDirectory,
    StageRecord,
    read_json,
    weights_hash,
    write_atomically,
)
from mvflow.systems import build_system, stages_of

__all__ = ["convert_config", "convert_run", "renew_fingerprints"]

BLOCK_BYTES = 1 << 24
"""Bytes of a source that are hashed at a time."""


def convert_run(path: Path, splits: Mapping[str, Source] | None = None) -> list[str]:
    """Convert a run directory in place; files of format 1 are kept in `format-1/`.

    Args:
        path: the run directory.
        splits: of the converted store that it was trained on, whose fingerprint is recorded in
            place of the one that mvflow 0.1 computed of the same rows.

    Returns:
        Names of the stages whose weights were taken over.

    Raises:
        DataError: if a file is damaged, or the run was trained on other rows.
        UsageError: if it is not a run directory of format 1.
    """
    file = path / "config.toml"
    if not file.is_file():
        msg = f"{path} is not a run directory: it has no config.toml"
        raise UsageError(msg)
    raw = read_toml(file)
    if raw.get("format") != 1:
        msg = f"{path} has format {raw.get('format')}: only runs of format 1 are converted"
        raise UsageError(msg)
    config = config_from_dict(convert_config(raw), where=str(file))
    old = path / "format-1"
    source = old if (old / file.name).is_file() else path  # a conversion may have been killed
    manifest = source / "manifest.json"
    entries = read_json(manifest).get("stages", {}) if manifest.is_file() else {}
    check_shape(entries, {str: {"key": str}}, f"stages of {manifest}")
    weights = {name: _read(source / f"{name}.safetensors", entries[name]) for name in entries}
    records = _records(path, config, entries, weights)
    if splits is not None:
        records = _renewed(path, config, records, splits[config.data.train])
    if source is path:
        old.mkdir(exist_ok=True)
        for name in (*(f"{stage}.safetensors" for stage in weights), manifest.name, file.name):
            if (path / name).is_file():
                write_atomically(old / name, partial(shutil.copyfile, path / name))
    run = RunDirectory(path)
    (path / manifest.name).unlink(missing_ok=True)
    for stage, tensors in weights.items():
        run.forget(stage)
        if stage in records:
            run.finish(stage, tensors, records[stage])
    run.write_config(config)  # the last, so that a conversion that was killed is made again
    return list(records)


def renew_fingerprints(path: Path, splits: Mapping[str, Source]) -> list[str]:
    """Record the fingerprint of a converted store in a run that was trained on the old one.

    Returns:
        Names of the stages whose records were renewed.

    Raises:
        DataError: if the run was trained on other rows; nothing is changed then.
    """
    run = RunDirectory.open(path)
    with run.lock():
        config, old_records = run.config(), run.records()
        records = _renewed(path, config, old_records, splits[config.data.train])
        changed = [name for name in records if records[name] != old_records[name]]
        for name in changed:
            run.finish(name, run.read_weights(name), records[name])
    return changed


def _renewed(
    path: Path, config: Config, records: Mapping[str, StageRecord], train: Source
) -> dict[str, StageRecord]:
    """Records with the present fingerprint of rows, where they have that of mvflow 0.1."""
    old, new = _old_fingerprint(train), fingerprint(train)
    plan = Plan(config, stages_of(build_system(config)))
    renewed: dict[str, StageRecord] = {}
    for spec in plan.stages:
        if spec.name not in records:
            continue
        record = records[spec.name]
        if record.fingerprint not in (old, new):
            msg = (
                f"stage {spec.name!r} of {path} was trained on other rows than split "
                f"{config.data.train!r} of this store has: name the converted copy of its own"
            )
            raise DataError(msg)
        key = record.key
        if all(name in renewed for name in spec.needs):
            was = {name: records[name].key for name in spec.needs}
            if key == plan.key(spec.name, record.inputs, was):  # else it is stale, and stays so
                now = {name: renewed[name].key for name in spec.needs}
                key = plan.key(spec.name, Inputs(new, record.validation), now)
        renewed[spec.name] = replace(record, key=key, fingerprint=new)
    return renewed


def _old_fingerprint(source: Source) -> str:
    """Hash of all values of a source as mvflow 0.1 computed it."""
    digest = hashlib.sha256()
    for name, column in sorted(source.columns().items()):
        for array in (column.values, column.index):
            if array is None:
                continue
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            step = max(1, BLOCK_BYTES // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
            for start in range(0, len(array), step):
                digest.update(np.ascontiguousarray(array[start : start + step]).data)
    return digest.hexdigest()


def convert_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of format 1 in the present format, as a plain dict.

    Examples:
        >>> old = {"model": "jnf", "latent_dim": 2, "flows": {"posterior": "nsf", "bins": 4},
        ...        "modalities": {"a": {"shape": [3], "scale": 0.5}}}
        >>> new = convert_config(old)
        >>> new["posterior"]["bins"], new["modalities"]["a"]["likelihood"]
        (4, {'kind': 'normal', 'scale': 0.5})
    """
    flows, amortised = dict(raw.get("flows", {})), dict(raw.get("amortised", {}))
    projectors, sampler = dict(raw.get("projectors", {})), dict(raw.get("sampler", {}))
    objective = projectors.pop("kind", "contrastive")
    by_kind = {"contrastive": ("temperature",), "dcca": ("ridge",)}
    projector = {"kind": objective}
    for key in ("dim", "dropout", "temperature", "ridge"):
        value = projectors.pop(key, None)
        if value is not None and (key in ("dim", "dropout") or key in by_kind.get(objective, ())):
            projector[key] = value
    divisor, method = sampler.pop("divide_by", "aggregate"), sampler.pop("name", "hmc")
    subset: dict[str, Any] = {"kind": "product", "divisor": divisor}
    posterior = _family(flows, "maf")
    family = _family(amortised, "conditional-maf")
    if raw.get("subset") == "amortised":
        subset = {"kind": "amortised", "posterior": family, **amortised}
    prior = dict(raw.get("prior", {}))
    if prior.get("kind", "standard") == "standard":
        prior = {"kind": "standard"}
    kept = {
        "hmc": sampler,
        "sir": {k: v for k, v in sampler.items() if k == "candidates"},
        "hamiltorch": {k: v for k, v in sampler.items() if k != "independent"},
    }
    system = raw.get("model", "jnf")
    out = {
        k: v
        for k, v in raw.items()
        if k not in ("model", "subset", "amortised", "format", "flows", "projectors", "sampler")
    }
    return {
        **out,
        "system": system,
        "modalities": {name: _modality(m) for name, m in raw.get("modalities", {}).items()},
        "projectors": projectors,
        "projector": projector if system == "jnf-shared" else {"kind": "none"},
        "posterior": posterior,
        "flows": flows,
        "subset": subset,
        "prior": prior,
        "sampler": {"kind": method, **kept.get(method, sampler)},
    }


def _family(section: dict[str, Any], default: str) -> dict[str, Any]:
    """The settings of a posterior family, taken out of a section of format 1."""
    kind = section.pop("posterior", default)
    fields = {
        "gaussian": (),
        "maf": ("transforms", "hidden"),
        "conditional-maf": ("transforms", "hidden", "context"),
        "nsf": ("transforms", "hidden", "context", "bins"),
    }
    settings: dict[str, Any] = {}
    for key in ("transforms", "hidden", "context", "bins"):
        value = section.pop(key, None)
        if value is not None and key in fields.get(kind, ()):
            settings[key] = value
    return {"kind": kind, **settings}


def _modality(raw: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(raw)
    kind, scale = out.pop("likelihood", "normal"), out.pop("scale", None)
    scaled = scale is not None and kind in ("normal", "laplace")
    out["likelihood"] = {"kind": kind, "scale": scale} if scaled else {"kind": kind}
    return out


def _read(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of format 1, checked by their CRC-32 and by the manifest's key."""
    try:
        with safe_open(path, "pt") as file:
            metadata = {"about": "{}"} | (file.metadata() or {})
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        checksum = zlib.crc32(metadata["about"].encode())
        for name, value in sorted(tensors.items()):
            checksum = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), checksum)
            checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
        if metadata.get("crc32") != f"{checksum:08x}":
            msg = "its content does not fit its checksum"
            raise ValueError(msg)
        if json.loads(metadata["about"]).get("key") != entry.get("key"):
            msg = "it is not the file that manifest.json records"
            raise ValueError(msg)
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        msg = f"{path} is missing or damaged ({error})"
        raise DataError(msg) from error
    return tensors


def _records(
    path: Path,
    config: Config,
    entries: Mapping[str, Any],
    weights: Mapping[str, dict[str, Tensor]],
) -> dict[str, StageRecord]:
    """Records of the stages that the configuration has, once their weights are seen to fit."""
    plan = Plan(config, stages_of(build_system(config)))
    records: dict[str, StageRecord] = {}
    for spec in plan.stages:
        name = spec.name
        if name not in weights or any(n not in records for n in spec.needs):
            continue
        own = weights[name]
        try:
            spec.module.load_state_dict(own)
        except RuntimeError as error:
            file, reason = path / f"{name}.safetensors", str(error).splitlines()[-1].strip()
            msg = f"{file} does not fit its config.toml: {reason}"
            raise DataError(msg) from error
        inputs = Inputs(entries[name].get("fingerprint", ""))
        about = {
            key: entries[name][key]
            for key in ("seconds", "rows", "device", "epochs")
            if key in entries[name]
        }
        records[name] = StageRecord(
            plan.key(name, inputs, {n: records[n].key for n in spec.needs}),
            weights_hash(own),
            {n: records[n].weights for n in spec.needs},
            inputs.train,
            seed=config.seed,
            **about,
        )
    return records
