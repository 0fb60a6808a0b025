"""Categorical likelihood of the columns of a table, each a class without order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributions as td
from torch import Tensor

from mvflow.likelihoods.base import ColumnValues, Shape, independent
from mvflow.likelihoods.codes import Classes, CodeDistribution, CodeLikelihood

__all__ = ["CategoricalColumns"]


class CategoricalColumns(CodeLikelihood):
    """Categorical distribution of each value, whose logits are the decoder's outputs.

    What is generated without noise is the most probable class.

    Examples:
        >>> p = CategoricalColumns(classes=3).distribution(torch.zeros(1, 6), (2,), {})
        >>> p.log_prob(torch.tensor([[2.0, 0.0]])).exp()
        tensor([0.1111])
    """

    classes: Classes = 2
    """Number of classes of each column."""

    def columns(self, shape: Shape) -> tuple[ColumnValues, ...]:
        """Each is a class."""
        return (ColumnValues("classes", self.classes),) * shape[0]

    def outputs(self, shape: Shape) -> Shape:
        """A logit for each class of each value."""
        return (self.classes * shape[0], *shape[1:])

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Categorical(softmax(raw)): first the logits of class 0 of all values, then of 1, ..."""
        logits = torch.stack(raw.chunk(self.classes, -len(shape)), -1)
        return independent(CodeDistribution(logits.log_softmax(-1)), shape)

    def mean(self, distribution: td.Distribution) -> Tensor:
        """Most probable class of each value."""
        assert isinstance(distribution, td.Independent)
        mode: Tensor = distribution.base_dist.mode
        return mode
