"""The latent space: one flat vector z, of which named parts are shared or private."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mvflow.core.arrays import Array, namespace
from mvflow.core.errors import UsageError, unknown_name

__all__ = ["LatentPart", "LatentSpace"]


@dataclass(frozen=True, slots=True)
class LatentPart:
    """Some coordinates of z.

    Args:
        name: of the part.
        dim: number of coordinates.
        of: the modality whose private part it is; None for what all modalities share.
    """

    name: str
    dim: int
    of: str | None = None


@dataclass(frozen=True)
class LatentSpace:
    """Named parts of a flat latent vector z of shape (..., dim), in order.

    Args:
        parts: their names and dimensions.

    Raises:
        UsageError: if two parts have the same name.

    Examples:
        >>> import numpy as np
        >>> space = LatentSpace((LatentPart("u", 2), LatentPart("w_a", 1, "a")))
        >>> z = np.arange(3.0)
        >>> space.dim, space.split(z)["w_a"].tolist(), space.seen_by("b", z).tolist()
        (3, [2.0], [0.0, 1.0])
        >>> space.join(space.split(z)).tolist()
        [0.0, 1.0, 2.0]
    """

    parts: tuple[LatentPart, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            msg = f"two parts of the latent space have the same name: {', '.join(names)}"
            raise UsageError(msg)

    @classmethod
    def flat(cls, dim: int) -> LatentSpace:
        """One part `z` that all modalities share."""
        return cls((LatentPart("z", dim),))

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return sum(part.dim for part in self.parts)

    def slice(self, name: str) -> slice:
        """Coordinates of a part.

        Raises:
            UsageError: if there is no such part.
        """
        start = 0
        for part in self.parts:
            if part.name == name:
                return slice(start, start + part.dim)
            start += part.dim
        raise UsageError(unknown_name("latent part", name, [p.name for p in self.parts]))

    def split(self, z: Array) -> dict[str, Array]:
        """Part -> its coordinates of z."""
        return {part.name: z[..., self.slice(part.name)] for part in self.parts}

    def join(self, parts: Mapping[str, Array]) -> Array:
        """The flat z of its parts."""
        xp = namespace(*parts.values())
        return xp.concat([parts[part.name] for part in self.parts], axis=-1)

    def seen_by(self, modality: str, z: Array) -> Array:
        """The coordinates that a modality's decoder sees: what is shared, and its own part."""
        seen = [part.name for part in self.parts if part.of in (None, modality)]
        if len(seen) == len(self.parts):
            return z
        xp = namespace(z)
        return xp.concat([z[..., self.slice(name)] for name in seen], axis=-1)
