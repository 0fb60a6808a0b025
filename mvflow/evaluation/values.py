"""Immutable results that are written as plain JSON and read again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvflow.core import DataError

__all__ = ["Direction", "Result", "Values", "Verdict"]

Verdict = Literal["good", "look closer", "do not trust"]

Direction = Annotated[str, Field(pattern="^[^>]+->[^>]+$")]
"""Given modalities and target, as in `a+b->c`."""


class Values(BaseModel):
    """Immutable values with known names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(Values):
    """A result with the state of the run that it belongs to.

    Args:
        stages: name -> key of the weights that were measured.
        settings: sections of the configuration that the result depends on.
    """

    stages: dict[str, str] = {}
    settings: dict[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON: absent values are left out, NaN and infinity are null."""
        out: dict[str, Any] = _plain(self)
        return {**out, "settings": self.settings}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "result") -> Self:
        """The result that `to_dict` wrote.

        Args:
            raw: its plain values.
            where: what to call them in a message, such as the path of their file.

        Raises:
            DataError: naming the first key that is missing, unknown or of another type.
        """
        values = {k: v if k == "settings" else _with_nan(v) for k, v in raw.items()}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            words = f"is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
            known = {"missing": "is missing", "extra_forbidden": "is not known"}
            words = known.get(first["type"], words)
            msg = f"{where} does not hold what this mvflow writes: {key!r} {words}; make it anew"
            raise DataError(msg) from None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {key: _plain(v) for key, v in value if v is not None}
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    """Null as NaN: what is absent is not written at all."""
    if isinstance(value, Mapping):
        return {key: _with_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_nan(v) for v in value]
    return math.nan if value is None else value
