"""Configurations from TOML files, recipes and `--set key=value` assignments, and back."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from mvflow.config.schema import FORMAT, Config
from mvflow.core import ConfigError, DataError, UsageError, nearest_name, registry, unknown_name
from mvflow.core.files import check_depth, read_bytes
from mvflow.core.parts import Kind, create, kind_of, problem

__all__ = [
    "assign",
    "config_from_dict",
    "parse_toml",
    "read_toml",
    "recipe",
    "recipe_names",
    "resolved",
    "settings_of",
    "to_toml",
    "with_part",
]

NETWORKS = ("encoder", "decoder", "projector")

MAX_BYTES = 1 << 24
"""Bytes that a configuration may have."""


def settings_of(system: str) -> type[Config]:
    """The settings of a system: the schema of its configurations.

    Raises:
        UsageError: if the system is unknown or cannot be imported.

    Examples:
        >>> "joint" in settings_of("jnf").model_fields
        True
    """
    settings: type[Config] = registry("systems").load(system).Settings
    return settings


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

    A recipe's file is a configuration with three more keys. `extends` names a recipe whose values
    it changes; `modalities` may then be a list, of those that it keeps. `every_modality` holds
    what all modalities have unless their own table says otherwise. `by.KEY.KIND` holds what
    differs where KEY (`system`, `projector`, ...) is KIND, or is anything but "none" where KIND
    is `*`; what `by.system` says comes first. Sections that the system does not have are left
    out; assignments have the last word.

    Raises:
        ConfigError: if there is no such recipe (the message lists the known ones), or an
            assignment is malformed or names an unknown modality.

    Examples:
        >>> recipe("mnist-svhn", ["projector=dcca"])["projectors"]["batch_size"]
        2000
    """
    if name not in recipe_names():
        raise ConfigError(unknown_name("recipe", name, recipe_names()))
    return resolved({"recipe": name, **_read(name)}, assignments)


def resolved(raw: Mapping[str, Any], assignments: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration that the content of a recipe's file and assignments make, as a dict.

    Raises:
        ConfigError: as `recipe`.
    """
    raw, assignments = dict(raw), list(assignments)
    cases = raw.pop("by", {})
    for key in sorted(cases, key=lambda key: key != "system"):
        kind = kind_of(assign(raw, assignments).get(key))
        if kind not in (None, "none"):
            raw = merged(raw, cases[key].get("*", {}))
            raw = merged(raw, cases[key].get(kind, {}))
    every = raw.pop("every_modality", {})
    raw["modalities"] = {n: merged(every, own) for n, own in raw["modalities"].items()}
    schema = settings_of(kind_of(assign(raw, assignments).get("system")))
    return assign(_known_sections(raw, schema), assignments)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        DataError: if it cannot be read, or is larger than a configuration can be.
        ConfigError: if it is not TOML.
    """
    try:
        raw = tomllib.loads(read_bytes(path, MAX_BYTES).decode())
        check_depth(raw)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, too
        deep = isinstance(error, RecursionError)
        msg = f"{path} is not valid TOML: {'it is nested too deeply' if deep else error}"
        raise ConfigError(msg) from error
    return raw


def parse_toml(path: Path, objects: Mapping[str, Any] | None = None) -> Config:
    """Read and check a `config.toml`.

    Args:
        path: of the file.
        objects: key -> object that stands at that key, for what TOML cannot hold.

    Raises:
        ConfigError: if the file is not TOML, is of another format, or does not fit the schema.
    """
    raw = read_toml(path)
    for key, value in (objects or {}).items():
        *sections, last = key.split(".")
        node = raw
        for part in sections:
            node = node.setdefault(part, {})
        node[last] = value
    return config_from_dict(raw, where=str(path))


def config_from_dict(raw: Mapping[str, Any], where: str = "configuration") -> Config:
    """Check a plain dict against the schema of its system.

    Raises:
        ConfigError: naming the first wrong key, what is wrong and, if a key is unknown, the
            nearest known one.

    Examples:
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> config_from_dict(raw).seed
        0
    """
    version = raw.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        msg = f"{where} has format {version}, newer than {FORMAT} of this mvflow: upgrade mvflow"
        raise ConfigError(msg)
    if version == 1 or ("model" in raw and "system" not in raw):
        folder = str(Path(where).parent) if where.endswith(".toml") else "RUN"
        msg = f"{where} has format 1 of mvflow 0.1: run 'mvflow convert {folder}' once"
        raise ConfigError(msg)
    system = raw.get("system")
    if not isinstance(system, str):
        msg = f"{where} names no system: expected one of {', '.join(registry('systems').names())}"
        raise ConfigError(msg)
    schema = settings_of(system)
    try:
        return schema.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error, schema)}") from None


