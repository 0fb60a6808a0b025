"""The losses of several variants of a stage as one program, with one more array dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from mvflow.config import Training
from mvflow.stages import Losses
from mvflow.training.stage import Stage

__all__ = ["DROPPED", "Draw", "Numbers", "StackedLoss", "is_random"]

Batch = Mapping[str, Tensor]
MADE = {torch.randn, torch.rand}
LIKE = {torch.randn_like, torch.rand_like}
FILLED = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_}
REQUIRES_GRAD = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
DROPPED = {nn.functional.dropout, nn.functional.dropout2d}


class Numbers:
    """Settings of a stage of which some may be tensors: under `vmap`, those of one variant.

    Anything else that reads settings sees no difference.

    Args:
        settings: what is the same for all variants.

    Examples:
        >>> settings = Numbers(Training(epochs=3))
        >>> settings.use({"learning_rate": torch.tensor(0.5)})
        >>> settings.epochs, settings.learning_rate
        (3, tensor(0.5000))
    """

    def __init__(self, settings: Training) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)

    def use(self, values: Mapping[str, Tensor]) -> None:
        """Take these for the settings of their names from now on."""
        self.__dict__.update(values)


class Draw(NamedTuple):
    """How some random numbers are drawn."""

    again: Callable[[], Tensor]
    """Draws them by torch's own generator."""
    into: Callable[[Tensor, torch.Generator], object]
    """Draws them into a tensor of this shape, type and device by another generator."""
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one kind of batch needs: its random numbers, and the buffers that it changes."""

    draws: tuple[Draw, ...]
    changing: frozenset[str]


class StackedLoss:
    """The loss of a stage for many sets of weights, batches, random numbers and settings at once.

    The stage's own loss is what runs, under `torch.func.vmap`: there is no second formula. Its
    random numbers are made beforehand, each variant's by its own generator in the order in which
    the loss alone would draw them, and handed in: a variant sees the same noise as when it is
    trained alone.

    Args:
        stage: of one of the variants; its module lends its structure, its loss is evaluated.
        numbers: the settings that this loss reads, if some differ between the variants.
    """

    def __init__(self, stage: Stage, numbers: Numbers | None = None) -> None:
        self.stage = stage
        self.numbers = numbers
        self._program = _Program(stage)
        self._recipes: dict[Any, Recipe] = {}

    def noise(self, stage: Stage, batch: Batch, progress: float) -> list[Tensor]:
        """The random numbers that the loss of `batch` draws, from torch's generators."""
        return [draw.again() for draw in self.recipe(stage, batch, progress).draws]

    def recipe(self, stage: Stage, batch: Batch, progress: float) -> Recipe:
        """What the loss of such a batch of any variant needs, in the mode of its module."""
        shapes = tuple((n, x.shape, x.dtype) for n, x in sorted(batch.items()))
        kind = stage.trainable.training, shapes
        if kind not in self._recipes:
            self._recipes[kind] = _recorded(stage, batch, progress)
        return self._recipes[kind]

    def __call__(
        self,
        tensors: Batch,
        batch: Batch,
        noise: Sequence[Tensor],
        numbers: Batch,
        progress: float,
        changing: frozenset[str],
    ) -> tuple[Losses, dict[str, Tensor]]:
        """The losses of all variants; everything given and found has them in dimension 0.

        Args:
            tensors: weights and buffers, by their names in the trained module.
            batch: rows.
            noise: what the loss would draw, in its order.
            numbers: settings that the loss reads.
            progress: in [0, 1].
            changing: the buffers that the loss writes on.

        Returns:
            Losses and terms (variants,), and what became of the buffers.
        """

        def one(
            tensors: Batch, batch: Batch, noise: Sequence[Tensor], numbers: Batch
        ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
            if self.numbers is not None:
                self.numbers.use(numbers)
            changed = {n: tensors[n].clone() for n in changing}
            with _Replay(noise):
                total, terms = self._program.at({**tensors, **changed}, batch, progress)
            return total, terms, changed

        found = vmap(one, randomness="error")(tensors, batch, noise, numbers)
        total, terms, changed = found
        return Losses(total, terms), changed


class _Program(nn.Module):
    """A stage's loss as a function of the weights of what it trains."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.trainable = stage.trainable
        self._loss = stage.loss

    def forward(self, batch: Batch, progress: float) -> Losses:
        """The loss with the weights that are there now."""
        return self._loss(batch, progress)

    def at(self, tensors: Batch, batch: Batch, progress: float) -> Losses:
        """The loss with other weights and buffers, by their names in the trained module."""
        named = {f"trainable.{name}": value for name, value in tensors.items()}
        found: Losses = functional_call(self, named, (batch, progress))
        return found


def _recorded(stage: Stage, batch: Batch, progress: float) -> Recipe:
    """Run the loss once, on copies of what it changes, to see what it draws."""
    buffers = {n: b.clone() for n, b in stage.trainable.named_buffers()}
    before = {n: b.clone() for n, b in buffers.items()}
    devices = [stage.train.device] if stage.train.device.type != "cpu" else []
    recorder = _Recorder()
    with (
        torch.random.fork_rng(devices, device_type=devices[0].type if devices else "cuda"),
        torch.no_grad(),
        recorder,
    ):
        _Program(stage).at(buffers, batch, progress)
    changing = frozenset(n for n, b in buffers.items() if not torch.equal(b, before[n]))
    return Recipe(tuple(recorder.draws), changing)


class _Recorder(TorchFunctionMode):
    """Notes how to draw again whatever is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if is_random(func, args, kwargs):
            if func in MADE:
                again = partial(func, *args, **kwargs)
            else:
                like = torch.ones(found.shape, dtype=found.dtype, device=found.device)
                again = partial(_again, func, like, *args[1:], **kwargs)
            is_by_channel = func is nn.functional.dropout2d
            shape = found.shape[:2] + (1,) * (found.ndim - 2) if is_by_channel else found.shape
            into = _filling(func, args, kwargs)
            self.draws.append(Draw(again, into, shape, found.dtype, found.device))
        return found


def _filling(
    func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[[Tensor, torch.Generator], object]:
    """What draws in place as `func` does: the same numbers from a generator in the same state."""
    if func in FILLED:
        return lambda out, generator: func(out, *args[1:], **{**kwargs, "generator": generator})
    if func in DROPPED:
        keep = 1 - dict(zip(("input", "p"), args, strict=False), **kwargs).get("p", 0.5)
        return lambda out, generator: out.bernoulli_(keep, generator=generator).div_(keep)
    is_normal = func in (torch.randn, torch.randn_like)
    fill = torch.Tensor.normal_ if is_normal else torch.Tensor.uniform_
    return lambda out, generator: fill(out, generator=generator)


def _again(func: Callable[..., Tensor], like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What `func` makes of ones, which it may write on."""
    return func(like.clone() if func in FILLED else like, *args, **kwargs)


class _Replay(TorchFunctionMode):
    """Hands out numbers that were drawn before, in their order."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._noise = iter(noise)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_random(func, args, kwargs):
            drawn = next(self._noise)
            return args[0] * drawn if func in DROPPED else drawn
        if func == REQUIRES_GRAD:
            return True  # of what is trained, though under `vmap` no tensor says so
        if func is torch.Tensor.contiguous:
            return args[0]  # an order in memory, which is not a single variant's to choose
        if func is nn.functional.batch_norm and args[0].itemsize < 4:  # alone, torch widens it
            return func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        return func(*args, **kwargs)


def is_random(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call that a `TorchFunctionMode` sees draws random numbers."""
    if func not in DROPPED:
        return func in MADE or func in LIKE or func in FILLED
    names = ("input", "p", "training")
    given = {"p": 0.5, "training": True, **dict(zip(names, args, strict=False)), **kwargs}
    return bool(given["training"]) and given["p"] > 0
