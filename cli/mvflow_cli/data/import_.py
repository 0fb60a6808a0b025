"""`mvflow data import`: a store from files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.opening import check_output
from mvflow_cli.options import ImageShapes, Json, Seed, parsed_image_shapes
from mvflow_cli.output import say, show_json

if TYPE_CHECKING:
    from mvflow_datasets.importing import ReadOptions, Wanted

__all__ = ["import_"]


def import_(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.h5", help="Store to write.", show_default=False)
    ],
    modalities: Annotated[
        list[str],
        typer.Option(
            "--modality",
            metavar="NAME=PATH[:PART]",
            help="A modality and where it is: .npy, .npz, .csv, .tsv, .parquet, .h5ad, .h5mu or "
            "a folder of images; PART is columns, an array or a matrix. May be repeated.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="PATH[:PART]", help="Class of each row, for coherence.", show_default=False
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="PATH[:PART]",
            help="Group of each row, such as the subject: never on both sides of a split.",
            show_default=False,
        ),
    ] = None,
    covariates: Annotated[
        list[str] | None,
        typer.Option(
            "--covariate",
            metavar="NAME=PATH:PART",
            help="What networks see of each row and never generate, such as the batch: a column "
            "of a table, or obs:COLUMN of the first annotated file. May be repeated.",
            show_default=False,
        ),
    ] = None,
    covariate_kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--covariate-kind",
            metavar="NAME=KIND",
            help="categorical or continuous, where not as suggested.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH[:PART]",
            help="What names the rows of a modality (or of labels, groups): rows with the same "
            "key are paired. NAME=:COLUMN is a column of its own table. May be repeated.",
            show_default=False,
        ),
    ] = None,
    likelihoods: Annotated[
        list[str] | None,
        typer.Option(
            "--likelihood",
            metavar="NAME[:COLUMN]=KIND",
            help="One of 'mvflow list likelihoods', where not the suggested one.",
            show_default=False,
        ),
    ] = None,
    transforms: Annotated[
        list[str] | None,
        typer.Option(
            "--transform",
            metavar="NAME[:COLUMN]=KIND",
            help="none, standardise, log1p or quantile, where not the suggested one.",
            show_default=False,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]none|N",
            help="Line of a text table that names the columns, from 1, or none; of one modality "
            "or of all. Guessed else.",
            show_default=False,
        ),
    ] = None,
    separator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]TEXT",
            help="What separates the cells of a text table, \\t for tabs. Guessed else.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]COLUMN|none",
            help="Column of a table that names its rows. By default a first one without a name.",
            show_default=False,
        ),
    ] = None,
    na_tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--na-token",
            metavar="[NAME=]TEXT",
            help="Text that stands for a missing value, beside the empty one, in place of "
            "NA, N/A, NaN and null. May be repeated.",
            show_default=False,
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]refuse|row|values",
            help="What a missing value means (an empty cell, NaN, an empty image file; of labels, "
            "too): refuse it, the row lacks the modality, or only such values are absent. May be "
            "repeated.",
            show_default="refuse",
        ),
    ] = None,
    image_shape: ImageShapes = None,
    join: Annotated[
        str,
        typer.Option(
            metavar="inner|outer",
            help="Keep the rows that have all modalities (and labels), or those that have any.",
        ),
    ] = "inner",
    split: Annotated[
        str, typer.Option(help="Shares of train,test or of train,validation,test.")
    ] = "0.8,0.1,0.1",
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.h5.")] = False,
    json: Json = False,
) -> None:
    """Import arrays, tables, images and annotated matrices into a store.

    Rows are paired by position, or by key. Says what it understood and did to the values.

    Example: mvflow data import own.h5 --modality image=scans/ --modality rna=counts.csv
    """
    from mvflow_datasets import Store
    from mvflow_datasets.importing import Reference, Wanted, import_data, split_shares

    wanted = Wanted(
        _assigned("--modality", modalities, "image=images.npy"),
        labels=labels,
        groups=groups,
        covariates=_assigned("--covariate", covariates, "batch=obs:batch"),
        covariate_kinds=_assigned("--covariate-kind", covariate_kinds, "age=continuous"),
        keys=_assigned("--keys", keys, "rna=counts.csv:sample"),
        likelihoods=_assigned("--likelihood", likelihoods, "image=laplace"),
        transforms=_assigned("--transform", transforms, "rna=none"),
        split=split_shares(split),
        seed=seed,
        join=join,
        image_shapes=parsed_image_shapes(image_shape),
    )
    read = (*wanted.modalities.values(), labels or "", groups or "", *wanted.keys.values())
    check_output(out, force, (Reference.parse(text).path for text in read if text))
    options = _options(wanted, header, separator, index, na_tokens, missing)
    wanted = replace(wanted, options=options)
    done = import_data(out, wanted)
    if json:
        with Store.open(out) as store:
            found = store.info()
        show_json({**found, "understood": done.understood, "warnings": done.warnings})
        return
    for line in done.understood[:-1]:
        say(line)
    for line in done.warnings:
        say(f"mvflow: warning: {line}", err=True)
    say(f"wrote {out}: {done.understood[-1]}; next: mvflow new RUN --recipe auto --store {out}")


def _options(
    wanted: Wanted,
    header: Sequence[str] | None,
    separator: Sequence[str] | None,
    index: Sequence[str] | None,
    na_tokens: Sequence[str] | None,
    missing: Sequence[str] | None,
) -> dict[str, ReadOptions]:
    """How files are read: by modality, and with the name `""` for those without their own."""
    from mvflow_datasets.importing import ReadOptions

    names = {*wanted.modalities, "labels", "groups"}
    said: dict[str, dict[str, Any]] = {"": {}}
    for key, texts in (
        ("header", header),
        ("separator", separator),
        ("index", index),
        ("na_tokens", na_tokens),
        ("missing", missing),
    ):
        for text in texts or []:
            name, equals, value = text.partition("=")
            if equals and name not in names:
                _check_not_mistyped(key, text, names)
            if not equals or name not in names:
                name, value = "", text
            of_name = said.setdefault(name, {})
            if key == "na_tokens":
                of_name[key] = (*of_name.get(key, ()), value)
            else:
                of_name[key] = _parsed(key, value)
    return {name: ReadOptions(**{**said[""], **choices}) for name, choices in said.items()}


def _check_not_mistyped(key: str, text: str, names: set[str]) -> None:
    """Refuse `NAME=VALUE` of an unknown modality, unless the text may be a value with a `=`."""
    from mvflow.core import UsageError, nearest_name, unknown_name

    name = text.partition("=")[0]
    takes_equals = key in {"index", "na_tokens"} or text == "="
    if takes_equals and nearest_name(name, names) is None:
        return
    raise UsageError(
        f"--{key.replace('na_tokens', 'na-token')} {text!r}: "
        + unknown_name("modality", name, names)
    )


def _parsed(key: str, value: str) -> Any:
    if key == "separator":
        value = value.replace("\\t", "\t")
        if len(value) != 1:
            raise typer.BadParameter(f"cannot read --separator {value!r}: expected one letter")
        return value
    if key == "header":
        if value != "none" and not (value.isdecimal() and int(value) > 0):
            raise typer.BadParameter(f"cannot read --header {value!r}: expected none or a line")
        return 0 if value == "none" else int(value)
    return value


def _assigned(option: str, texts: Sequence[str] | None, example: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dict, in their order."""
    out: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise typer.BadParameter(f"cannot read {option} {text!r}: expected {example}")
        if name in out:
            raise typer.BadParameter(f"{option} names {name!r} twice")
        out[name] = value
    return out
