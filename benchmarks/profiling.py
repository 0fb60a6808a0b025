"""Where the time of a step goes, as torch's profiler sees it."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.noise import Epochs
from mvflow.training import Compile, Stage, Table

KINDS = (
    "products, forward",
    "products, backward",
    "element-wise",
    "copies, casts",
    "optimiser",
    "rows gathered",
    "Python, dispatch",
)
"""Kinds of work. Products are convolutions and products of matrices."""

GATHERING = "rows gathered"
OPTIMISING = "Optimizer.step"
BACKWARD = "autograd::engine"
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_addmm_activation"}
COPIES = {"copy_", "clone", "cat", "stack", "contiguous", "to", "_to_copy", "zero_", "fill_"}
COPIES |= {"empty", "empty_like", "empty_strided", "resize_", "zeros", "zeros_like", "ones_like"}
SEEN_ANEW = {"view", "reshape", "_reshape_alias", "_unsafe_view", "expand", "as_strided", "t"}
SEEN_ANEW |= {"transpose", "permute", "slice", "select", "narrow", "unbind", "split", "detach"}
SEEN_ANEW |= {"squeeze", "unsqueeze", "alias", "chunk", "split_with_sizes", "detach_", "flatten"}
SEEN_ANEW |= {"linear", "matmul", "broadcast_tensors", "lift_fresh", "item", "resolve_conj"}
"""Operations that move nothing themselves."""
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync")
GRAPHS = ("cudaGraphLaunch",)


def profiled(stage: Stage, compile: Compile = "auto") -> dict[str, Any]:
    """Train for one epoch without the profiler, and for one with it.

    Returns:
        "ms/step" and "ms/step, profiled"; the share of each of `KINDS` in the time of the host,
        or on CUDA in the time of the kernels, where "not known" takes the place of Python; on
        CUDA also "kernels / wall" and launches per step.
    """
    device = stage.train.device
    epochs = Epochs(replace(stage, train=_noted(stage.train)), compile)
    epochs.warm_up()
    plain, steps = _seconds(epochs), len(epochs.rows)
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        seconds = _seconds(epochs)
    events = list(found.events())
    row: dict[str, Any] = {
        "ms/step": round(1e3 * plain / steps, 2),
        "ms/step, profiled": round(1e3 * seconds / steps, 2),
    }
    if device.type == "cuda":
        return row | _on_cuda(events, steps, plain)
    spent = _host_seconds(events)
    spent[KINDS[-1]] += seconds - sum(spent.values())
    return row | _shares(spent, seconds)


def _seconds(epochs: Epochs) -> float:
    began = time.perf_counter()
    epochs()
    return time.perf_counter() - began


def _noted(table: Table) -> Table:
    """The same table, whose gathering the profiler sees by its name."""
    noted, gather = copy.copy(table), table.gather

    def named(at: Tensor) -> dict[str, Tensor]:
        with record_function(GATHERING):
            return gather(at)

    noted.gather = named  # type: ignore[method-assign]
    return noted


def _host_seconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Seconds by kind that operations themselves took, those they called not counted twice."""
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == DeviceType.CPU:
            spent[_kind(event)] += event.self_cpu_time_total / 1e6
    return spent


def _on_cuda(events: list[FunctionEvent], steps: int, seconds: float) -> dict[str, Any]:
    """Shares of the kernels' time by kind; their time beside that on the wall; launches."""
    kernels = sum(
        e.time_range.elapsed_us() / 1e6
        for e in events
        if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)
    )
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == DeviceType.CPU and event.name.startswith("aten::"):
            spent[_kind(event)] += event.self_device_time_total / 1e6
    known = {kind: spent[kind] for kind in KINDS[:-1]}
    known["not known"] = kernels - sum(known.values())  # of a captured graph, above all
    launched = [e.name for e in events if e.device_type == DeviceType.CPU]
    return {
        **_shares(known, kernels or 1.0, (*KINDS[:-1], "not known")),
        "kernels / wall": f"{kernels / seconds:.0%}",
        "launches/step": round(sum(n.startswith(LAUNCHES) for n in launched) / steps, 1),
        "graphs/step": round(sum(n.startswith(GRAPHS) for n in launched) / steps, 1),
    }


def _kind(event: FunctionEvent) -> str:
    above = [e.name for e in _ancestors(event)]
    name = event.name.removeprefix("aten::")
    if any(n.startswith(OPTIMISING) for n in (event.name, *above)):
        return "optimiser"
    if GATHERING in (event.name, *above):
        return "rows gathered"
    if not event.name.startswith("aten::") or name in SEEN_ANEW:
        return KINDS[-1]
    if "conv" in name or name in PRODUCTS:
        is_back = any(n.startswith(BACKWARD) for n in above)
        return "products, backward" if is_back else "products, forward"
    return "copies, casts" if name in COPIES else "element-wise"


def _ancestors(event: FunctionEvent) -> Iterator[FunctionEvent]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


def _shares(
    spent: Mapping[str, float], whole: float, kinds: Iterable[str] = KINDS
) -> dict[str, str]:
    return {kind: f"{spent.get(kind, 0.0) / whole:.0%}" for kind in kinds}
