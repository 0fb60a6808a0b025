"""Sections of a configuration, and parts: validated settings of one kind with what they build."""

from __future__ import annotations

import hashlib
import json
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mvflow.core.errors import ConfigError, MvflowError, UsageError, nearest_name
from mvflow.core.registry import registry

__all__ = ["GIVEN", "Kind", "Later", "Part", "Section", "create", "dump", "kind_of", "problem"]

GIVEN = "given"
"""Kind that stands in TOML for an object that was passed in Python and has no other name."""


@dataclass(frozen=True)
class Later:
    """Marks a setting that is newer than runs in use: at its default their stages stay valid."""


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, raw: Any) -> Any:
        """Settings of a part whose kind is not named are those of the default kind."""
        if not isinstance(raw, Mapping):
            return raw
        named = {}
        for name, field in cls.model_fields.items():
            value = raw.get(name)
            is_part = any(isinstance(m, Kind) for m in field.metadata)
            if not is_part or not isinstance(value, Mapping) or "kind" in value:
                continue
            default = field.get_default(call_default_factory=True)
            if isinstance(default, Part) and not any(map(callable, value.values())):
                named[name] = {"kind": default.kind, **value}
        return {**raw, **named}

    def to_dict(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """As TOML and JSON can hold it: what is None is absent, parts have a `kind`."""
        fields: dict[str, Any] = _without_none(
            self.model_dump(mode="json", exclude_defaults=exclude_defaults)
        )
        return fields


class Part(Section, ABC):
    """Settings of one kind of a contract, together with the methods that build what they describe.

    A part is an immutable value: `MAF(transforms=2)` in Python, `kind = "maf"` with `transforms
    = 2` in TOML. A subclass is final; its contract is an abstract subclass in the package of the
    contract, such as `mvflow.posteriors.Family`.
    """

    group: ClassVar[str]
    """Registry in which kinds of this contract are found."""
    is_opaque: ClassVar[bool] = False
    """Whether its one field holds an object that cannot be written to a file."""

    is_frozen: ClassVar[bool] = False
    """Whether that object is used as it is: its weights then are a part of what it is."""

    @property
    def kind(self) -> str:
        """The name under which it is registered, or its import path.

        Examples:
            >>> create("posteriors", {"kind": "maf", "transforms": 3}).kind
            'maf'
        """
        return registry(self.group).name_of(type(self))

    def to_dict(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """As of `Section`, without settings marked `Later` that are at their defaults."""
        later = {
            name
            for name, field in type(self).model_fields.items()
            if Later() in field.metadata and getattr(self, name) == field.default
        }
        fields = super().to_dict(exclude_defaults=exclude_defaults)
        return {name: value for name, value in fields.items() if name not in later}

    @property
    def raw(self) -> Any:
        """The object that an opaque part holds."""
        return getattr(self, next(iter(type(self).model_fields)))

    @classmethod
    def adapt(cls, value: Any) -> Self | None:
        """A part that stands for an object that is none, or None where that cannot be."""
        return None


@dataclass(frozen=True)
class Kind:
    """Type of a field that holds a part of the registry `group`: a name, a table, or an object.

    Accepted are the name of a kind, a mapping with `kind` and its settings, a part, a class of
    parts, or an object that has all methods of the contract. Used as
    `Annotated[Family, Kind("posteriors")]`.

    Args:
        group: of the registry.
        optional: whether "none" (in Python also None) stands for nothing.
    """

    group: str
    optional: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """How pydantic validates and writes the field."""
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _serialize, info_arg=True
            ),
        )

    def _validate(self, value: Any) -> Any:
        if self.optional and (value is None or kind_of(value) == "none"):
            extra = sorted(set(value) - {"kind"}) if isinstance(value, Mapping) else []
            if extra:
                sentence = f"kind 'none' has no setting {extra[0]!r}"
                raise PydanticCustomError("part", "{sentence}", {"sentence": sentence})
            return None
        try:
            return create(self.group, value)
        except MvflowError as error:
            raise PydanticCustomError("part", "{sentence}", {"sentence": str(error)}) from error


def create(group: str, value: Any) -> Any:
    """A part of a registry from the name of a kind, a mapping with `kind`, a class or an object.

    Raises:
        ConfigError: if a setting is unknown (the message says which kind has it) or wrong.
        UsageError: if the kind is unknown or an object lacks a method of the contract.

    Examples:
        >>> create("posteriors", {"kind": "maf", "transforms": 3}).transforms
        3
    """
    if isinstance(value, str):
        value = {"kind": value}
    kinds = registry(group)
    if isinstance(value, type):
        value = value()
    if isinstance(value, kinds.base):
        return value
    adapted = kinds.base.adapt(value) if issubclass(kinds.base, Part) else None
    if adapted is not None:
        return adapted
    if isinstance(value, Mapping):
        return _from_mapping(group, dict(value))
    missing = kinds.missing(value)
    if missing:
        msg = (
            f"{type(value).__name__} cannot be a {kinds.noun}: it has no {', '.join(missing)} "
            f"(see {kinds.contract.replace(':', '.')}); known by name: {', '.join(kinds.names())}"
        )
        raise UsageError(msg)
    return value


