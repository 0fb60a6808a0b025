"""Ordinal likelihood of the columns of a table, each a grade."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mvflow.likelihoods.base import ColumnValues, Shape, independent
from mvflow.likelihoods.codes import Classes, CodeDistribution, CodeLikelihood

__all__ = ["Ordinal"]


class Ordinal(CodeLikelihood):
    r"""Cumulative logits (McCullagh 1980): P(x <= k) = sigmoid(c_k - raw).

    The decoder gives one number for each value; the cuts c_0 < c_1 < ... are learned for each
    column. What is generated without noise is the expected grade.

    Examples:
        >>> likelihood = Ordinal(classes=3)
        >>> p = likelihood.distribution(torch.zeros(1, 1), (1,), likelihood.learned((1,)))
        >>> p.log_prob(torch.tensor([[1.0]])).exp()
        tensor([0.4621])
    """

    classes: Classes = 2
    """Number of grades of each column."""

    def columns(self, shape: Shape) -> tuple[ColumnValues, ...]:
        """Each is a grade."""
        return (ColumnValues("grades", self.classes),) * shape[0]

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """The middle of the cuts, and the steps between them, before they are made positive.

        At first steps are 2, so that three grades have about equal shares.
        """
        steps = torch.full((*shape, self.classes - 2), 2.0).expm1().log()
        return {"middle": torch.zeros(shape), "steps": steps}

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Grades, whose log-probabilities are stable also far from all cuts."""
        steps = softplus(learned["steps"]) + 1e-6
        ends = torch.cat([torch.zeros_like(learned["middle"])[..., None], steps.cumsum(-1)], -1)
        cuts = learned["middle"][..., None] + ends - ends[..., -1:] / 2
        at = cuts - raw[..., None]
        below, above = logsigmoid(at), logsigmoid(-at)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        between = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-steps))
        logs = torch.cat([below[..., :1], between, above[..., -1:]], -1)
        return independent(CodeDistribution(logs), shape)
