"""Units of a modality: from the values and names of files to those of a store, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.errors import DataError, UsageError, unknown_name
from mvflow.core.types import Modality

__all__ = ["Knots", "Units", "check_image_shapes"]


@dataclass(frozen=True, slots=True, eq=False)
class Knots:
    """A rising map of numbers, linear between knots and beyond them.

    Args:
        x: (knots,) rising.
        z: (knots,) rising: what they become.

    Examples:
        >>> knots = Knots(np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.0, 1.0]))
        >>> knots.apply(np.array([2.0, 6.0])), knots.restore(np.array([0.5, 3.0]))
        (array([0.5, 3. ]), array([2., 6.]))
    """

    x: NDArray[np.float64]
    z: NDArray[np.float64]

    def apply(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """From x to z."""
        return _interpolated(values, self.x, self.z)

    def restore(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """From z to x."""
        return _interpolated(values, self.z, self.x)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """How the values of a modality were changed on their way from files into a store.

    Of each number first log(1 + x) may be taken, or its normal quantile by `knots`; then `shift`
    is subtracted, and the rest divided by `scale`.

    Args:
        names: of the values of a row, where the file had them.
        classes: names of the classes of a categorical modality, by number.
        levels: column -> names of its classes, by number, in a table of mixed kinds.
        shift: by value, or one number for all.
        scale: by value, or one number for all.
        log1p: whether log(1 + x) is taken; by value, or for all.
        knots: position of a column -> the map that takes it to normal quantiles.
        image_shape: (height, width) of the image that a flat row is; nothing where it is none.
    """

    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shift: NDArray[np.float64] | float = 0.0
    scale: NDArray[np.float64] | float = 1.0
    log1p: NDArray[np.bool_] | bool = False
    knots: Mapping[int, Knots] = field(default_factory=dict)
    image_shape: tuple[int, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether numbers are stored as the file has them."""
        changed = np.any(self.shift) or np.any(self.scale != np.ones(1)) or np.any(self.log1p)
        return not (changed or self.knots)

    def restore(self, values: ArrayLike) -> NDArray[Any]:
        """Values (..., *shape) in the units of the files; class numbers (...,) as their names.

        Examples:
            >>> Units(shift=np.array([1.0]), scale=np.array([2.0])).restore([[0.5]])
            array([[2.]])
        """
        x = np.asarray(values)
        if self.classes:
            return np.array(self.classes)[x]
        if self.is_identity:
            return x
        x = x * self.scale + self.shift
        if np.any(self.log1p):
            with np.errstate(over="ignore"):
                x = np.where(self.log1p, np.expm1(x), x)
        return self._mapped(x, Knots.restore)

    def apply(self, values: ArrayLike, what: str = "the values") -> NDArray[Any]:
        """Values of files (..., *shape) in the units of the store; names of classes as numbers.

        Args:
            values: finite numbers, or names of classes.
            what: names them in messages.

        Raises:
            DataError: if a class is unknown, or log(1 + x) is to be taken of a negative number.

        Examples:
            >>> Units(log1p=True, scale=2.0).apply([[np.e - 1]])
            array([[0.5]])
            >>> Units(classes=("no", "yes")).apply(["yes"])
            array([1])
        """
        x = np.asarray(values)
        if self.classes:
            return self._codes(x, what)
        if self.is_identity:
            return x
        x = x.astype(np.float64)
        if np.any(self.log1p):
            is_negative = np.broadcast_to(self.log1p, x.shape) & (x < 0)
            if is_negative.any():
                msg = f"{what} are {x[is_negative].flat[0]:g} at least once: log1p needs 0 or more"
                raise DataError(msg)
            x = np.where(self.log1p, np.log1p(np.maximum(x, 0)), x)
        x = self._mapped(x, Knots.apply)
        return np.asarray((x - self.shift) / self.scale)

    def convert(self, values: ArrayLike, to: Units, what: str = "the values") -> NDArray[Any]:
        """Values of a store in these units as another store has them, (..., *shape).

        Args:
            values: of a store.
            to: units of the other one.
            what: names them in messages.

        Raises:
            DataError: if columns have other names or classes there.

        Examples:
            >>> Units(shift=1.0, scale=2.0).convert([[0.5]], Units(scale=4.0))
            array([[0.5]])
        """
        if self.levels != to.levels or (self.names and to.names and self.names != to.names):
            msg = (
                f"{what}: columns and their classes are {_listed(self)} on one side and "
                f"{_listed(to)} on the other: import both with the same columns"
            )
            raise DataError(msg)
        x, ours, theirs = np.asarray(values), self, to
        if bool(self.classes) != bool(to.classes):  # the names of one side are not known
            return x
        if not self.classes and np.all(np.equal(self.log1p, to.log1p)):
            ours, theirs = replace(self, log1p=False), replace(to, log1p=False)
        restored = ours.restore(x)
        if np.any(theirs.log1p):
            restored = np.where(theirs.log1p, np.maximum(restored, 0), restored)
        return theirs.apply(restored, what)

    def has_same_values(self, other: Units) -> bool:
        """Whether a value means the same in both, whatever it is called.

        Examples:
            >>> Units(("a",)).has_same_values(Units()), Units().has_same_values(Units(scale=2.0))
            (True, False)
        """
        ours, theirs = self.to_dict(), other.to_dict()
        compared = (ours.keys() | theirs.keys()) - {"image_shape"}
        compared -= {key for key in ("names", "classes") if not (key in ours and key in theirs)}
        return all(ours.get(key) == theirs.get(key) for key in compared)

    def _mapped(self, x: NDArray[Any], way: Any) -> NDArray[Any]:
        if not self.knots:
            return x
        mapped = np.array(x, np.float64)
        for column, knots in self.knots.items():
            mapped[..., column] = way(knots, mapped[..., column])
        return mapped

    def _codes(self, x: NDArray[Any], what: str) -> NDArray[np.int64]:
        if x.dtype.kind == "f":
            x = x.astype(np.int64)
        names, inverse = np.unique(x.astype(np.str_), return_inverse=True)
        known = {name: code for code, name in enumerate(self.classes)}
        for name in names.tolist():
            if name not in known:
                raise DataError(unknown_name(f"class in {what}", name, known))
        codes = np.array([known[name] for name in names.tolist()], np.int64)
        return codes[inverse.reshape(x.shape)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON.

        Examples:
            >>> Units(("a",), shift=np.array([1.0])).to_dict()
            {'names': ['a'], 'shift': [1.0]}
        """
        plain = {
            "names": list(self.names),
            "classes": list(self.classes),
            "levels": {column: list(names) for column, names in self.levels.items()},
            "shift": np.asarray(self.shift).tolist(),
            "scale": np.asarray(self.scale).tolist(),
            "log1p": np.asarray(self.log1p).tolist(),
            "knots": {str(j): [k.x.tolist(), k.z.tolist()] for j, k in self.knots.items()},
            "image_shape": list(self.image_shape),
        }
        usual = {"shift": 0.0, "scale": 1.0, "log1p": False}
        return {key: x for key, x in plain.items() if x not in ([], {}) and x != usual.get(key)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Units:
        """From JSON that `to_dict` gave.

        Raises:
            DataError: if it is none.
        """
        try:
            arrays = {
                key: np.array(raw[key], dtype)
                for key, dtype in (("shift", float), ("scale", float), ("log1p", bool))
                if key in raw
            }
            return cls(
                tuple(map(str, raw.get("names", ()))),
                tuple(map(str, raw.get("classes", ()))),
                {str(c): tuple(map(str, names)) for c, names in raw.get("levels", {}).items()},
                **{key: x if x.ndim else x.item() for key, x in arrays.items()},
                knots={
                    int(j): Knots(np.array(x, float), np.array(z, float))
                    for j, (x, z) in raw.get("knots", {}).items()
                },
                image_shape=tuple(map(int, raw.get("image_shape", ()))),
            )
        except (TypeError, ValueError, AttributeError) as error:
            msg = f"the units of a modality are damaged: {error}"
            raise DataError(msg) from error


def check_image_shapes(
    shapes: Mapping[str, tuple[int, int]], modalities: Iterable[Modality]
) -> None:
    """Check that flat rows can be the images that they are said to be.

    Args:
        shapes: modality -> (height, width).
        modalities: specifications.

    Raises:
        UsageError: if there is no such modality, or an image of that shape has other values.

    Examples:
        >>> check_image_shapes({"pix": (16, 15)}, [Modality("pix", (240,))])
    """
    sizes = {m.name: m.size for m in modalities}
    for name, (height, width) in shapes.items():
        if name not in sizes:
            raise UsageError(unknown_name("modality", name, sizes))
        if height * width != sizes[name]:
            msg = (
                f"an image of {height}x{width} has {height * width} values, but rows of "
                f"modality {name!r} have {sizes[name]}"
            )
            raise UsageError(msg)


def _listed(units: Units) -> str:
    """Names of columns, the first of many, and of classes."""
    shown = [*units.names[:5], *(["..."] if len(units.names) > 5 else [])]
    levels = [f"{name}: {'/'.join(of)}" for name, of in units.levels.items()]
    return f"({', '.join([*shown, *levels])})"


def _interpolated(
    at: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Linear between knots; beyond them with the slope of the whole."""
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    inside = np.interp(at, x, y)
    beyond = np.minimum(at - x[0], 0) + np.maximum(at - x[-1], 0)
    return np.asarray(inside + slope * beyond, np.float64)
