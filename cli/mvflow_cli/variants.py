"""Variants of a sweep: all combinations of seeds and settings, each with a name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["combinations", "parse_betas", "parse_seeds"]


def combinations(
    seeds: str | None, settings: Sequence[str], variants: Sequence[str]
) -> dict[str, list[str]]:
    """Name of each variant -> all its `key=value` assignments; the seed is one of them.

    Args:
        seeds: of `--seeds`, separated by commas.
        settings: of each `--set`: a key and its values.
        variants: of each `--variant`: assignments that belong together.

    Raises:
        UsageError: if something is malformed, empty or given twice.
    """
    groups = [_assignments("--variant", text) for text in variants]
    swept: list[list[tuple[str, str]]] = []
    fixed: list[tuple[str, str]] = []
    for text in settings:
        key, values = _values(text)
        pairs = [(key, value) for value in values]
        if len(pairs) > 1:
            swept.append(pairs)
        else:
            fixed += pairs
    if seeds is not None:
        swept.append([("seed", value) for value in parse_seeds(seeds)])
    _check_once([key for key, _ in (*fixed, *(one[0] for one in swept))], groups)
    parts = ([groups] if groups else []) + [[[pair] for pair in one] for one in swept]
    named = {key for group in groups for key, _ in group} | {one[0][0] for one in swept}
    named_variants: dict[str, list[str]] = {}
    for chosen in itertools.product(*parts):
        pairs = [pair for part in chosen for pair in part]
        name = _name(pairs, named)
        if name in named_variants:
            _fail(f"two variants would both be called {name}: leave one of them out")
        named_variants[name] = [f"{key}={value}" for key, value in (*fixed, *pairs)]
    return named_variants


def _values(text: str) -> tuple[str, list[str]]:
    """Key and values of one --set."""
    key, equals, listed = text.partition("=")
    if not equals or not key.strip():
        _fail(f"cannot read --set {text!r}: expected section.key=value, as in joint.beta=0.5,1")
    values = _split(listed)
    if not all(values):
        _fail(f"--set {text!r} has an empty value: expected a list as in joint.beta=0.5,1,2.5")
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        _fail(f"--set {text!r} has {twice} twice")
    return key.strip(), values


def _assignments(option: str, text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in _split(text):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not key or not value:
            _fail(
                f"cannot read {option} {text!r}: expected key=value,..., "
                "as in system=jnf-shared,projector.kind=dcca"
            )
        pairs.append((key, value))
    return pairs


def parse_seeds(text: str) -> list[str]:
    """Whole numbers separated by commas, each once.

    Raises:
        UsageError: if one is none, or given twice.
    """
    parts = _split(text)
    for part in parts:
        if not re.fullmatch(r"\d+", part):
            _fail(f"cannot read --seeds {text!r}: expected whole numbers from 0, as in 0,1,2,3")
    seeds = [str(int(part)) for part in parts]
    twice = next((s for i, s in enumerate(seeds) if s in seeds[:i]), None)
    if twice is not None:
        _fail(f"--seeds {text!r} has seed {twice} twice")
    return seeds


def parse_betas(text: str) -> list[float]:
    """Positive numbers separated by commas, each once.

    Raises:
        UsageError: if one is none, or given twice.

    Examples:
        >>> parse_betas("0.5, 1,2.5")
        [0.5, 1.0, 2.5]
    """
    betas: list[float] = []
    for part in _split(text):
        try:
            beta = float(part)
        except ValueError:
            beta = 0.0
        if not 0 < beta < float("inf"):
            _fail(f"cannot read --betas {text!r}: expected positive numbers, as in 0.5,1,2.5")
        if beta in betas:
            _fail(f"--betas {text!r} has {part} twice")
        betas.append(beta)
    return betas


def _split(text: str) -> list[str]:
    """Parts between commas that are in no brackets and no quotes.

    Examples:
        >>> _split("[8, 8],[16]")
        ['[8, 8]', '[16]']
    """
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _check_once(keys: Sequence[str], groups: Sequence[Sequence[tuple[str, str]]]) -> None:
    for i, key in enumerate(keys):
        if key in keys[:i]:
            _fail(f"{key} is set twice: give all its values in one --set")
    for group in groups:
        own = [key for key, _ in group]
        for i, key in enumerate(own):
            if key in (*own[:i], *keys):
                _fail(f"{key} is set twice: once in --variant, and once more")


def _name(pairs: Sequence[tuple[str, str]], named: set[str]) -> str:
    """A readable name for the directory; a key loses its section where no other ends like it.

    Examples:
        >>> _name([("joint.beta", "0.5"), ("seed", "0")], {"joint.beta", "seed"})
        'beta=0.5,seed=0'
    """
    parts = []
    for key, value in pairs:
        short = key.rpartition(".")[2]
        clash = sum(other.rpartition(".")[2] == short for other in named) > 1
        parts.append(f"{key if clash else short}={value}")
    text = ",".join(parts) or "run"
    return re.sub(r"[^\w.=,+\[\]-]", "_", text)


def _fail(sentence: str) -> NoReturn:
    from mvflow.core import UsageError

    raise UsageError(sentence)
