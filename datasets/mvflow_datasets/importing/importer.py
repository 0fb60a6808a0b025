"""Importing: files in, one store out, and a report of what was understood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow import __version__
from mvflow.core import COVARIATES, Modality, UsageError, check_image_shapes, unknown_name
from mvflow_datasets.hdf5 import check_hdf5_name
from mvflow_datasets.importing.annotated import modalities_of
from mvflow_datasets.importing.covariates import KINDS, covariate_of, describe_covariate
from mvflow_datasets.importing.decided import Decided
from mvflow_datasets.importing.deciding import decide
from mvflow_datasets.importing.missing import check_training_rows
from mvflow_datasets.importing.pairing import divided
from mvflow_datasets.importing.reading import ANNOTATED, checksum, read_row_values, read_values
from mvflow_datasets.importing.references import (
    Raw,
    ReadOptions,
    Reference,
    key_texts,
    split_names,
)
from mvflow_datasets.importing.rows import JOINS, Rows, pair
from mvflow_datasets.writing import SplitData, write_store

__all__ = ["Imported", "Wanted", "import_data"]

RESERVED = {"labels", "groups", "pairs", "factors", "covariates", "present"}
FACTS = ("labels", "groups")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be imported, and how.

    Args:
        modalities: name -> `PATH` or `PATH:PART`: columns of a table, an array of a `.npz`, a
            matrix of a `.h5ad`, a modality of a `.h5mu`. A whole `.h5mu` file becomes one
            modality `name-mod` for each `mod`.
        labels: where the class of each row is.
        groups: where the group of each row is that must stay on one side of the splits.
        covariates: name -> where the values of the rows are that networks see and that are never
            generated, such as the batch; `obs:COLUMN` is a column of the first annotated file.
        covariate_kinds: name -> `categorical` or `continuous`, where not as suggested.
        keys: name of a modality (or `labels`, `groups`) -> where the keys of its rows are;
            `:COLUMN` is a column of its own file.
        likelihoods: modality, or `modality:column` -> likelihood, where not the suggested one.
        transforms: modality, or `modality:column` -> `none`, `standardise`, `log1p` or
            `quantile`, where not the suggested one.
        split: shares of train and test, or of train, validation and test.
        seed: of the splits.
        join: `inner` keeps the rows that have all modalities (and labels), `outer` those that
            have any.
        image_shapes: modality -> (height, width), where flat rows are images.
        options: name of a modality (or `labels`, `groups`) -> how its file is read, where not
            as guessed; `""` for all files that have no options of their own.
    """

    modalities: Mapping[str, str]
    labels: str | None = None
    groups: str | None = None
    covariates: Mapping[str, str] = field(default_factory=dict)
    covariate_kinds: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    likelihoods: Mapping[str, str] = field(default_factory=dict)
    transforms: Mapping[str, str] = field(default_factory=dict)
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    join: str = "inner"
    image_shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    options: Mapping[str, ReadOptions] = field(default_factory=dict)

    def options_of(self, name: str) -> ReadOptions:
        """How the file of a modality (or of labels, groups) is read."""
        return self.options.get(name) or self.options.get("", ReadOptions())


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made, and what was understood on the way: one sentence each."""

    path: Path
    understood: tuple[str, ...]
    warnings: tuple[str, ...]


def import_data(path: str | Path, wanted: Wanted) -> Imported:
    """Import arrays, tables, images and annotated matrices into a store.

    The same files, choices and seed give the same store. All is read and checked before
    anything is written.

    Args:
        path: the store to write.
        wanted: what to import.

    Returns:
        The path, and what was understood.

    Raises:
        DataError: if a file cannot be read, holds values that cannot be used, or the rows do not
            fit together; the message names the place.
        UsageError: if a name or a choice is unknown, or keys are missing.

    Examples:
        >>> from tempfile import mkdtemp
        >>> folder = mkdtemp()
        >>> np.save(f"{folder}/x.npy", np.random.default_rng(0).normal(3, 2, (50, 4)))
        >>> done = import_data(f"{folder}/x.h5", Wanted({"x": f"{folder}/x.npy"}))
        >>> done.understood[-1]
        'train 40 rows, validation 5 rows, test 5 rows'
    """
    check_hdf5_name(Path(path), "a store is")
    places = _places(wanted)
    facts = {n: Reference.parse(t) for n in FACTS if (t := getattr(wanted, n)) is not None}
    facts |= _covariate_places(wanted, places)
    keys = _key_places(wanted, places | facts)
    raws = {
        name: read_values(
            at, _columns_of(at.path, [*facts.values(), *keys.values()]), wanted.options_of(name)
        )
        for name, at in places.items()
    }
    raws |= {name: _fact(name, at, wanted.options_of(name)) for name, at in facts.items()}
    own_keys = {name: _keys(at, wanted.options_of(name)) for name, at in keys.items()}
    rows = pair(raws, own_keys, places.keys(), wanted.join)
    parts = divided(rows.groups, wanted.split, wanted.seed)
    taken = {part: _taken(rows, at) for part, at in parts.items()}
    check_training_rows(raws, taken["train"][0])
    decided = {
        name: decide(
            name,
            raws[name],
            {part: arrays[name] for part, (arrays, _) in taken.items()},
            _of_columns(wanted.likelihoods, name),
            _of_columns(wanted.transforms, name),
        )
        for name in places
    }
    check_image_shapes(wanted.image_shapes, [d.modality for d in decided.values()])
    units = {
        name: replace(d.units, image_shape=wanted.image_shapes.get(name, ()))
        for name, d in decided.items()
    }
    covariates = {
        name: covariate_of(name, values, parts["train"], wanted.covariate_kinds.get(name))
        for name, values in rows.covariates.items()
    }
    splits = {
        part: SplitData(
            {name: d.arrays[part] for name, d in decided.items()},
            present={n: d.present[part] for n, d in decided.items() if part in d.present},
            labels=None if rows.labels is None else rows.labels[parts[part]],
            pairs=pairs,
            covariates={name: rows.covariates[name][parts[part]] for name in covariates},
        )
        for part, (_, pairs) in taken.items()
    }
    about = {f"rows/{part}": rows.origin[at] for part, at in parts.items()}
    files = {at.path for at in (*places.values(), *facts.values(), *keys.values())}
    write_store(
        path,
        name=Path(path).stem,
        modalities=[d.modality for d in decided.values()],
        splits=splits,
        builder=_builder(wanted, decided, rows),
        sources={file.as_posix(): checksum(file) for file in sorted(files)},
        about=about,
        units=units,
        class_names=dict(enumerate(rows.classes)) if rows.labels is not None else None,
        covariates=covariates.values(),
    )
    described = [describe_covariate(covariate) for covariate in covariates.values()]
    return _report(Path(path), places, raws, decided, rows, parts, described)


def _places(wanted: Wanted) -> dict[str, Reference]:
    """Where each modality lies; a whole `.h5mu` file stands for all its modalities."""
    if not wanted.modalities:
        msg = "nothing to import: name at least one modality"
        raise UsageError(msg)
    if wanted.join not in JOINS:
        raise UsageError(unknown_name("join", wanted.join, JOINS))
    places: dict[str, Reference] = {}
    for name, text in wanted.modalities.items():
        at = Reference.parse(text)
        if at.path.suffix.lower() == ".h5mu" and not at.part and at.path.is_file():
            places |= {f"{name}-{mod}": Reference(at.path, mod) for mod in modalities_of(at)}
        else:
            places[name] = at
    for name in places:
        Modality(name, (1,))  # refuses names that cannot be used
        if name in RESERVED:
            msg = f"a modality cannot be named {name!r}: stores use that name themselves"
            raise UsageError(msg)
    for name, kind in wanted.covariate_kinds.items():
        if name not in wanted.covariates:
            raise UsageError(unknown_name("covariate", name, wanted.covariates))
        if kind not in KINDS:
            raise UsageError(unknown_name("kind of covariate", kind, KINDS))
    for choices in (wanted.likelihoods, wanted.transforms, wanted.image_shapes):
        for name in choices:
            if name.partition(":")[0] not in places:
                raise UsageError(unknown_name("modality", name.partition(":")[0], places))
    return places


def _covariate_places(wanted: Wanted, places: Mapping[str, Reference]) -> dict[str, Reference]:
    """`covariates/NAME` -> where its values lie."""
    out = {}
    for name, text in wanted.covariates.items():
        at = Reference.parse(text)
        if text.startswith("obs:") and not at.path.exists():
            files = [p.path for p in places.values() if p.path.suffix.lower() in ANNOTATED]
            if not files:
                msg = f"covariate {name!r} is {text!r}, but no modality is from .h5ad or .h5mu"
                raise UsageError(msg)
            at = Reference(files[0], text.removeprefix("obs:"))
        out[COVARIATES + name] = at
    return out


def _key_places(wanted: Wanted, places: Mapping[str, Reference]) -> dict[str, Reference]:
    """Where the keys lie; labels and groups of a modality's own file share its keys."""
    keys = {}
    for name, text in wanted.keys.items():
        if name not in places:
            raise UsageError(unknown_name("modality", name, places))
        own = text.startswith(":") and len(text) > 1
        keys[name] = Reference(places[name].path, text[1:]) if own else Reference.parse(text)
    for fact in [name for name in places if _is_fact(name) and name not in keys]:
        for name, at in list(keys.items()):
            if places[name].path == places[fact].path:
                keys[fact] = at
    return keys