def to_toml(config: Config) -> str:
    """Text of `config.toml`: all values, the defaults too; what is None is absent."""
    return tomli_w.dumps(config.to_dict())


def assign(raw: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with `section.key=value` assignments carried out; values are TOML.

    Where the kind of a part becomes another (`posterior=nsf`, `posterior.kind=nsf`), it keeps the
    settings that the new kind has too.

    Raises:
        ConfigError: if an assignment is malformed or names an unknown modality.

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
        if path[0] == "modalities" and len(path) > 1 and path[1] not in out.get(path[0], {}):
            raise ConfigError(unknown_name("modality", path[1], out.get("modalities", {})))
        _set(out, path, value.strip())
    return out


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, table by table; a network is replaced as a whole."""
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        if not both or (key in NETWORKS and "kind" in value and "shape" in out):
            out[key] = value
        elif key == "networks":
            out[key] = {**out[key], **value}
        else:
            out[key] = merged(out[key], value)
    return out


def _set(out: dict[str, Any], path: list[str], value: str) -> None:
    node: Any = out
    for part in path[:-1]:
        inner = node.setdefault(part, {})
        if isinstance(inner, str):  # the kind of a part, which now gets settings
            inner = node[part] = {"kind": inner}
        if not isinstance(inner, dict):
            msg = f"--set {'.'.join(path)}: {part!r} is a value, not a section"
            raise ConfigError(msg)
        node = inner
    last, new = path[-1], None if value == "none" else _value(value)
    is_kind = last == "kind" and len(path) > 1
    group = _group_at(out, path[:-1] if is_kind else path)
    if is_kind and (isinstance(new, str) or (new is None and group)):
        switched = _switched(node, new or "none", group)
        node.clear()
        node.update(switched)
    elif isinstance(node.get(last), dict) and isinstance(new, str):
        node[last] = _switched(node[last], new, group)
    elif new is None:
        node.pop(last, None)
        if group:
            node[last] = {"kind": "none"}
    else:
        node[last] = new


def _switched(settings: Mapping[str, Any], kind: str, group: str | None) -> dict[str, Any]:
    """Settings of another kind of a part: those that it has too."""
    if group is None:
        return {**settings, "kind": kind}
    if kind == "none":
        return {"kind": kind}
    if settings.get("kind") == kind:
        return dict(settings)
    fields = getattr(registry(group).load(kind), "model_fields", {})
    return {"kind": kind, **{k: v for k, v in settings.items() if k in fields}}


def _group_at(raw: Mapping[str, Any], path: list[str]) -> str | None:
    """The registry of the part at `path`, or None if there is no part."""
    system = raw.get("system")
    if not isinstance(system, str):
        return None
    models: list[Any] = [settings_of(system)]
    for depth, part in enumerate(path):
        annotations: list[Any] = []
        for model in models:
            if isinstance(model, type) and issubclass(model, BaseModel):
                field = model.model_fields.get(part)
                annotations += [] if field is None else [field.annotation, *field.metadata]
            elif get_args(model) and get_args(model)[0] is str:  # dict[str, ...]
                annotations += [get_args(model)[1]]
        models = [m for f in annotations for m in (f, *getattr(f, "__metadata__", ()))]
        kinds = [m for m in models if isinstance(m, Kind)]
        if kinds and depth == len(path) - 1:
            return kinds[0].group
        if kinds:
            node: Any = raw
            for key in path[: depth + 1]:
                node = node.get(key, {}) if isinstance(node, Mapping) else {}
            name = kind_of(node)
            models = [registry(kinds[0].group).load(name)] if isinstance(name, str) else []
    return None


def _known_sections(raw: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """What a recipe has for a system: sections and settings that others have are left out."""
    out = {}
    for key, value in raw.items():
        field = schema.model_fields.get(key)
        if field is None:
            continue
        kind: Any = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        out[key] = _known_sections(value, kind) if is_section else value
    return out


def _read(name: str) -> dict[str, Any]:
    """Content of a recipe's file, over that of the recipe it extends."""
    text = (resources.files("mvflow.config") / "recipes" / f"{name}.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    extended = raw.pop("extends", None)
    if extended is None:
        return raw
    base = _read(extended)
    names = raw.get("modalities")
    if isinstance(names, list):
        raw["modalities"] = {}
        base["modalities"] = {n: base["modalities"][n] for n in names}
        networks = base.get("classifiers", {}).get("networks", {})
        for other in networks.keys() - names:
            del networks[other]
    return merged(base, raw)


def _copied(node: Any) -> Any:
    return {k: _copied(v) for k, v in node.items()} if isinstance(node, Mapping) else node


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        check_depth(value)
    except (ValueError, RecursionError):
        return text
    return value


def _first_problem(error: ValidationError, schema: type[Config]) -> str:
    """Sentence about the first problem; of an unknown key, with the nearest known one."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return problem(error)
    key, path = str(first["loc"][-1]), [str(p) for p in first["loc"][:-1]]
    where = f" (in {'.'.join(path)})" if path else ""
    having = _systems_with(path, key)
    if having:
        kind: Any = settings_of(having[0]).model_fields[key].annotation if not path else None
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        what = "section" if is_section else "setting"
        return f"unknown key {key!r}: that is a {what} of system {', '.join(having)}{where}"
    known = _fields_at(schema, path)
    if not path and (hint := _belongs(key, schema)):
        close = nearest_name(key, known)
        return f"unknown key {key!r}: {f'did you mean {close!r}? Or: ' if close else ''}{hint}"
    return unknown_name("key", key, known) + where


def _belongs(key: str, schema: type[Config]) -> str:
    """Where a key may belong that is no section: to sections that have it, or to a part."""
    having = [n for n in schema.model_fields if n != "data" and key in _fields_at(schema, [n])]
    if having:
        return f"that is a setting of {', '.join(having)}, such as {having[0]}.{key}"
    for name, field in schema.model_fields.items():
        for kind in field.metadata:
            if isinstance(kind, Kind) and key in registry(kind.group).names():
                return (
                    f"that is a kind of {name}, whose section is {name!r}: {name}.kind = {key!r}, "
                    f"and {name}.SETTING for its settings"
                )
    return ""


def _systems_with(path: list[str], key: str) -> list[str]:
    """Systems whose settings have a key in the section at `path`."""
    having = []
    for name in registry("systems").names():
        try:
            having += [name] if key in _fields_at(settings_of(name), path) else []
        except UsageError:  # of another package, and broken
            continue
    return having


def has_setting(system: str, key: str) -> bool:
    """Whether settings of a system have a key; settings of a kind of a part are not looked up.

    Examples:
        >>> has_setting("jnf", "flows.epochs"), has_setting("mopoe", "flows.epochs")
        (True, False)
    """
    schema, path = settings_of(system), key.split(".")
    for depth, part in enumerate(path):
        fields = _fields_at(schema, path[:depth])
        if fields and part not in fields:
            return False
    return True


def _fields_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    node: Any = schema
    for part in path:
        if isinstance(node, type) and issubclass(node, BaseModel):
            field = node.model_fields.get(part)
            node = None if field is None else field.annotation
        elif get_args(node):
            node = get_args(node)[-1]
    return (
        list(node.model_fields) if isinstance(node, type) and issubclass(node, BaseModel) else []
    )


def with_part(config: Config, field: str, kind: Any) -> Config:
    """The configuration with another kind of a part, which keeps the settings that both have.

    Args:
        config: to begin with.
        field: of the part.
        kind: its name; a mapping of settings or an object is taken as it is.

    Raises:
        UsageError: if the system has no such part, or there is no such kind.

    Examples:
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> type(with_part(config_from_dict(raw), "posterior", "nsf").posterior).__name__
        'NSF'
    """
    metadata = (
        type(config).model_fields[field].metadata if field in type(config).model_fields else ()
    )
    group = next((m.group for m in metadata if isinstance(m, Kind)), None)
    if group is None:
        having = ", ".join(_systems_with([], field))
        others = f", or choose a system that has one ({having})" if having else ""
        msg = f"system {config.system!r} has no {field}: leave --{field} out{others}"
        raise ConfigError(msg)
    if not isinstance(kind, str):
        return config_from_dict({**config.model_dump(), field: kind})
    registry(group).load(kind)
    raw = config.model_dump(mode="json")
    switched = _switched(raw[field], kind, group)
    if switched == raw[field]:
        return config
    create(group, switched)
    return config_from_dict({**config.model_dump(), field: switched})
