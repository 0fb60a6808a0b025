"""`mvflow new`: a run directory from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mvflow_cli.options import Json
from mvflow_cli.output import say, show_json

if TYPE_CHECKING:
    from mvflow.config import Config
    from mvflow.runs import RunDirectory

__all__ = ["configure", "create", "new"]


def new(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory to make.", show_default=False)
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe to begin with, such as toy or mnist-svhn; 'auto' chooses by the store.",
            show_default=False,
        ),
    ],
    store: Annotated[Path, typer.Option(help="Store with the data (.h5).", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="jnf or jnf-shared.", show_default=False)
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(help="contrastive or dcca; makes it a jnf-shared.", show_default=False),
    ] = None,
    posterior: Annotated[
        str | None,
        typer.Option(help="gaussian, maf, conditional-maf or nsf.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting, as in joint.epochs=50; may be repeated.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of training.", show_default=False)
    ] = None,
    adopt: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Take the finished stages of another run that would be the same here.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a run directory; its config.toml may be edited before training.

    Example: mvflow new runs/toy --recipe toy --store toy.h5 --posterior maf --set joint.epochs=30
    """
    choices = {"model": model, "projectors.kind": projector, "flows.posterior": posterior}
    config = configure(recipe, store, choices, settings or [], seed)
    made, taken = create(run, config, adopt)
    if json:
        show_json(
            {"run": str(made.path), "config": config.model_dump(mode="json"), "adopted": taken}
        )
        return
    say(f"made {run}: model {config.model}, recipe {recipe}; train it with 'mvflow train {run}'")
    if adopt is not None:
        none = f"took nothing from {adopt}: no finished stage has the same data and settings"
        say(f"took {', '.join(taken)} from {adopt}" if taken else none)


def configure(
    recipe: str,
    store: Path,
    choices: Mapping[str, str | None],
    settings: Sequence[str],
    seed: int | None,
) -> Config:
    """The configuration of a recipe with changes.

    Args:
        recipe: its name.
        store: where the data are.
        choices: key -> chosen name, or None to leave what the recipe has.
        settings: `section.key=value` assignments; they have the last word.
        seed: of training; None leaves the recipe's.

    Raises:
        ConfigError: if a name, a key or a value is wrong, or the choices contradict each other.
    """
    from mvflow.config import config_from_dict
    from mvflow.core import ConfigError

    chosen = {key: value for key, value in choices.items() if value is not None}
    for key, value in chosen.items():
        _check_choice(key, value)
    if "projectors.kind" in chosen and chosen.setdefault("model", "jnf-shared") == "jnf":
        msg = "model 'jnf' has no projectors: choose --model jnf-shared, or leave --projector out"
        raise ConfigError(msg)
    if seed is not None:
        chosen["seed"] = str(seed)
    raw = _settled(recipe, store, [*(f"{k}={v}" for k, v in chosen.items()), *settings])
    raw["data"] = {**raw.get("data", {}), "store": str(store.resolve())}
    config = config_from_dict(raw, where="--set")
    if config.model == "jnf-shared":
        from mvflow.projectors import OBJECTIVES

        OBJECTIVES[config.projectors.kind](config.projectors)  # refuses what it cannot train
    return config


def _settled(recipe: str, store: Path, assignments: Sequence[str]) -> dict[str, Any]:
    """A recipe, or for `auto` what fits the store, with the assignments carried out."""
    from mvflow.config import assign, recipe_names
    from mvflow.config import recipe as find_recipe
    from mvflow.config.auto import AUTO, auto_config
    from mvflow.core import ConfigError, unknown_name
    from mvflow_datasets import Store

    if recipe in recipe_names():
        return find_recipe(recipe, assignments)
    if recipe != AUTO:
        raise ConfigError(unknown_name("recipe", recipe, [*recipe_names(), AUTO]))
    with Store.open(store) as opened:
        names: dict[str, Any] = {m.name: {} for m in opened.modalities}
        data = assign({"modalities": names}, assignments).get("data", {})
        train = opened[data.get("train", "train")]
        arrays = train.info()["arrays"]
        bytes_only = {name for name, array in arrays.items() if array["dtype"] == "uint8"}
        return assign(auto_config(train.modalities, len(train), bytes_only), assignments)


def create(
    path: Path, config: Config, adopt: Path | None = None
) -> tuple[RunDirectory, list[str]]:
    """Make a run directory, if the store fits, and take finished stages from another run.

    Returns:
        The run directory and the names of the stages taken.
    """
    from mvflow.core import fingerprint
    from mvflow.estimators.fitting import check_fits
    from mvflow.runs import RunDirectory
    from mvflow_datasets import Store

    other = None if adopt is None else RunDirectory.open(adopt)
    with Store.open(config.data.store) as store:
        train = store[config.data.train]
        for split in (train, store[config.data.test]):
            check_fits(split, config.specifications())
        run = RunDirectory.create(path, config)
        return run, [] if other is None else run.adopt(other, fingerprint(train))


def _check_choice(key: str, value: str) -> None:
    from mvflow.config import Config
    from mvflow.core import ConfigError, unknown_name

    node: Any = Config
    *sections, name = key.split(".")
    for section in sections:
        node = node.model_fields[section].annotation
    known = get_args(node.model_fields[name].annotation)
    if value not in known:
        kind = "projector" if name == "kind" else name
        raise ConfigError(unknown_name(kind, value, known))
