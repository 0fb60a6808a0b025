"""Exceptions that carry one clear sentence, and the nearest known name for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "LockedError",
    "LostError",
    "MvflowError",
    "NotFittedError",
    "NumericsError",
    "StageError",
    "UnreliableDrawsWarning",
    "UsageError",
    "bare_name",
    "listed",
    "nearest_name",
    "separated",
    "unknown_name",
]


class MvflowError(Exception):
    """Base of every error that mvflow raises on purpose; its message is one readable sentence."""


class UsageError(MvflowError, ValueError):
    """The caller asked for something that does not exist or does not fit together."""


class ConfigError(UsageError):
    """A configuration has an unknown key or a value that cannot be used."""


class DataError(MvflowError, ValueError):
    """Data are missing, damaged, of the wrong shape, or not finite."""


class StageError(MvflowError, RuntimeError):
    """A training stage cannot start or go on: its inputs are missing, stale or locked."""


class LockedError(StageError):
    """Another process writes where this one is to write: wait for it, and try again."""


class LostError(StageError):
    """Another process of a data-parallel run has ended or does not answer."""


class NumericsError(MvflowError, FloatingPointError):
    """A computation gave NaN or infinity where a finite number is required."""


class NotFittedError(MvflowError, RuntimeError):
    """A model was used before it was trained."""


class UnreliableDrawsWarning(UserWarning):
    """Draws whose diagnostics say that they do not stand for the posterior."""


def listed(items: Iterable[object], limit: int = 10) -> str:
    """The first items by name, and how many more there are.

    Examples:
        >>> listed(["rna", "protein"]), listed(range(5), limit=3)
        ("'rna', 'protein'", '0, 1, 2 and 2 more')
    """
    every = list(items)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(map(repr, every[:limit])) + more


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Sentence for an unknown name: the nearest known one first, then all of them.

    Examples:
        >>> unknown_name("modality", "mnsit", ["mnist", "svhn"])
        "unknown modality 'mnsit': did you mean 'mnist'? Known: mnist, svhn"
        >>> unknown_name("system", "JNF", ["jnf", "mvae"])
        "unknown system 'JNF': did you mean 'jnf'? Known: jnf, mvae"
        >>> unknown_name("system", "MMVAE+", ["mmvae", "mmvae-plus"])
        "unknown system 'MMVAE+': did you mean 'mmvae-plus'? Known: mmvae, mmvae-plus"
    """
    names = sorted(known)
    close = nearest_name(name, names)
    hint = "" if close is None else f" did you mean {close!r}?"
    return f"unknown {kind} {name!r}:{hint} Known: {separated(names) or 'none'}"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a mistyped one; None if none is.

    Names that are the same but for case, spaces and punctuation come first; `+` is "plus".

    Examples:
        >>> nearest_name("Mnist SVHN", ["mnist", "mnist-svhn"]), nearest_name("x", ["rna"])
        ('mnist-svhn', None)
    """
    names = sorted(known)
    bare = bare_name(name)
    same = [other for other in names if bare and bare_name(other) == bare]
    lower = {other.lower(): other for other in reversed(same or names)}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.0 if same else 0.6)
    return lower[close[0]] if close else None


def bare_name(name: str) -> str:
    """A name in lower case, without spaces and punctuation; `+` is "plus".

    Examples:
        >>> bare_name("JNF-Shared (CL)"), bare_name("MMVAE+")
        ('jnfsharedcl', 'mmvaeplus')
    """
    return "".join(c for c in name.lower().replace("+", "plus") if c.isalnum())


def separated(names: Iterable[str]) -> str:
    """Names with commas between them; all are quoted if one of them has a comma or a space.

    Examples:
        >>> separated(["rna", "protein"]), separated(["JNF", "JNF, Gaussian"])
        ('rna, protein', "'JNF', 'JNF, Gaussian'")
    """
    every = list(names)
    unclear = any("," in name or " " in name for name in every)
    return ", ".join(map(repr, every) if unclear else every)
