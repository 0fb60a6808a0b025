"""Several variants of a stage trained as one: every tensor has one more dimension, the variants.

Weights and their moments are single tensors, of which each variant's own module and optimiser
hold slices. So one program moves all variants, and can be captured as one graph, while for
validation, checkpoints and the end of training each of them is an ordinary one. What changes the
set of those that are trained (one stalls, ends or fails) makes a new stack of the others.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mvflow.core import MvflowError
from mvflow.nn import seeded
from mvflow.stages import Losses
from mvflow.training import loop
from mvflow.training.captured import Compile, training_step
from mvflow.training.loop import Progress, batching, record_of, rows_of, run_stage, validate
from mvflow.training.memory import memory_line
from mvflow.training.stacked import Draw, StackedLoss
from mvflow.training.stage import Checkpoint, Listener, Silent, Stage
from mvflow.training.step import (
    Rows,
    Step,
    Sums,
    generator_states,
    losses,
    new_optimizer,
    set_generator_states,
)
from mvflow.training.table import Table, TensorColumn

__all__ = ["Variant", "run_stacked"]

_log = logging.getLogger(__name__)

Ended = tuple[int, Exception | None]


@dataclass(eq=False)
class Variant:
    """One of several trainings.

    Args:
        stage: as for `run_stage`; all compute the same with other numbers.
        seed: of the data order and all noise.
        numbers: the settings of its own that the loss reads (see `Numbers`).
        resume: state to go on from.
        listener: hears of progress.
    """

    stage: Stage
    seed: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    resume: Checkpoint | None = None
    listener: Listener = field(default_factory=Silent)


def run_stacked(
    variants: Sequence[Variant],
    *,
    compile: Compile = "auto",
    program: Callable[[Stage], StackedLoss] = StackedLoss,
    on_turn: Callable[[str], object] = lambda reason: None,
) -> Iterator[Ended]:
    """Train all variants in place, each as `run_stage` would, as one program.

    Each has the order of rows, the noise and the initial weights that it has alone; results
    differ by rounding. Those whose checkpoints are further on wait until the others have caught
    up; those whose steps are not of one length or number are trained one kind after another.
    One whose loss is not finite goes on by itself from the start of that epoch, and fails as it
    does alone; where no step of a stack can be computed, so do all.

    Args:
        variants: on one device.
        compile: how steps are computed, as in `run_stage`; "torch" is as "no".
        program: makes the stacked loss from the stage of the first variant.
        on_turn: hears why variants are trained in turn after all.

    Yields:
        The number of each variant when it ends, and what it failed with, or None.

    Raises:
        KeyboardInterrupt: as it comes; all variants are then where they were.
    """
    if variants and _log.isEnabledFor(logging.INFO):
        _log.info("%d variants, each: %s", len(variants), memory_line(variants[0].stage))
    active: list[_Training] = []
    for number, variant in enumerate(variants):
        try:
            active.append(_Training(number, variant, compile))
        except MvflowError as error:
            yield number, error
    is_possible = True
    while active:
        ended = [t for t in active if t.has_ended()]
        yield from (t.end() for t in ended)
        active = [t for t in active if t not in ended]
        if not active:
            return
        place = min(t.place() for t in active)
        behind = [t for t in active if t.place() == place]
        ahead = [t for t in active if t.kind == behind[0].kind and t not in behind]
        if is_possible and len(behind) + len(ahead) > 1:
            try:
                _train(behind, ahead, program, compile)
            except Exception as error:
                is_possible = False
                on_turn(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
            continue
        yield from (t.alone() for t in behind)
        active = [t for t in active if t not in behind]


def _train(
    behind: Sequence[_Training],
    ahead: Sequence[_Training],
    program: Callable[[Stage], StackedLoss],
    compile: Compile,
) -> None:
    """Train those behind as one until one of them ends, or they reach one of those ahead."""
    places = {t.place() for t in ahead}
    try:
        stack = _Stack(behind, program, compile)
        while not any(t.has_ended() for t in behind) and behind[0].place() not in places:
            stack.train_epoch()
    finally:
        for training in behind:
            training.part()


class _Training:
    """One variant, how far it is, and what keeps it from going on in a stack."""

    def __init__(self, number: int, variant: Variant, compile: Compile) -> None:
        self.number, self.variant, self.stage = number, variant, variant.stage
        self.compile = compile
        settings = self.stage.settings
        self.steps, self.size = batching(self.stage)
        moves = settings.learning_rate, settings.schedule, settings.clip or math.inf
        self.kind = self.steps, self.size, *moves
        self.progress = Progress(
            self.stage.trainable, new_optimizer(self.stage), settings.patience
        )
        if variant.resume is not None:
            self.progress.restore(variant.resume)
        self.start = variant.resume or self.progress.checkpoint()
        self.is_finite = True
        self.error: Exception | None = None
        self.generators = {
            kind: torch.Generator(self.stage.train.device if kind != "cpu" else kind)
            for kind in generator_states(self.stage.train.device)
        }

    def place(self) -> tuple[Any, ...]:
        """What those in a stack have in common: how far they are, and of what kind."""
        return self.progress.epoch, self.progress.first, *self.kind

    def has_ended(self) -> bool:
        """Whether there is nothing left to do in a stack."""
        is_over = self.progress.epoch >= self.stage.settings.epochs or self.progress.is_stalled()
        return is_over or not self.is_finite or self.error is not None

    def end(self) -> Ended:
        """What became of it; one whose loss is not finite fails by itself."""
        if self.error is None and not self.is_finite:
            return self.alone()
        if self.error is None:
            self.progress.finish()
            self.stage.trainable.eval()
        return self.number, self.error

    def alone(self) -> Ended:
        """Go on without a stack from where the epoch began."""
        seed, listener = self.variant.seed, self.variant.listener
        try:
            run_stage(
                self.stage, seed=seed, resume=self.start, listener=listener, compile=self.compile
            )
        except Exception as error:
            return self.number, error
        return self.number, None

    def part(self) -> None:
        """Hold tensors of its own again, not slices."""
        for tensor in _tensors(self.stage.trainable).values():
            tensor.data = tensor.data.clone()
            tensor.grad = None
        for state in self.progress.optimizer.state.values():
            state.update({key: value.clone() for key, value in state.items()})

    def begin(self, epoch: int) -> None:
        """Take up an epoch."""
        device = self.stage.train.device
        with seeded(self.variant.seed, self.stage.name, "noise", epoch, device=device):
            self.progress.begin_epoch(device)
            self.draw_on(generator_states(device))

    def draw_on(self, states: Mapping[str, Tensor]) -> None:
        """Let its generators go on from where torch's were."""
        for kind, state in states.items():
            self.generators[kind].set_state(state)

    def states(self) -> dict[str, Tensor]:
        """States of its generators."""
        return {kind: generator.get_state() for kind, generator in self.generators.items()}

    def within(self, sums: Sums, number: int) -> Checkpoint:
        """Its state between two steps of an epoch; of the sums, the one of this number is its."""
        device = self.stage.train.device
        self.progress.sums.set([v[number] for v in sums.all()], list(sums.terms), sums.count)
        with seeded(0, device=device):
            set_generator_states(self.states(), device)
            return self.progress.checkpoint_within(device)

    def hear(self, what: str, *args: Any) -> None:
        """Tell its listener, whose errors are only its own."""
        try:
            getattr(self.variant.listener, what)(*args)
        except Exception as error:
            self.error = error


