"""One training by several processes, on one machine or many, with the result of one process.

Every process runs the same program on the same rows, in the same order. What is computed row by
row is divided among them: each takes its part of every global batch, with its part of the global
batch's random numbers, and gradients are averaged. What needs all rows of a batch at once (the
contrastive and DCCA objectives, batch normalisation) sees all of them. So the loop, its early
stopping and its checkpoints know nothing of this, and what is left between one process and
several is the order of summation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as arrays
from safetensors import torch as tensors
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from mvflow.core import StageError, UsageError, unknown_name
from mvflow.nn import upcast_to_float32
from mvflow.stages import Losses
from mvflow.training.stacked import DROPPED, StackedLoss, is_random
from mvflow.training.stage import Checkpoint, Stage

__all__ = ["LostError", "Processes", "check_devices", "connect", "whole"]

STRATEGIES = ("ddp",)

SMALLEST = 2
"""Rows of a batch for each process below which every process computes the whole batch."""


class LostError(StageError):
    """Another process has ended or does not answer."""


def whole(x: Tensor) -> Tensor:
    """What a loss needs of all rows of the global batch at once, (rows, ...).

    `x` itself, unless the loss is computed by several processes: then the rows of all of them,
    in the order of the batch, through which gradients flow back to each.

    Examples:
        >>> whole(torch.ones(2, 1)).shape
        torch.Size([2, 1])
    """
    if has_torch_function((x,)):
        found: Tensor = handle_torch_function(whole, (x,), x)
        return found
    return x


def connect(
    devices: int,
    *,
    nodes: int = 1,
    device: str = "cpu",
    strategy: str = "ddp",
    timeout: float = 300.0,
) -> Processes:
    """Join the processes of this run, and wait until all are there.

    They are those that torchrun, `srun` or MPI have started, found by their environment.

    Args:
        devices: processes on each machine, each with a GPU of its own or on the CPU.
        nodes: machines.
        device: "cpu" or "cuda".
        strategy: "ddp" is the only one.
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        LostError: if not all came.
        UsageError: if lightning-fabric is missing, or there are too few devices.
    """
    check_devices(devices, nodes, device, strategy)
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(timeout=timedelta(seconds=timeout)),
            plugins=[LightningEnvironment()] if _is_plain() else None,
        )
        fabric.launch()
    except ValueError as error:  # the launcher has started another number of processes
        raise UsageError(_first_line(error)) from error
    except RuntimeError as error:
        msg = f"not all {devices * nodes} processes came together: {_first_line(error)}"
        raise LostError(msg) from error
    return Processes(fabric.global_rank, fabric.world_size, fabric.device)


def check_devices(devices: int, nodes: int, device: str, strategy: str) -> None:
    """Check that processes can be joined as in `connect`.

    Raises:
        UsageError: if lightning-fabric is missing, or there are too few devices.
    """
    if strategy not in STRATEGIES:
        raise UsageError(unknown_name("strategy", strategy, STRATEGIES))
    if devices < 1 or nodes < 1:
        msg = f"devices={devices}, nodes={nodes}: expected 1 or more of each"
        raise UsageError(msg)
    if device not in ("cpu", "cuda"):
        msg = f"device {device!r}: several processes take 'cpu' or 'cuda', one GPU each"
        raise UsageError(msg)
    if device == "cuda" and torch.cuda.device_count() < devices:
        msg = f"devices={devices}, but this machine has {torch.cuda.device_count()} GPUs"
        raise UsageError(msg)
    if find_spec("lightning_fabric") is None:
        msg = "several processes need lightning-fabric: pip install 'mvflow[distributed]'"
        raise UsageError(msg)


def _is_plain() -> bool:
    """Whether processes were started with a rank each, but not by a known launcher."""
    is_known = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & {*os.environ}
    is_alone = int(os.environ.get("SLURM_NTASKS", "1")) == 1
    return "LOCAL_RANK" in os.environ and (not is_known or is_alone)


class Processes:
    """The processes of one run, seen by one of them, in an initialised process group.

    Args:
        rank: of this process, from 0.
        count: how many there are.
        device: where this process computes.

    Attributes:
        leads: whether this process is the one that writes files and speaks.
    """

    def __init__(self, rank: int, count: int, device: torch.device | str = "cpu") -> None:
        self.rank, self.count = rank, count
        self.device = torch.device(device)
        self.leads = rank == 0

    # Training

    def prepare(self, stage: Stage) -> Stage:
        """The same stage, its loss computed by all processes, from the leader's weights.

        Raises:
            StageError: if the processes do not train the same.
        """
        about = (stage.name, repr(stage.settings), len(stage.train), len(stage.validation or ()))
        self.agree(about, f"stage {stage.name!r} differs between the processes")
        for value in (*stage.trainable.parameters(), *stage.trainable.buffers()):
            self._copied(value)
        return replace(stage, loss=_Divided(stage, self))

    def agree(self, what: Any, otherwise: str) -> None:
        """Check that `what` (by its `repr`) is the same in all processes.

        Raises:
            StageError: with the sentence `otherwise`.
        """
        digest = hashlib.sha256(repr(what).encode()).digest()
        number = int.from_bytes(digest[:6], "little")
        found = torch.tensor([number, -number], device=self.device)
        with self._reached():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        largest, smallest = found.tolist()
        if largest != -smallest:
            msg = f"{otherwise}: they need the same data, configuration and version of mvflow"
            raise StageError(msg)

    def shared_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """The leader's checkpoint, in all processes."""
        content, state = b"", None
        if checkpoint is not None:
            content = tensors.save({k: v.contiguous() for k, v in checkpoint.tensors.items()})
            state = checkpoint.state
        state = json.loads(self.shared(json.dumps(state).encode()))
        content = self.shared(content)
        return None if state is None else Checkpoint(tensors.load(content), state)

    def summed(self, x: Tensor) -> Tensor:
        """Sum over all processes, in place; equal to the bit in all of them."""
        with self._reached():
            distributed.all_reduce(x)
        return x

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.summed(torch.zeros(1, device=self.device))

    # Work by parts

    def shared(self, content: bytes = b"", of: int = 0) -> bytes:
        """What process `of` has, in all processes."""
        size = torch.tensor([len(content)], device=self.device)
        self._copied(size, of)
        found = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == of and content:
            found.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._copied(found, of)
        return found.cpu().numpy().tobytes()

    def divided(
        self, work: Callable[[int], Mapping[str, NDArray[Any]]], parts: int
    ) -> list[dict[str, NDArray[Any]]]:
        """Do `parts` pieces of work by turns; the results of all, in all processes."""
        done = {i: _packed(work(i)) for i in range(self.rank, parts, self.count)}
        return [arrays.load(self.shared(done.get(i, b""), i % self.count)) for i in range(parts)]

    def _copied(self, x: Tensor, of: int = 0) -> None:
        with self._reached():
            if x.numel():
                distributed.broadcast(x.data, of)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            is_late = "time" in str(error).lower()  # timed out, timeout
            what = "does not answer" if is_late else "has ended"
            msg = f"process {self.rank} of {self.count}: another process {what}"
            raise LostError(msg) from error


