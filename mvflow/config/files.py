"""Configurations from TOML files, recipes and `--set key=value` assignments, and back."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from mvflow.config.schema import FORMAT, Config, ModalityConfig
from mvflow.core import ConfigError, unknown_name

__all__ = ["assign", "config_from_dict", "parse_toml", "recipe", "recipe_names", "to_toml"]


def recipe_names() -> list[str]:
    """Names of the recipes that come with mvflow.

    Examples:
        >>> "toy" in recipe_names()
        True
    """
    folder = resources.files("mvflow.config") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml")
    )


def recipe(name: str, assignments: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe `name`, with `section.key=value` assignments carried out, as a plain dict.

    A recipe's table `by_projector` holds what differs for a kind of projector; assignments have
    the last word.

    Raises:
        ConfigError: if there is no such recipe (the message lists the known ones), or an
            assignment is malformed or names an unknown key.

    Examples:
        >>> recipe("mnist-svhn", ["projectors.kind=dcca"])["projectors"]["batch_size"]
        2000
    """
    if name not in recipe_names():
        raise ConfigError(unknown_name("recipe", name, recipe_names()))
    text = (resources.files("mvflow.config") / "recipes" / f"{name}.toml").read_text("utf-8")
    raw = {"recipe": name, **tomllib.loads(text)}
    by_kind = raw.pop("by_projector", {})
    assignments = list(assignments)
    kind = assign(raw, assignments).get("projectors", {}).get("kind")
    if kind in by_kind:
        raw["projectors"] = {**raw.get("projectors", {}), **by_kind[kind]}
    return assign(raw, assignments)


def parse_toml(path: Path) -> Config:
    """Read and check a `config.toml`.

    Raises:
        ConfigError: if the file is not TOML, is of a newer format, or does not fit the schema.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid TOML: {error}"
        raise ConfigError(msg) from error
    return config_from_dict(raw, where=str(path))


def config_from_dict(raw: Mapping[str, Any], where: str = "configuration") -> Config:
    """Check a plain dict against the schema.

    Raises:
        ConfigError: naming the first wrong key, what is wrong and, if a key is unknown, the
            nearest known one.

    Examples:
        >>> config_from_dict({"latent_dim": 2, "modalities": {"a": {"shape": [3]}}}).seed
        0
    """
    version = raw.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        msg = f"{where} has format {version}, newer than {FORMAT} of this mvflow: upgrade mvflow"
        raise ConfigError(msg)
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def to_toml(config: Config) -> str:
    """Text of `config.toml`: all values, the defaults too; what is None is absent."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def assign(raw: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with `section.key=value` assignments carried out; values are TOML.

    Raises:
        ConfigError: if an assignment is malformed or names an unknown key.

    Examples:
        >>> assign({"joint": {"beta": 1.0}}, ["joint.beta=2.5"])
        {'joint': {'beta': 2.5}}
    """
    out = _copied(raw)
    for text in assignments:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            msg = f"cannot read --set {text!r}: expected section.key=value, as in joint.beta=2.5"
            raise ConfigError(msg)
        _check_key(path, out)
        node = out
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if value.strip() == "none":
            node.pop(path[-1], None)
        else:
            node[path[-1]] = _value(value.strip())
    return out


def _copied(node: Any) -> Any:
    return {k: _copied(v) for k, v in node.items()} if isinstance(node, dict) else node


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_key(path: list[str], raw: Mapping[str, Any]) -> None:
    """Walk `path` through the schema and fail at the first unknown part."""
    node: type[BaseModel] | None = Config
    for depth, part in enumerate(path):
        where = f" (in {'.'.join(path[:depth])})" if depth else ""
        if path[:depth] == ["modalities"]:
            if part not in raw.get("modalities", {}):
                raise ConfigError(unknown_name("modality", part, raw.get("modalities", {})))
            node = ModalityConfig
        elif node is None:
            return  # inside a network, which the schema checks as a whole
        elif part not in node.model_fields:
            raise ConfigError(unknown_name("key", part, node.model_fields) + where)
        else:
            node = _section(node, part)


def _section(node: type[BaseModel], part: str) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one."""
    kind: Any = node.model_fields[part].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(p) for p in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_name("key", where.rpartition(".")[2], _known_keys(problem["loc"])) + (
            f" (in {where.rpartition('.')[0]})" if "." in where else ""
        )
    return (
        f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem.get('input')!r}"
    )


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    node: type[BaseModel] | None = Config
    for part in loc[:-1]:
        field = None if node is None else node.model_fields.get(str(part))
        annotation = None if field is None else field.annotation
        inner = [annotation, *get_args(annotation)]
        models = [a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)]
        if field is not None:
            node = models[0] if models else None
    return [] if node is None else list(node.model_fields)
