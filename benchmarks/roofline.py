"""What a step of training must compute and move, and how fast this machine could do both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import both_clocks, synchronise
from mvflow.training import Stage
from mvflow.training.step import Step, Sums, new_optimizer

OVERWRITTEN = {"copy_", "zero_", "fill_", "normal_", "uniform_", "bernoulli_", "random_"}
"""Operations that do not read what they write to."""
PICKED = {"index_select", "index", "gather", "embedding"}
"""Operations that read no more of their first argument than they return."""
UNTOUCHED = {"empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_"}
"""Operations that reserve memory and leave it as it is."""


class Cost(NamedTuple):
    """Of one step: additions and multiplications, and bytes read and written."""

    flop: int
    bytes: int


class Rates(NamedTuple):
    """FLOP a second of a product of matrices, bytes a second (read and written) of a copy."""

    flop: float
    bytes: float


def counted(stage: Stage) -> Cost:
    """Cost of one step of `run_stage`, from gathering its rows to the optimiser."""
    size = min(stage.settings.batch_size, len(stage.train))
    rows = torch.arange(size, device=stage.train.device)
    step = Step(stage, new_optimizer(stage), Sums())
    stage.trainable.train()
    step(rows, 0.5)  # its first makes the optimiser's moments, which is none to count
    with _Moved() as moved, FlopCounterMode(display=False) as flop:
        step(rows, 0.5)
    return Cost(flop.get_total_flops(), moved.bytes)


class Pace:
    """Rates of a product of matrices and of a copy, measured whenever it is called.

    On a CPU they are per CPU second, elsewhere per second on the wall. `rates` are the medians.

    Args:
        precision: of the product, "float32" or "bfloat16".
        device: where.
    """

    def __init__(self, precision: str, device: str) -> None:
        self.device = device
        self._is_cpu = torch.device(device).type == "cpu"
        side, copied = (1024, 2**25) if self._is_cpu else (8192, 2**28)
        self._matrix = torch.ones(side, side, device=device, dtype=getattr(torch, precision))
        self._source = torch.zeros(copied, device=device)
        self._target = torch.zeros_like(self._source)
        self._measured: list[Rates] = []

    def __call__(self) -> None:
        moved = 2 * self._source.nbytes
        self._measured.append(
            Rates(
                4
                * 2
                * len(self._matrix) ** 3
                / self._seconds(lambda: self._matrix @ self._matrix),
                4 * moved / self._seconds(lambda: self._target.copy_(self._source)),
            )
        )

    @property
    def rates(self) -> Rates:
        """Medians of what was measured."""
        flop, moved = zip(*self._measured, strict=True)
        return Rates(statistics.median(flop), statistics.median(moved))

    def _seconds(self, work: Callable[[], Any]) -> float:
        """Of four times the work."""
        synchronise(self.device)
        began = both_clocks()
        for _ in range(4):
            work()
        synchronise(self.device)
        return float((both_clocks() - began)[0 if self._is_cpu else 1])


def least_seconds(cost: Cost, rates: Rates) -> float:
    """Time below which no step can be, if nothing stays in a cache: the roofline."""
    return max(cost.flop / rates.flop, cost.bytes / rates.bytes)


def bound(cost: Cost, rates: Rates) -> str:
    """Which of the two sets the roofline."""
    return "FLOP" if cost.flop / rates.flop > cost.bytes / rates.bytes else "bytes"


class _Moved(TorchDispatchMode):
    """Sums what each operation reads and writes; what only looks at a tensor anew is free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.bytes += moved(func, args, kwargs or {}, found)
        return found


def moved(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Any) -> int:
    """Bytes that one call of an operation of torch reads and writes."""
    name = func.overloadpacket.__name__
    if func.is_view or name in UNTOUCHED:
        return 0
    written = _tensors(
        value
        for argument, value in _named(func, args, kwargs)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and argument.name != "grads"  # of the fused optimiser, which changes those only to scale
    )
    given = _tensors([*args, *kwargs.values()])
    known = {t.untyped_storage().data_ptr() for t in given}
    made = [t for t in _tensors(found) if t.untyped_storage().data_ptr() not in known]
    if not written and not made:
        return 0  # a view by another name
    if name in PICKED:
        return _size(given[1:]) + 2 * _size(made)
    ids = {id(t) for t in written} if name in OVERWRITTEN else set()
    return _size(t for t in given if id(t) not in ids) + _size(written) + _size(made)


def _named(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """Each argument as the schema has it, and its value."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name in kwargs:
            yield argument, kwargs[argument.name]
        elif i < len(args):
            yield argument, args[i]


def _tensors(tree: Any) -> list[Tensor]:
    leaves = tree_leaves(list(tree) if isinstance(tree, Iterator) else tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _size(tensors: Any) -> int:
    """Bytes of distinct numbers: what is expanded counts once."""
    total = 0
    for tensor in tensors:
        count = 1
        for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
            count *= length if stride else min(length, 1)
        total += count * tensor.element_size()
    return total
