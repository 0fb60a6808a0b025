"""The loss of several variants of a stage as one program, by `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import TorchFunctionMode

from mvflow.stages import Losses
from mvflow.training import Stage, Table, TensorColumn

__all__ = ["FINITE", "StackedLoss", "joined"]

FINITE = "finite"
"""Term that is 1 up to the first loss of an epoch that is not finite, then 0."""

REQUIRES_GRAD = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]


class StackedLoss(nn.Module):
    """The loss of the first stage at the weights of all, each on its own rows and noise.

    Its parameters and buffers are those of `trainable` of all stages, (variants, *shape) each.
    Frozen parts are stacked too, for losses that call them.

    Args:
        stages: alike but for the values of their tensors.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.count, first = len(stages), stages[0]
        self._program = [_Program(first)]  # in a list: its weights are not this module's
        weights, buffers = stack_module_state([_Program(stage) for stage in stages])
        self.tensors: dict[str, Tensor] = {}
        self.finite: Tensor
        self.register_buffer("finite", torch.ones(self.count, device=first.train.device))
        own = {id(t) for t in (*first.trainable.parameters(), *first.trainable.buffers())}
        self.changing = [n for n, t in _tensors(self._program[0]).items() if id(t) in own]
        for name, value in (weights | buffers).items():
            tensor = nn.Parameter(value.detach()) if value.requires_grad else value
            if name in self.changing and isinstance(tensor, nn.Parameter):
                self.register_parameter(name.replace(".", "/"), tensor)
            elif name in self.changing:
                self.register_buffer(name.replace(".", "/"), tensor)
            self.tensors[name] = tensor

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """Losses (variants,) of a batch that has the rows of one variant after another's."""
        rows = {name: x.unflatten(0, (self.count, -1)) for name, x in batch.items()}

        def one(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[Tensor, Any]:
            with _AsIfAlone():
                losses = functional_call(self._program[0], tensors, (own, progress))
            return losses.total, losses.terms

        total, terms = vmap(one, randomness="different")(self.tensors, rows)
        if torch.is_grad_enabled():
            self.finite.mul_(total.detach().isfinite())
        return Losses(total, {**terms, FINITE: self.finite})

    @property
    def now(self) -> dict[str, Tensor]:
        """What training changes, by name, (variants, *shape) each."""
        return {name: self.tensors[name].detach() for name in self.changing}

    @torch.no_grad()
    def write(self, weights: Mapping[str, Tensor], number: int, stage: Stage) -> None:
        """Copy the weights of one variant into its own module."""
        own = _tensors(_Program(stage))
        for name, value in weights.items():
            own[name].copy_(value[number])


class _Program(nn.Module):
    """A stage's loss as a function of all tensors that it may read."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.model = stage.trainable if stage.model is None else stage.model
        self._loss = stage.loss

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        return self._loss(batch, progress)


class _AsIfAlone(TorchFunctionMode):
    """Answers for tensors under `vmap` what they are without it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == REQUIRES_GRAD:
            return True  # of weights, though no tensor says so under `vmap`
        if func is torch.Tensor.contiguous and "memory_format" in kwargs:
            return args[0]  # an order in memory is not a single variant's to choose
        if func is nn.functional.batch_norm and args[0].itemsize < 4:  # alone, torch widens it
            return func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        result = func(*args, **kwargs)
        if func in (torch.empty, torch.Tensor.new) and result.is_floating_point():
            return torch.rand_like(result)  # one per variant: to be filled with noise in place
        return result


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def joined(tables: Sequence[Table]) -> Table:
    """The rows of all tables, one after another; values that they share are held once."""
    plain = [table.joined({}).columns for table in tables]
    columns = {name: _joined([each[name] for each in plain]) for name in plain[0]}
    return Table(columns, sum(map(len, tables)))


def _joined(columns: Sequence[Any]) -> TensorColumn:
    starts: dict[int, int] = {}
    parts: list[Tensor] = []
    indices = []
    for column in columns:
        values, index = column.values, column.index
        if values.data_ptr() not in starts:
            starts[values.data_ptr()] = sum(map(len, parts))
            parts.append(values)
        index = torch.arange(len(values), device=values.device) if index is None else index
        moved = index + starts[values.data_ptr()]
        indices.append(torch.where(index < 0, index, moved))
    return TensorColumn(parts[0] if len(parts) == 1 else torch.cat(parts), torch.cat(indices))