def _is_fact(name: str) -> bool:
    """Whether a name stands for one value for each row, not for a modality."""
    return name in FACTS or name.startswith(COVARIATES)


def _of_columns(choices: Mapping[str, str], name: str) -> dict[str, str]:
    """Choices `modality` and `modality:column` of one modality, by column or `""`."""
    split = {key.partition(":"): value for key, value in choices.items()}
    return {column: value for (of, _, column), value in split.items() if of == name}


def _columns_of(path: Path, references: list[Reference]) -> list[str]:
    """Columns of a table that are keys, labels or groups, and so no values."""
    parts = [at.part for at in references if at.path == path and at.part]
    return list(dict.fromkeys(name for part in parts for name in split_names(part, parts)))


def _fact(name: str, at: Reference, options: ReadOptions) -> Raw:
    """One value for each row, of which only labels may be missing."""
    return read_row_values(at, options if name == "labels" else replace(options, missing=None))


def _keys(at: Reference, options: ReadOptions) -> NDArray[np.str_]:
    options = replace(options, missing=None)
    return key_texts(read_row_values(at, options).values, str(at), options)


def _taken(
    rows: Rows, part: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]] | None]:
    """Rows of each file that a part takes, and which row takes which.

    There is nothing to say of the latter where every row takes one, and no two the same.
    """
    positions = {name: at[part] for name, at in rows.positions.items()}
    if all(len(np.unique(at)) == len(at) and (at >= 0).all() for at in positions.values()):
        return positions, None
    taken, pairs = {}, {}
    for name, at in positions.items():
        has = at >= 0
        pairs[name] = np.full(len(at), -1)
        taken[name], pairs[name][has] = np.unique(at[has], return_inverse=True)
    return taken, pairs