def dump(part: Any, group: str, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """A part as a mapping that TOML and JSON can hold and `create` takes.

    Examples:
        >>> dump(create("posteriors", "gaussian"), "posteriors")
        {'kind': 'gaussian'}
    """
    if not isinstance(part, Part) or part.is_opaque:
        raw = part.raw if isinstance(part, Part) else part
        is_frozen = isinstance(part, Part) and part.is_frozen
        return {"kind": GIVEN, "path": _path(raw), **(_content(raw) if is_frozen else {})}
    settings = part.to_dict(exclude_defaults=exclude_defaults)
    return {"kind": registry(group).name_of(type(part)), **settings}


def problem(error: ValidationError) -> str:
    """Sentence about the first problem: where it is, what it is, and what came."""
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"])
    if first["type"] in ("part", "value_error"):
        sentence = first["ctx"]["sentence"] if first["type"] == "part" else first["ctx"]["error"]
        return f"{where}: {sentence}" if where else str(sentence)
    if first["type"] == "extra_forbidden":
        key, section = str(first["loc"][-1]), ".".join(str(p) for p in first["loc"][:-1])
        return f"unknown key {key!r}" + (f" in {section}" if section else "")
    text = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{where}{': ' if where else ''}{text}, got {first.get('input')!r}"


def _from_mapping(group: str, raw: dict[str, Any]) -> Any:
    kinds = registry(group)
    name = raw.pop("kind", None)
    if not isinstance(name, str):
        msg = f"a {kinds.noun} needs a kind: one of {', '.join(kinds.names())}"
        raise ConfigError(msg)
    if name == GIVEN:
        msg = (
            f"this {kinds.noun} is an object of {raw.get('path')} that was passed in Python and "
            "cannot be written to a file: load the run with load(path, objects={KEY: object})"
        )
        raise ConfigError(msg)
    return _created(group, name, json.dumps(raw)) if _is_plain(raw) else _made(group, name, raw)


def _is_plain(raw: Any) -> bool:
    """Whether it is made of what JSON has, so that equal settings share one part."""
    if isinstance(raw, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in raw.items())
    if isinstance(raw, list):
        return all(map(_is_plain, raw))
    return raw is None or type(raw) in (str, int, float, bool)


@lru_cache(maxsize=256)
def _created(group: str, name: str, settings: str) -> Any:
    return _made(group, name, json.loads(settings))


def _made(group: str, name: str, settings: Mapping[str, Any]) -> Any:
    cls = registry(group).load(name)
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        return cls(**settings) if isinstance(cls, type) else cls
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_explained(group, name, cls, error)) from None


def _explained(group: str, name: str, cls: type[Part], error: ValidationError) -> str:
    first, kinds = error.errors()[0], registry(group)
    if first["type"] != "extra_forbidden" or len(first["loc"]) != 1:
        return problem(error)
    key, own = str(first["loc"][0]), list(cls.model_fields)
    close = nearest_name(key, own)
    having = [other for other in kinds.names() if other != name and _has(group, other, key)]
    if close:
        hint = f"did you mean {close!r}?"
    elif having:
        hint = f"that is a setting of {', '.join(map(repr, having))}."
    else:
        hint = ""
    settings = f"Settings of {name!r}: {', '.join(own) or 'none'}"
    return f"{kinds.noun} {name!r} has no setting {key!r}: {hint} {settings}".replace(":  ", ": ")


def _has(group: str, name: str, key: str) -> bool:
    try:
        cls = registry(group).load(name)
    except MvflowError:
        return False
    return key in getattr(cls, "model_fields", {})


def kind_of(value: Any) -> Any:
    """The kind that a value of a configuration names, as a string or in a section."""
    return value.get("kind") if isinstance(value, Mapping) else value


def _serialize(value: Any, info: core_schema.SerializationInfo) -> Any:
    if value is None:
        return {"kind": "none"}
    is_part = isinstance(value, Part)
    if info.mode == "python" and (not is_part or value.is_opaque):
        return value.raw if is_part else value
    return dump(value, value.group if is_part else "")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def _content(value: Any) -> dict[str, str]:
    """Hash of the weights of the torch modules in an object, so that others are told apart."""
    objects = value if isinstance(value, Mapping) else {"": value}
    digest = hashlib.sha256()
    for name, each in sorted(objects.items()):
        weights = each.state_dict() if hasattr(each, "state_dict") else {}
        for key, tensor in sorted(weights.items()):
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {key} {values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    is_plain = not any(hasattr(each, "state_dict") for each in objects.values())
    return {} if is_plain else {"sha256": digest.hexdigest()}


def _path(value: Any) -> Any:
    """Import path of a function, of a class, or of an object's class."""
    if isinstance(value, Mapping):
        return {name: _path(each) for name, each in value.items()}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
