"""Names of compared systems, by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mvflow.config import Config

__all__ = ["labels", "leaves", "system_settings"]


def system_settings(config: Config) -> dict[str, Any]:
    """What makes a system: all settings but the seed, the place of the data, and measuring."""
    apart = ("seed", "evaluation", "classifiers", "format", "recipe", "data.store")
    return {k: v for k, v in leaves(config).items() if not f"{k}.".startswith(_dotted(apart))}


def _dotted(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{key}." for key in keys)


def leaves(config: Config) -> dict[str, Any]:
    """All settings, "section.key" -> value."""

    def walk(raw: Mapping[str, Any], path: str) -> Iterable[tuple[str, Any]]:
        for key, value in raw.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", value

    return dict(walk(config.model_dump(mode="json"), ""))


def labels(titles: Sequence[str], configs: Sequence[Config]) -> list[str]:
    """Names of systems, with the settings in which those of one name differ.

    Args:
        titles: what each is called.
        configs: of one run of each.
    """
    settings = [system_settings(config) for config in configs]
    found = []
    for title, mine in zip(titles, settings, strict=True):
        alike = [s for t, s in zip(titles, settings, strict=True) if t == title]
        differ = _differing(alike)
        suffix = ", ".join(f"{_short(k, differ)} {mine.get(k, '-')}" for k in differ)
        found.append(f"{title}, {suffix}" if suffix else title)
    return found


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys with several values; of parts of different kinds the kind alone, not its settings.

    Examples:
        >>> _differing([{"a.kind": "x", "a.n": 1, "b.n": 1}, {"a.kind": "y", "b.n": 2}])
        ['a.kind', 'b.n']
    """
    keys = sorted({key for each in settings for key in each})
    differ = [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
    parts = [k.removesuffix("kind") for k in differ if k.endswith(".kind")]
    return [k for k in differ if not any(k.startswith(p) and k != f"{p}kind" for p in parts)]


def _short(key: str, among: Sequence[str]) -> str:
    """The last part of a key, if it is not that of another; of the kind of a part, the part."""
    lasts = [k.removesuffix(".kind").split(".")[-1] for k in among]
    last = key.removesuffix(".kind").split(".")[-1]
    return last if lasts.count(last) == 1 else key