def _builder(wanted: Wanted, decided: Mapping[str, Decided], rows: Rows) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(wanted.modalities)
    parameters["split"] = ",".join(f"{share:g}" for share in wanted.split)
    if wanted.join != "inner":
        parameters["join"] = wanted.join
    for name in FACTS:
        if getattr(wanted, name) is not None:
            parameters[name] = getattr(wanted, name)
    parameters |= {f"covariates.{name}": text for name, text in wanted.covariates.items()}
    parameters |= {f"keys.{name}": text for name, text in wanted.keys.items()}
    parameters |= {f"image_shapes.{n}": f"{h}x{w}" for n, (h, w) in wanted.image_shapes.items()}
    reading = {name: said for name in decided if (said := wanted.options_of(name).to_dict())}
    return {
        "name": "import",
        "parameters": parameters,
        "transforms": {name: d.transform for name, d in decided.items()},
        "classes": list(rows.classes),
        "seed": wanted.seed,
        "mvflow": __version__,
        **({"reading": reading} if reading else {}),
    }


def _report(
    path: Path,
    places: Mapping[str, Reference],
    raws: Mapping[str, Raw],
    decided: Mapping[str, Decided],
    rows: Rows,
    parts: Mapping[str, NDArray[np.int64]],
    covariates: Iterable[str],
) -> Imported:
    lines = []
    for name, at in places.items():
        raw, each = raws[name], decided[name]
        categorical = each.modality.kind == "categorical"
        shape = "1" if categorical else " x ".join(map(str, each.modality.shape))
        note = f" ({raw.note})" if raw.note else ""
        lines.append(
            f"{name}: {raw.values.shape[0]:,} rows of {shape} from {at}{note}; {each.words}"
        )
    lines.append(rows.words)
    lines += rows.lines
    if rows.labels is not None:
        shown = ", ".join(rows.classes[:8]) + ("..." if len(rows.classes) > 8 else "")
        unknown = int((rows.labels < 0).sum())
        without = f"; {unknown:,} rows have none" if unknown else ""
        lines.append(f"labels: {len(rows.classes)} classes ({shown}){without}")
    lines += covariates
    lines += [line for each in decided.values() for line in each.lines]
    lines += dict.fromkeys(guess for name in raws for guess in raws[name].guesses)
    lines.append(", ".join(f"{part} {len(at):,} rows" for part, at in parts.items()))
    warnings = list(dict.fromkeys(warning for raw in raws.values() for warning in raw.warnings))
    warnings += [d.warning for d in decided.values() if d.warning]
    if rows.labels is not None:
        absent = set(rows.labels.tolist()) - {-1} - set(rows.labels[parts["train"]].tolist())
        if absent:
            names = ", ".join(rows.classes[c] for c in sorted(absent))
            warnings.append(f"no row to train on has the label {names}")
    return Imported(path, tuple(lines), tuple(warnings))
