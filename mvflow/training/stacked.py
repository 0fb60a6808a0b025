"""The losses of several variants of a stage as one program, with one more array dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, grad_and_value, vjp, vmap
from torch.overrides import TorchFunctionMode

from mvflow.config import Training
from mvflow.models import Losses
from mvflow.training.stage import Stage

__all__ = ["DROPPED", "Answer", "Numbers", "Request", "StackedLoss", "is_random"]

Batch = Mapping[str, Tensor]
Draw = Callable[[], Tensor]

MADE = {torch.randn, torch.rand}
LIKE = {torch.randn_like, torch.rand_like}
FILLED = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_}
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


class Request(NamedTuple):
    """What one variant wants the losses of."""

    module: nn.Module
    batch: Batch
    noise: list[Tensor]
    numbers: Mapping[str, float]


class Answer(NamedTuple):
    """Losses of one variant and, in training, the gradient of each trained parameter."""

    losses: Losses
    gradients: tuple[Tensor, ...]


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
        self._kept: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def kind(self, batch: Batch) -> Any:
        """What batches must have in common to be stacked."""
        return tuple((n, x.shape, x.dtype) for n, x in sorted(batch.items()))

    def noise(self, stage: Stage, batch: Batch, progress: float, training: bool) -> list[Tensor]:
        """The random numbers that the loss of `batch` draws, from torch's generators."""
        kind = training, self.kind(batch)
        if kind not in self._recipes:
            self._recipes[kind] = _recorded(stage, batch, progress)
        return [draw() for draw in self._recipes[kind].draws]

    def __call__(self, asked: Sequence[Request], progress: float, training: bool) -> list[Answer]:
        """Losses of all requests, which are of one kind; buffers are updated in training."""
        recipe = self._recipes[training, self.kind(asked[0].batch)]
        named = [dict(r.module.named_parameters()) for r in asked]
        trained = [n for n, p in named[0].items() if p.requires_grad]
        weights = {n: torch.stack([p[n].detach() for p in named]) for n in trained}
        frozen = [n for n in named[0] if n not in weights]
        changing = frozenset(n for r in self._recipes.values() for n in r.changing)
        rest = self._rest(asked, frozen, changing)
        batch = {n: torch.stack([r.batch[n] for r in asked]) for n in asked[0].batch}
        noise = [torch.stack(each) for each in zip(*(r.noise for r in asked), strict=True)]
        numbers = {
            n: torch.tensor([r.numbers[n] for r in asked], device=self.stage.train.device)
            for n in asked[0].numbers
        }
        one = partial(self._one, recipe.changing, progress)
        both: Callable[..., Any] = (
            grad_and_value(one, has_aux=True) if training else partial(_forward, one)
        )
        with self._set(training):
            found: Any = vmap(both, randomness="error")(weights, rest, batch, noise, numbers)
        gradients, (total, (terms, changed)) = found
        for i, request in enumerate(asked):
            buffers = dict(request.module.named_buffers())
            for name, value in changed.items():
                buffers[name].copy_(value[i])
        parts = [g.unbind() for g in gradients.values()]
        named_terms = {name: term.unbind() for name, term in terms.items()}
        return [
            Answer(
                Losses(one_total, {name: each[i] for name, each in named_terms.items()}),
                tuple(each[i] for each in parts),
            )
            for i, one_total in enumerate(total.unbind())
        ]

    def _one(
        self,
        changing: frozenset[str],
        progress: float,
        weights: Batch,
        rest: Batch,
        batch: Batch,
        noise: list[Tensor],
        numbers: Batch,
    ) -> tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Loss of one variant; its terms, and the buffers that it changed, come along."""
        if self.numbers is not None:
            self.numbers.use(numbers)
        changed = {n: rest[n].clone() for n in changing}
        with _Replay(noise):
            losses = self._program.at({**weights, **rest, **changed}, batch, progress)
        return losses.total, (losses.terms, changed)

    @contextmanager
    def _set(self, training: bool) -> Iterator[None]:
        """Mode and precision of the stage; checks of values, which `vmap` cannot do, are off."""
        module, checks = self._program.trainable, Distribution._validate_args
        was_training, device = module.training, self.stage.train.device.type
        is_low = self.stage.settings.precision == "bfloat16"
        Distribution.set_default_validate_args(False)
        module.train(training)
        try:
            with torch.autocast(device, torch.bfloat16, enabled=is_low, cache_enabled=False):
                yield
        finally:
            module.train(was_training)
            Distribution.set_default_validate_args(checks)

    def _rest(
        self, asked: Sequence[Request], frozen: Sequence[str], changing: frozenset[str]
    ) -> dict[str, Tensor]:
        """Buffers and frozen parameters of all, stacked once and again when they have changed."""
        named = [
            dict(r.module.named_buffers()) | {n: r.module.get_parameter(n) for n in frozen}
            for r in asked
        ]
        found, kept = {}, {}
        for name in named[0]:
            values = [each[name] for each in named]
            key = tuple((id(v), v._version) for v in values)
            if name in changing:  # batch normalisation changes its own without a new version
                found[name] = torch.stack(values)
            else:
                kept[key] = self._kept[key] if key in self._kept else torch.stack(values).detach()
                found[name] = kept[key]
        self._kept = kept
        return found


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


def _forward(one: Callable[..., Any], weights: Batch, *rest: Any) -> Any:
    """A loss without its gradients, seen by the networks as if there were to be some.

    A posterior with frozen weights has code of its own, which is not made for `vmap`.
    """
    total, _, aux = vjp(lambda w: one(w, *rest), weights, has_aux=True)  # type: ignore[misc]
    return {}, (total, aux)


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
                self.draws.append(partial(func, *args, **kwargs))
            else:
                like = torch.ones(found.shape, dtype=found.dtype, device=found.device)
                self.draws.append(partial(_again, func, like, *args[1:], **kwargs))
        return found


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
