"""`mvflow complete`: rows that lack modalities, with those drawn by a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.opening import (
    check_output,
    open_store,
    open_trained,
    run_units,
    set_up,
    store_path,
)
from mvflow_cli.options import (
    Device,
    Guidance,
    Json,
    RunPath,
    Seed,
    StorePath,
    SubsetKind,
    Threads,
)
from mvflow_cli.output import say, show_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mvflow.core import Source, Units
    from mvflow_datasets import Split

__all__ = ["complete"]


def complete(
    run: RunPath,
    out: Annotated[
        Path, typer.Option(help="Store to write (.h5).", metavar="STORE", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Store whose rows are completed, of the same modalities; by default the run's.",
            metavar="STORE",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="Modalities that are drawn; by default all. May be repeated.",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="Leave out rows that lack a modality even then."),
    ] = False,
    noise: Annotated[
        bool | None,
        typer.Option(
            "--noise/--mean",
            help="Draws with the likelihood's noise, or means of the decoder; by default draws "
            "for tables, means for images. Classes and counts are always drawn.",
            show_default=False,
        ),
    ] = None,
    guidance: Guidance = None,
    subset: SubsetKind = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace STORE.")] = False,
    store: StorePath = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw what training rows lack, given what they have, into a new store to train on.

    Rows for testing stay as they are. Train on the complete rows first, complete the others by
    that run, and train again: where a modality leaves much open, as a digit does of its partner,
    this can be better than to leave those rows out or to train on them as they are.

    Example: mvflow complete runs/first --from all.h5 --targets mnist --guidance 2 --out filled.h5
    """
    import numpy as np

    from mvflow import __version__
    from mvflow.core import DataError
    from mvflow.estimators import completions
    from mvflow_datasets import Store
    from mvflow_datasets.converted import ConvertedRows
    from mvflow_datasets.hdf5 import check_hdf5_name
    from mvflow_datasets.rewriting import only_rows, rewrite_store, with_generated

    check_hdf5_name(out, "a store is")
    check_output(out, force, [] if source is None else [source])
    set_up(device, threads)
    opened, model = open_trained(run, device, subset=subset, guidance=guidance)
    named = [name for text in targets or [] for name in text.split(",")]
    if source is None:
        check_output(out, force, [store_path(opened, model.config, store)])
    data = model.config.data
    with open_store(opened, model.config, store) if source is None else Store.open(source) as old:
        ours = {m.name: m.shape for m in model.modalities}
        if (theirs := {m.name: m.shape for m in old.modalities}) != ours:
            msg = f"{old.path} has modalities {theirs}, but {run} was trained on {ours}"
            raise DataError(msg)
        split = old[data.train]
        rows: Source = split
        if source is not None:
            units = run_units(opened, model.config, store)
            rows = ConvertedRows(split, units, model.config.covariate_specs())
        drawn = completions(model, rows, named or None, noise=noise, seed=seed)
        if source is not None:
            drawn = {n: (at, _stored(x, n, units, split)) for n, (at, x) in drawn.items()}
        if not drawn:
            msg = f"{old.path}: no row of {data.train!r} lacks {', '.join(named) or 'a modality'}"
            raise DataError(msg)
        made = with_generated(split.data(), drawn)
        assert made.pairs is not None
        kept = np.arange(len(split))
        if drop:
            kept = np.flatnonzero((np.stack([*made.pairs.values()]) >= 0).all(0))
            if not len(kept):
                msg = f"every row of {data.train!r} still lacks a modality: draw more of them"
                raise DataError(msg)
            made = only_rows(made, kept)
        counts = {name: len(rows) for name, (rows, _) in drawn.items()}
        listed = ", ".join(f"{n:,} of {name}" for name, n in counts.items())
        names = split.row_names
        rewrite_store(
            out,
            old,
            {data.train: made},
            note=f"training rows completed by a model: {listed}",
            builder={
                "name": "complete",
                "parameters": {
                    "run": opened.path.name,
                    "guidance": model.guidance,
                    "noise": noise,
                    "seed": seed,
                },
                "version": __version__,
                "from": old.fingerprint,
            },
            row_names={data.train: np.array(names)[kept]} if names and drop else None,
        )
    if json:
        show_json({"out": str(out), "drawn": counts, "rows": len(kept)})
        return
    left = len(split) - len(kept)
    also = f"; {left:,} rows that are still incomplete are left out" if left else ""
    say(f"wrote {out}: {len(kept):,} training rows, of which a model drew {listed}{also}")


def _stored(
    values: NDArray[Any], name: str, units: Mapping[str, Units], split: Split
) -> NDArray[Any]:
    """Values that a run drew of a modality, as the store has them whose rows are completed."""
    from mvflow.core import DataError, Units

    ours, theirs = units.get(name, Units()), split.units.get(name, Units())
    if not ours.has_same_values(theirs):
        values = ours.convert(values, theirs, f"modality {name!r}")
    spec = next(m for m in split.modalities if m.name == name)
    good = spec.likelihood_part.is_valid(values, spec.shape)
    if not good.all():
        msg = (
            f"the run draws {values[~good].flat[0]:g} of {name!r}, which that store cannot hold: "
            f"{spec.likelihood_part.expects(spec.shape)}"
        )
        raise DataError(msg)
    return values
