"""A likelihood for each column of one table: numbers, counts, yes or no, classes, grades."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.distributions as td
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mvflow.core import ConfigError
from mvflow.core.parts import Kind, Section
from mvflow.likelihoods.base import ColumnValues, Likelihood, Shape, independent
from mvflow.nn.inputs import MeasuredInputs

__all__ = ["Group", "Mixed"]


class Group(Section):
    """Columns beside each other that have the same likelihood.

    `{"likelihood": "categorical", "classes": 4}` is short for columns of the kind
    `categorical-columns`, `{"likelihood": "ordinal", "classes": 5}` for grades.
    """

    likelihood: Annotated[Any, Kind("likelihoods")]
    """Of each of these columns."""
    columns: PositiveInt = 1
    """How many there are."""

    @model_validator(mode="before")
    @classmethod
    def _with_classes(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or "classes" not in raw:
            return raw
        kind = raw.get("likelihood")
        kind = "categorical-columns" if kind == "categorical" else kind
        settings = {key: value for key, value in raw.items() if key != "classes"}
        return {**settings, "likelihood": {"kind": kind, "classes": raw["classes"]}}


class Mixed(Likelihood):
    """Independent columns, in groups that have a likelihood each.

    Rows are (columns,) of numbers: a class is its number, yes is 1. Draws are in the same codes;
    without noise a class is the most probable one, yes or no a probability, a grade the expected
    one. Fully connected encoders see indicators of classes and grades.

    Examples:
        >>> groups = [{"likelihood": "normal", "columns": 2}, {"likelihood": "bernoulli"}]
        >>> likelihood = Mixed(groups=groups)
        >>> p = likelihood.distribution(torch.zeros(1, 3), (3,), {})
        >>> likelihood.mean(p)
        tensor([[0.0000, 0.0000, 0.5000]])
    """

    is_location: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False

    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    """Columns from the first to the last."""

    @property
    def size_covariate(self) -> str | None:
        """That of the first group that has one."""
        return next((s for g in self.groups if (s := g.likelihood.size_covariate)), None)

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """All columns of a row, each by the outputs of its group."""
        parts = [
            (part, part.distribution(outputs, (at.stop - at.start,), _of_group(learned, i)))
            for i, (part, at), outputs in zip(
                itertools.count(),
                self._spans(shape),
                raw.split(self._widths(shape), -1),
            )
        ]
        return independent(_Columns(parts), shape)

    def mean(self, distribution: td.Distribution) -> Tensor:
        """Of each column what its likelihood has without noise."""
        assert isinstance(distribution, td.Independent)
        mean: Tensor = distribution.base_dist.mean
        return mean

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """Parameters of all groups."""
        return self._of_groups(shape, lambda part, at: part.learned((at.stop - at.start,)))

    def measured(self, shape: Shape) -> dict[str, Tensor]:
        """What groups take of the training rows."""
        return self._of_groups(shape, lambda part, at: part.measured((at.stop - at.start,)))

    def measure(self, blocks: Callable[[], Iterable[Tensor]], shape: Shape) -> dict[str, Tensor]:
        """What groups take of their columns of the training rows."""

        def of(part: Likelihood, at: slice) -> dict[str, Tensor]:
            if not part.measured((at.stop - at.start,)):
                return {}
            return part.measure(lambda: (x[:, at] for x in blocks()), (at.stop - at.start,))

        return self._of_groups(shape, of)

    def columns(self, shape: Shape) -> tuple[ColumnValues, ...]:
        """What the columns of each group hold."""
        parts = (part.columns((at.stop - at.start,)) for part, at in self._spans(shape))
        return tuple(itertools.chain.from_iterable(parts))

    def outputs(self, shape: Shape) -> Shape:
        """The outputs of all groups, one group after the other."""
        return (sum(self._widths(shape)),)

    def is_valid(self, x: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Which values the likelihoods of their columns can have."""
        valid = [p.is_valid(x[:, at], x[:, at].shape[1:]) for p, at in self._spans(shape)]
        return np.concatenate(valid, 1)

    def expects(self, shape: Shape) -> str:
        """What was expected, by columns."""
        words = [
            f"columns {at.start} to {at.stop - 1}: {part.expects((at.stop - at.start,))}"
            for part, at in self._spans(shape)
        ]
        return "; ".join(words)

    def flat(self, shape: Shape) -> nn.Module:
        """Columns as their likelihoods have them for encoders, beside each other."""
        spans = self._spans(shape)
        return _Flat([part.flat((at.stop - at.start,)) for part, at in spans],
                     [at.stop - at.start for _, at in spans])  # fmt: skip

    def flat_features(self, shape: Shape) -> int:
        """Of all groups together."""
        return sum(p.flat_features((at.stop - at.start,)) for p, at in self._spans(shape))

    def _spans(self, shape: Shape) -> list[tuple[Likelihood, slice]]:
        """The likelihood of each group, and its columns."""
        ends = list(itertools.accumulate(g.columns for g in self.groups))
        if tuple(shape) != (ends[-1],):
            msg = (
                f"the groups of a mixed likelihood have {ends[-1]} columns, but rows have the "
                f"shape {tuple(shape)}: say of each column what it is"
            )
            raise ConfigError(msg)
        spans = []
        for group, start, stop in zip(self.groups, [0, *ends], ends, strict=False):
            width = stop - start
            if group.likelihood.row_shape((width,)) != (width,):
                msg = (
                    f"columns of a mixed likelihood cannot be {group.likelihood.kind!r}, whose "
                    "rows are single numbers: use 'categorical-columns' with a number of classes"
                )
                raise ConfigError(msg)
            spans.append((group.likelihood, slice(start, stop)))
        return spans

    def _widths(self, shape: Shape) -> list[int]:
        return [p.outputs((at.stop - at.start,))[0] for p, at in self._spans(shape)]

    def _of_groups(
        self, shape: Shape, call: Callable[[Likelihood, slice], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        return {
            f"{i}_{name}": value
            for i, (part, at) in enumerate(self._spans(shape))
            for name, value in call(part, at).items()
        }


def _of_group(learned: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """What belongs to a group, and the size that belongs to all."""
    own = {k.removeprefix(f"{i}_"): v for k, v in learned.items() if k.startswith(f"{i}_")}
    return own | {k: v for k, v in learned.items() if k == "size"}


class _Flat(MeasuredInputs):
    """Groups of columns through a module each, side by side."""

    def __init__(self, modules: Iterable[nn.Module], columns: list[int]) -> None:
        super().__init__()
        self.parts, self.columns = nn.ModuleList(modules), columns

    def measure(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Each group of its columns."""

        def of_group(i: int) -> Iterator[Tensor]:
            return (x.split(self.columns, -1)[i] for x in blocks())

        for i, part in enumerate(self.parts):
            for layer in part.modules():
                if isinstance(layer, MeasuredInputs):
                    layer.measure(partial(of_group, i))

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.parts, x.split(self.columns, -1), strict=True)
        return torch.cat([part(columns) for part, columns in pairs], -1)


class _Columns(td.Distribution):
    """Columns of several distributions (..., columns) side by side."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: list[tuple[Likelihood, td.Distribution]]) -> None:
        self.parts = parts
        shapes = [torch.Size([*p.batch_shape, *p.event_shape]) for _, p in parts]
        batch = torch.Size([*shapes[0][:-1], sum(shape[-1] for shape in shapes)])
        super().__init__(batch, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.cat([likelihood.mean(p) for likelihood, p in self.parts], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat([p.sample(torch.Size(sample_shape)) for _, p in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.cat([p.log_prob(x) for p, x in self._columns(value)], -1)

    def _columns(self, value: Tensor) -> Iterator[tuple[td.Distribution, Tensor]]:
        """Distributions of single values, and their columns."""
        widths = [p.event_shape[0] for _, p in self.parts]
        for (_, p), x in zip(self.parts, value.split(widths, -1), strict=True):
            assert isinstance(p, td.Independent)
            yield p.base_dist, x
