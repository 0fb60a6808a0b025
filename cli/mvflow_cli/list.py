"""`mvflow list`: the kinds that there are of each contract, with their settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mvflow_cli.options import Json
from mvflow_cli.output import say, show_json

__all__ = ["list_kinds"]


def list_kinds(
    group: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="systems, posteriors, priors, projectors, likelihoods, networks, subsets, "
            "samplers, datasets or recipes; without it, the names of all of these.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List what there is of one kind, ours and other packages', with the settings of each.

    Example: mvflow list posteriors
    """
    if group is None:
        names = _names()
        if json:
            show_json(names)
            return
        for what, known in names.items():
            say(f"{what}: {', '.join(known)}")
        return
    kinds = list(_recipes() if group == "recipes" else _kinds(group))
    if json:
        show_json({"group": group, "kinds": kinds})
        return
    for kind in kinds:
        if "error" in kind:
            say(f"{kind['name']}: {kind['error']}")
            continue
        settings = ", ".join(f"{k} = {v}" for k, v in kind["settings"].items())
        say(f"{kind['name']}: {kind['about']}" + (f" [{settings}]" if settings else ""))


def _names() -> dict[str, list[str]]:
    """Names of the kinds of each contract, and of the recipes."""
    from mvflow.config import recipe_names
    from mvflow.config.auto import AUTO
    from mvflow.core import REGISTRIES, registry

    return {g: registry(g).names() for g in REGISTRIES} | {"recipes": [*recipe_names(), AUTO]}


def _kinds(group: str) -> Iterator[dict[str, Any]]:
    from mvflow.core import REGISTRIES, MvflowError, UsageError, registry, unknown_name

    if group not in REGISTRIES:
        raise UsageError(unknown_name("list", group, [*REGISTRIES, "recipes"]))
    for name in registry(group).names():
        try:
            kind = registry(group).load(name)
        except MvflowError as error:
            yield {"name": name, "error": str(error)}
            continue
        about = inspect.getdoc(kind) or ""
        yield {
            "name": name,
            "about": " ".join(about.partition("\n\n")[0].split()),
            "settings": _settings(kind),
        }


def _settings(kind: Any) -> dict[str, Any]:
    """Setting -> default, of a part or, for a system, of what it adds to all runs."""
    from mvflow.config import Config

    schema = getattr(kind, "Settings", kind)
    fields = getattr(schema, "model_fields", {})
    common = Config.model_fields if hasattr(kind, "Settings") else {}
    return {
        name: _shown(field.get_default(call_default_factory=True), field.is_required())
        for name, field in fields.items()
        if name not in common
    }


def _shown(value: Any, is_required: bool) -> Any:
    from mvflow.core.parts import Part, dump

    if is_required:
        return "required"
    if isinstance(value, Part):
        return dump(value, value.group)["kind"]
    if hasattr(value, "model_dump"):
        return "..."
    return list(value) if isinstance(value, tuple) else "none" if value is None else value


def _recipes() -> Iterator[dict[str, Any]]:
    from importlib import resources

    from mvflow.config import recipe_names

    for name in recipe_names():
        text = (resources.files("mvflow.config") / "recipes" / f"{name}.toml").read_text("utf-8")
        about = " ".join(
            line.removeprefix("#").strip()
            for line in text.partition("\n\n")[0].splitlines()
            if line.startswith("#")
        )
        yield {"name": name, "about": about.partition(". ")[0].rstrip(".") + ".", "settings": {}}
    yield {
        "name": "auto",
        "about": "Networks, latent size and length of training chosen from the store.",
        "settings": {},
    }
