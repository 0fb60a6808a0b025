"""One seed, passed: generators are derived from it by name, never from a global state."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["derive_seed", "generator"]


def derive_seed(seed: int, *path: str | int) -> int:
    """Seed of a named part of a computation: the same for the same `seed` and `path`, always.

    Parts with different paths get statistically independent streams, so a stage, an epoch or a
    chunk of rows can be recomputed alone.

    Examples:
        >>> derive_seed(0, "joint", 3) == derive_seed(0, "joint", 3)
        True
        >>> derive_seed(0, "joint", 3) == derive_seed(0, "joint", 4)
        False
    """
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in path]
    state = np.random.SeedSequence([int(seed), *words]).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """NumPy generator of a named part of a computation (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *path))
