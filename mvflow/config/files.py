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

NETWORKS = ("encoder", "decoder", "projector")


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

    A recipe's file is a configuration with four more keys: `extends` names a recipe whose values
    it changes, `every_modality` holds what all modalities have unless their own table says
    otherwise, `by_model` and `by_projector` hold what differs for a model and a kind of
    projector. Assignments have the last word.

    Raises:
        ConfigError: if there is no such recipe (the message lists the known ones), or an
            assignment is malformed or names an unknown key.

    Examples:
        >>> recipe("mnist-svhn", ["projectors.kind=dcca"])["projectors"]["batch_size"]
        2000
    """
    if name not in recipe_names():
        raise ConfigError(unknown_name("recipe", name, recipe_names()))
    raw = {"recipe": name, **_read(name)}
    by_model, by_projector = raw.pop("by_model", {}), raw.pop("by_projector", {})
    assignments = list(assignments)
    chosen = assign(raw, assignments)
    model = chosen.get("model", Config.model_fields["model"].default)
    kind = chosen.get("projectors", {}).get("kind")
    for special in (by_model.get(model, {}), by_projector.get(kind, {})):
        raw = _merged(raw, special)
    every = raw.pop("every_modality", {})
    raw["modalities"] = {n: _merged(every, own) for n, own in raw["modalities"].items()}
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


def _read(name: str) -> dict[str, Any]:
    """Content of a recipe's file, over that of the recipe it extends."""
    text = (resources.files("mvflow.config") / "recipes" / f"{name}.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    base = raw.pop("extends", None)
    return raw if base is None else _merged(_read(base), raw)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, table by table; a network is replaced as a whole."""
    out = dict(base)
    for key, value in changes.items():
        if key in NETWORKS or not (isinstance(value, dict) and isinstance(out.get(key), dict)):
            out[key] = value
        elif key == "networks":
            out[key] = {**out[key], **value}
        else:
            out[key] = _merged(out[key], value)
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
    """Keys of the section at `loc`, which for a network holds its kind after its place."""
    models: list[type[BaseModel]] = [Config]
    for part in loc[:-1]:
        of_kind = [m for m in models if len(models) > 1 and _kind(m) == part]
        fields = [f for m in models if (f := m.model_fields.get(str(part)))]
        if of_kind:
            models = of_kind
        elif fields:
            models = [m for f in fields for m in _sections(f.annotation)]
    return list(models[0].model_fields) if models else []


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """All sections inside an annotation, as in `dict[str, A | B]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in get_args(annotation) for m in _sections(a)]


def _kind(section: type[BaseModel]) -> str:
    """The name that tells a section from its alternatives."""
    name: str = get_args(section.model_fields["kind"].annotation)[0]
    return name
