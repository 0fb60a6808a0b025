"""`mvflow train-classifiers`: networks that measure generated rows, trained once for a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvflow_cli.measuring import network_path
from mvflow_cli.new import settled
from mvflow_cli.opening import set_up
from mvflow_cli.options import Device, Json, Threads
from mvflow_cli.output import say, show_json
from mvflow_cli.progress import TrainingProgress

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow_datasets import Store

__all__ = ["train_classifiers"]


def train_classifiers(
    store: Annotated[
        Path, typer.Argument(metavar="STORE.h5", help="Store with labels.", show_default=False)
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe with their settings; by default the one named as the data, or else auto.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting, as in classifiers.epochs=5; runs must have the same.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train from the beginning, whatever is kept.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train the classifiers and autoencoders of a store, and keep them beside it.

    What is kept is trained anew only if data or settings have changed. 'mvflow evaluate' uses it.

    Example: mvflow train-classifiers mnist-svhn.h5
    """
    from mvflow_datasets import Store

    set_up(device, threads)
    with Store.open(store) as opened:
        config = _config(opened, recipe, settings or [])
        result = _train(opened, config, again, device, err=json)
    if json:
        show_json(result)
        return
    for kind in ("classifiers", "autoencoders"):
        verb = "trained" if result[kind]["trained"] else "kept already"
        say(f"{kind}: {verb}, {result[kind]['path']}")
    for name, accuracy in result["classifiers"]["accuracy"].items():
        share = result["autoencoders"]["explained"][name]
        say(f"{name}: accuracy {accuracy:.3f}; autoencoder explains {share:.3f} of the variance")


def _config(store: Store, recipe: str | None, settings: list[str]) -> Config:
    """The configuration of a run of the recipe, by default of `auto`."""
    from mvflow.config import config_from_dict, recipe_names
    from mvflow.config.auto import AUTO

    if recipe is None:
        recipe = store.name if store.name in recipe_names() else AUTO
    return config_from_dict(settled(recipe, store.path, settings), where="--set")


def _train(store: Store, config: Config, again: bool, device: str, *, err: bool) -> dict[str, Any]:
    from mvflow.core import DataError
    from mvflow.evaluation import ModalityAutoencoders, ModalityClassifiers

    train, test = store[config.data.train], store[config.data.test]
    if train.labels is None or test.labels is None:
        msg = f"{store.path} has no labels: classifiers need a class for each row"
        raise DataError(msg)
    result: dict[str, Any] = {"store": str(store.path), "recipe": config.recipe}
    with TrainingProgress(err=err) as progress:
        for kind in (ModalityClassifiers, ModalityAutoencoders):
            path = network_path(store.path, kind, store.path.parent)
            if again:
                path.unlink(missing_ok=True)
            before = path.stat().st_mtime_ns if path.is_file() else None
            made = kind.train(
                train, test, config.classifiers, cache=path, device=device, callback=progress
            )
            result[f"{kind.name}s"] = {
                "path": str(path),
                "trained": before != path.stat().st_mtime_ns,
                kind.score: made.scores,
            }
    return result