class _Stack:
    """Trainings that are equally far on, as one; it lasts until the first of them ends."""

    def __init__(
        self,
        trainings: Sequence[_Training],
        program: Callable[[Stage], StackedLoss],
        compile: Compile,
    ) -> None:
        self.trainings, first = trainings, trainings[0]
        module = _Slices([t.stage.trainable for t in trainings])
        self.loss = _Loss(trainings, module, program(first.stage))
        held = [t.stage.validation for t in trainings if t.stage.validation is not None]
        self.stage = replace(
            first.stage,
            trainable=module,
            loss=self.loss,
            train=_joined([t.stage.train for t in trainings]),
            validation=_joined(held) if len({len(table) for table in held}) == 1 else None,
        )
        optimizer = _stacked_optimizer(self.stage, [t.progress.optimizer for t in trainings])
        self.step = _StackedStep(self.stage, optimizer, _stacked_sums(trainings), trainings)
        self._advance = training_step(self.step, "no" if compile == "torch" else compile)

    def train_epoch(self) -> None:
        """The rest of one epoch of all."""
        progress, steps = self.trainings[0].progress, self.trainings[0].steps
        epoch, first = progress.epoch, progress.first
        for training in self.trainings:
            training.begin(epoch)
        if first == 0:
            self.step.sums.clear()
        self.loss.train(True)
        heard = time.perf_counter()
        for i, batch in zip(range(first, steps), self._batches(epoch, first), strict=True):
            self._advance(batch, (epoch + i / steps) / self.stage.settings.epochs)
            if time.perf_counter() - heard > loop.HEARD_EVERY:
                heard = time.perf_counter()
                self._report(epoch, i + 1)
        self._end_epoch(epoch)

    def _batches(self, epoch: int, first: int) -> Iterable[Rows]:
        """Numbers of the rows of each step in the table of all; where streamed, their values."""
        orders = [rows_of(t.stage, t.variant.seed, epoch)[first:] for t in self.trainings]
        if not self.stage.train.is_streamed:
            return _offset(torch.stack(orders, 1), [len(t.stage.train) for t in self.trainings])
        each = [t.stage.train.each(o) for t, o in zip(self.trainings, orders, strict=True)]
        return (
            {name: torch.cat([b[name] for b in batch]) for name in batch[0]}
            for batch in zip(*each, strict=True)
        )

    def _report(self, epoch: int, step: int) -> None:
        sums = self.step.sums
        for i, (training, means) in enumerate(zip(self.trainings, _means(sums), strict=True)):
            stage, within = training.stage, partial(training.within, sums, i)
            training.hear("on_step", stage, epoch, step, training.steps, means[0], within)

    def _end_epoch(self, epoch: int) -> None:
        means = _means(self.step.sums)
        for training, (loss, *terms), validation in zip(
            self.trainings, means, self._validations(), strict=True
        ):
            training.is_finite = math.isfinite(loss)
            if training.is_finite:
                progress = training.progress
                seconds = time.perf_counter() - progress.begun
                progress.end_epoch(validation)
                training.start = progress.checkpoint()
                named = dict(zip(self.step.sums.terms, terms, strict=True))
                record = record_of(training.stage, epoch, loss, named, validation, seconds)
                training.hear("on_epoch", record, progress.checkpoint)

    @torch.no_grad()
    def _validations(self) -> list[tuple[float, dict[str, float]] | None]:
        """As `validate` finds for each; at once if they hold out equally many rows."""
        table, device = self.stage.validation, self.stage.train.device
        if table is None or table.is_streamed:
            return [validate(t.stage, t.variant.seed) for t in self.trainings]
        for training in self.trainings:
            with seeded(training.variant.seed, self.stage.name, "validation", device=device):
                training.draw_on(generator_states(device))
        self.loss.train(False)
        sums, rows = Sums(), len(table) // len(self.trainings)
        size = min(self.stage.settings.batch_size, rows)
        whole = torch.arange(rows // size * size, device=device).view(-1, 1, size)
        for at in _offset(whole, [rows] * len(self.trainings)):
            sums.add(*losses(self.stage, table.gather(at), 1.0))
            sums.count += 1
        return [
            (loss, {"loss": loss, **dict(zip(sums.terms, terms, strict=True))})
            for loss, *terms in _means(sums)
        ]


class _StackedStep(Step):
    """A step of all variants; each has its own generators and is clipped by itself."""

    def __init__(
        self,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        sums: Sums,
        trainings: Sequence[_Training],
    ) -> None:
        super().__init__(stage, optimizer, sums)
        self._trainings = trainings
        kind = stage.train.device.type
        self.generators = [t.generators[kind] for t in trainings]

    def clip(self, most: float) -> None:
        """Scale down the gradient of each whose norm is above `most`."""
        grads = [p.grad for p in self.stage.trainable.parameters() if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
        factor = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factor.view(-1, *[1] * (grad.ndim - 1)))

    def random(self) -> dict[str, Tensor]:
        """States of all generators from which it draws."""
        return super().random() | {
            f"{i}/{kind}": state
            for i, training in enumerate(self._trainings)
            for kind, state in training.states().items()
        }

    def set_random(self, states: Mapping[str, Tensor]) -> None:
        """Set the generators to what `random` saw."""
        super().set_random(states)
        for i, training in enumerate(self._trainings):
            training.draw_on({kind: states[f"{i}/{kind}"] for kind in training.generators})


class _Loss:
    """The losses of all variants (variants,), of a batch of the rows of one after another's."""

    def __init__(
        self, trainings: Sequence[_Training], module: _Slices, program: StackedLoss
    ) -> None:
        self._trainings, self._module, self._program = trainings, module, program
        device = trainings[0].stage.train.device
        self._numbers = {
            name: torch.tensor(
                [t.variant.numbers[name] for t in trainings], dtype=torch.float64, device=device
            )
            for name in trainings[0].variant.numbers
        }
        self.train(True)
        rows = torch.arange(trainings[0].size, device=device)
        stage = trainings[0].stage
        program.recipe(stage, stage.train.gather(rows), 0.0)  # ahead of any capture

    def train(self, mode: bool) -> None:
        """Set whether networks are in training."""
        for training in self._trainings:
            training.stage.trainable.train(mode)

    def __call__(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        each = {name: x.unflatten(0, (len(self._trainings), -1)) for name, x in batch.items()}
        first = {name: x[0] for name, x in each.items()}
        recipe = self._program.recipe(self._trainings[0].stage, first, progress)
        noise = [self._drawn(draw) for draw in recipe.draws]
        found, changed = self._program(
            self._module.named, each, noise, self._numbers, progress, recipe.changing
        )
        with torch.no_grad():
            for name, value in changed.items():
                self._module.named[name].copy_(value)
        return found

    def _drawn(self, draw: Draw) -> Tensor:
        """Random numbers of all, each's by its own generator."""
        whole = torch.empty(
            (len(self._trainings), *draw.shape), dtype=draw.dtype, device=draw.device
        )
        for training, part in zip(self._trainings, whole.unbind(), strict=True):
            draw.into(part, training.generators[draw.device.type])
        return whole


class _Slices(nn.Module):
    """Weights and buffers of all; from then on the modules' own are slices of them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        each = [_tensors(module) for module in modules]
        self.named: dict[str, Tensor] = {}
        for name, first in each[0].items():
            whole = torch.stack([own[name].detach() for own in each])
            for own, part in zip(each, whole.unbind(), strict=True):
                own[name].data = part
            key = name.replace(".", "/")
            if isinstance(first, nn.Parameter):
                self.register_parameter(key, nn.Parameter(whole, first.requires_grad))
            else:
                self.register_buffer(key, whole)
            self.named[name] = getattr(self, key)


def _stacked_optimizer(stage: Stage, each: Sequence[torch.optim.Optimizer]) -> torch.optim.Adam:
    """One optimiser for all; from then on the moments of theirs are slices of its own."""
    found = new_optimizer(stage)
    weights = found.param_groups[0]["params"]
    owns = zip(*(optimizer.param_groups[0]["params"] for optimizer in each), strict=True)
    for weight, own in zip(weights, owns, strict=True):
        states = [optimizer.state[p] for optimizer, p in zip(each, own, strict=True)]
        step = torch.zeros((), device=weight.device)  # all are equally far on
        state = {"step": states[0].get("step", step)}
        for name in ("exp_avg", "exp_avg_sq"):
            zero = torch.zeros_like(own[0])
            state[name] = torch.stack([s.get(name, zero) for s in states])
        for i, s in enumerate(states):
            s.update({name: v if name == "step" else v[i] for name, v in state.items()})
        found.state[weight] = state
    return found


def _stacked_sums(trainings: Sequence[_Training]) -> Sums:
    """The sums of all, of an epoch that each has begun."""
    found, first = Sums(), trainings[0].progress.sums
    each = [t.progress.sums.all() for t in trainings]
    if trainings[0].progress.first:
        found.set(
            [torch.stack(v) for v in zip(*each, strict=True)], list(first.terms), first.count
        )
    return found


def _means(sums: Sums) -> list[list[float]]:
    """Of each variant, the means of its loss and terms; waits for the device."""
    found: list[list[float]] = (torch.stack(sums.all()).double() / sums.count).T.tolist()
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _offset(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """Rows (steps, variants, rows) of tables of these lengths as rows of the joined one."""
    starts = torch.tensor([0, *lengths[:-1]], device=rows.device).cumsum(0)
    return (rows + starts[:, None]).flatten(1)


def _joined(tables: Sequence[Table]) -> Table:
    """The rows of all tables, one after another; values that they share are held once."""
    if any(table.is_streamed for table in tables):
        return next(table for table in tables if table.is_streamed)
    plain = [table.joined({}) for table in tables]
    columns = {name: _joined_column([t.columns[name] for t in plain]) for name in plain[0].columns}
    return Table(columns, sum(map(len, tables)))


def _joined_column(columns: Sequence[Any]) -> TensorColumn:
    starts: dict[int, int] = {}
    parts, indices, length = [], [], 0
    for column in columns:
        values, index = column.values, column.index
        if values.data_ptr() not in starts:
            starts[values.data_ptr()] = length
            parts.append(values)
            length += len(values)
        index = torch.arange(len(values), device=values.device) if index is None else index
        indices.append(index + starts[values.data_ptr()])
    return TensorColumn(parts[0] if len(parts) == 1 else torch.cat(parts), torch.cat(indices))