class _Divided:
    """The loss of a stage on global batches, of which this process computes a part."""

    def __init__(self, stage: Stage, processes: Processes) -> None:
        self._stage, self._processes = stage, processes
        self.plain = stage.loss
        self._numbers = StackedLoss(stage)

    def __call__(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        stage, processes = self._stage, self._processes
        part = _Part.of(len(next(iter(batch.values()))), processes)
        if part.rows < SMALLEST * processes.count:
            return self.plain(batch, progress)
        noise = self._numbers.noise(stage, batch, progress)
        mine = {name: x[part.start : part.stop] for name, x in batch.items()}
        with _AsWhole(part, noise):
            total, terms = self.plain(mine, progress)
        values = torch.stack([total.detach(), *(t.detach() for t in terms.values())])
        if not torch.is_grad_enabled():
            return _named(processes.summed(part.share * values), terms)
        trained = [p for p in stage.trainable.parameters() if p.requires_grad]
        with torch.autocast(stage.train.device.type, enabled=False):
            found = torch.autograd.grad(total, trained, allow_unused=True)
        known = [(p, g) for p, g in zip(trained, found, strict=True) if g is not None]
        flat = part.share * torch.cat([values, *(g.reshape(-1) for _, g in known)])
        sizes = [len(values), *(g.numel() for _, g in known)]
        values, *sums = processes.summed(flat).split(sizes)  # small networks: one message
        means = [s.view_as(g).to(g.dtype) for s, (_, g) in zip(sums, known, strict=True)]
        losses = _named(values, terms)
        total = _with_gradients(losses.total, means, *(p for p, _ in known))
        return Losses(total, losses.terms)


def _named(values: Tensor, terms: Mapping[str, Tensor]) -> Losses:
    total, *rest = values.unbind()
    return Losses(total, dict(zip(terms, rest, strict=True)))


def _with_gradients(total: Tensor, gradients: Sequence[Tensor], *trained: Tensor) -> Tensor:
    """`total`, whose gradients by `trained` are those given."""
    found: Tensor = _WithGradients.apply(total, gradients, *trained)
    return found


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: Sequence[Tensor], *trained: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *by_total: Tensor) -> tuple[Any, ...]:
        return None, None, *(by_total[0].to(g.dtype) * g for g in ctx.gradients)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows `start` to `stop` of a global batch of `rows`."""

    processes: Processes
    rows: int
    start: int
    stop: int

    @classmethod
    def of(cls, rows: int, processes: Processes) -> _Part:
        start, stop = (rows * (processes.rank + i) // processes.count for i in (0, 1))
        return cls(processes, rows, start, stop)

    @property
    def share(self) -> float:
        return (self.stop - self.start) / self.rows

    def summed(self, x: Tensor) -> Tensor:
        """Sum over processes, through which gradients flow.

        The total loss is the mean of the processes' losses, weighted by their `share`.
        """
        found: Tensor = _Summed.apply(x, self)
        return found

    def whole(self, x: Tensor) -> Tensor:
        """The rows of all processes, of which `x` are this one's."""
        after = (0, 0) * (x.ndim - 1) + (self.start, self.rows - self.stop)
        return self.summed(nn.functional.pad(x, after))

    def mine(self, drawn: Tensor, shape: torch.Size) -> Tensor:
        """The part, of this shape, of what was drawn for the global batch.

        Raises:
            StageError: if it was not drawn for each row.
        """
        differing = [i for i, n in enumerate(drawn.shape) if n != shape[i]]
        if not differing:
            return drawn
        if len(differing) > 1 or drawn.shape[differing[0]] != self.rows:
            msg = (
                f"random numbers of shape {tuple(drawn.shape)} are not one for each of "
                f"{self.rows} rows: this loss cannot be divided among processes"
            )
            raise StageError(msg)
        return drawn.narrow(differing[0], self.start, self.stop - self.start)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        return part.processes.summed(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *by_sum: Tensor) -> tuple[Any, ...]:
        part = ctx.part
        return part.processes.summed((by_sum[0] * part.share).contiguous()) / part.share, None


