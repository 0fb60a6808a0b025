"""Rows whose encoders see a part of what they have: masks of presence, and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mvflow.core import Observed

__all__ = ["presence", "random_subsets", "restricted", "zero_unless"]


def presence(observed: Observed, names: Sequence[str]) -> Tensor:
    """Which of the named modalities each row has, bool (modalities, rows).

    Examples:
        >>> x = torch.zeros(2, 3)
        >>> presence(Observed({"a": x, "b": x}, {"b": torch.tensor([True, False])}), "abc")
        tensor([[ True,  True],
                [ True, False],
                [False, False]])
    """
    first = next(iter(observed.x.values()))
    everywhere = torch.ones(len(first), dtype=torch.bool, device=first.device)
    masks = []
    for name in names:
        mask = observed.is_present(name)
        own = everywhere if mask is None else mask
        masks.append(own if name in observed.x else ~everywhere)
    return torch.stack(masks)


def random_subsets(present: Tensor, share: float) -> Tensor:
    """What is left where modalities are hidden at random, bool (modalities, rows).

    In the share `share` of rows that have two modalities or more, one to all but one of these,
    any number as likely as any other; in the others all.
    """
    if not share:
        return present
    (many, rows), device = present.shape, present.device
    order = (torch.rand(many, rows, device=device) + 2.0 * ~present).argsort(0).argsort(0)
    count = present.sum(0)
    size = 1 + (torch.rand(rows, device=device) * (count - 1)).long()
    drops = (torch.rand(rows, device=device) < share) & (count > 1)
    return present & (~drops | (order < size))


def restricted(observed: Observed, seen: Mapping[str, Tensor]) -> Observed:
    """The same rows, in which only what `seen` says is present.

    Args:
        observed: some rows.
        seen: modality -> bool (rows,).

    Examples:
        >>> values = torch.tensor([[True, False, True]] * 2)
        >>> rows = Observed({"a": torch.zeros(2, 3)}, {"a": values})
        >>> restricted(rows, {"a": torch.tensor([True, False])}).present["a"]
        tensor([[ True, False,  True],
                [False, False, False]])
    """
    present = dict(observed.present or {})
    for name, mask in seen.items():
        own = present.get(name)
        present[name] = mask if own is None else own & mask.view(-1, *[1] * (own.ndim - 1))
    return observed._replace(present=present)


def zero_unless(present: Tensor | None, values: Tensor) -> Tensor:
    """Values of the rows that have what they are of, and 0 for the others; None: all have it.

    Examples:
        >>> zero_unless(torch.tensor([True, False]), torch.tensor([1.0, torch.nan]))
        tensor([1., 0.])
    """
    return values if present is None else torch.where(present, values, 0.0)