class _AsWhole(TorchFunctionMode):
    """Computes a part of a batch as it is computed within the whole batch."""

    def __init__(self, part: _Part, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._part = part
        self._noise = iter(noise)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is whole:
            return self._part.whole(*args)
        if func is nn.functional.batch_norm:
            return _batch_norm(self._part, *args, **kwargs)
        if not is_random(func, args, kwargs):
            return func(*args, **kwargs)
        likes = [a for a in args[:1] if isinstance(a, Tensor)]
        shape = likes[0].shape if likes else torch.empty(*args, **_sizes(kwargs)).shape
        drawn = self._part.mine(next(self._noise), shape)
        return args[0] * drawn if func in DROPPED else drawn


def _sizes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k != "generator"}


def _batch_norm(
    part: _Part,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` by the moments of the global batch."""
    if not training:
        return nn.functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    axes = [i for i in range(x.ndim) if i != 1]
    count = x[0, 0].numel() * part.rows
    wide = upcast_to_float32(x)
    mean = part.summed(wide.sum(axes, keepdim=True)) / count
    centred = wide - mean
    var = part.summed(centred.square().sum(axes, keepdim=True)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.flatten().to(running_mean), momentum)
            running_var.lerp_(var.flatten().to(running_var) * count / (count - 1), momentum)
    shape = [1, -1] + [1] * (x.ndim - 2)
    out = centred * (var + eps).rsqrt()
    out = out if weight is None else out * weight.view(shape)
    out = out if bias is None else out + bias.view(shape)
    return out.to(x.dtype)


def _packed(found: Mapping[str, NDArray[Any]]) -> bytes:
    return arrays.save({k: np.array(v, order="C") for k, v in found.items()})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
