"""torch's random numbers from a seed that is passed; global generators stay as they were."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mvflow.core import derive_seed

__all__ = ["own_generator", "passed_generator", "seeded"]

_thread = threading.local()
_global = threading.RLock()  # of torch's global generators
os.register_at_fork(after_in_child=lambda: globals().update(_global=threading.RLock()))


@contextmanager
def seeded(seed: int, *path: str | int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within this block, torch's random numbers depend on `seed` and `path` alone.

    Everything torch draws is covered: initial weights, noise, dropout, other people's modules.
    torch's global generator is used: of several threads, one at a time is in such a block, and
    the others wait (`own_generator` lets them draw at once).

    Examples:
        >>> with seeded(0, "noise"):
        ...     a = torch.randn(3)
        >>> with seeded(0, "noise"):
        ...     b = torch.randn(3)
        >>> bool((a == b).all())
        True
    """
    device = torch.device(device)
    devices = [] if device.type == "cpu" else [device]
    with _global, torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(derive_seed(seed, *path))
        yield


@contextmanager
def own_generator(
    seed: int, *path: str | int, device: torch.device | str = "cpu"
) -> Iterator[torch.Generator]:
    """Within this block, what this thread draws depends on `seed` and `path` alone.

    Unlike `seeded`, it touches no global generator, so that what other threads draw meanwhile
    changes nothing here. Covered are the functions and methods of torch that take a generator, and
    so `torch.distributions`; dropout, which takes none, is computed as in a `seeded` block.

    Examples:
        >>> with own_generator(0, "noise"):
        ...     a = torch.randn(3)
        >>> with own_generator(0, "noise"):
        ...     b = torch.distributions.Normal(0.0, 1.0).sample((3,))
        >>> bool((a == b).all())
        True
    """
    generator = torch.Generator(torch.device(device)).manual_seed(derive_seed(seed, *path))
    outer = getattr(_thread, "generator", None)
    _thread.generator = generator
    try:
        with _Drawing(generator):
            yield generator
    finally:
        _thread.generator = outer


@contextmanager
def passed_generator() -> Iterator[torch.Generator | None]:
    """For loops over small operations: no function is watched, as `own_generator` does at a cost.

    Yields:
        The generator to pass to all that draws within the block; None for torch's global one.
    """
    with torch._C.DisableTorchFunction():
        yield getattr(_thread, "generator", None)


class _Drawing(TorchFunctionMode):
    """Hands a generator to every function of torch that draws, in this thread alone."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self.generator}
            if func in _LIKE:
                return _drawn_like(func, args[0], args[1:], kwargs)
        if func in _GLOBAL_DRAWS and _draws(func, args, kwargs):
            device = self.generator.device
            seed = torch.randint(2**62, (), generator=self.generator, device=device)
            with seeded(int(seed), device=device):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


_LIKE: dict[Any, Any] = {
    torch.rand_like: torch.rand,
    torch.randn_like: torch.randn,
    torch.randint_like: torch.randint,
}
_DRAWS = {
    *_LIKE,
    *_LIKE.values(),
    *(
        getattr(owner, name)
        for name in (
            *("bernoulli", "bernoulli_", "binomial", "cauchy_", "exponential_", "geometric_"),
            *("log_normal_", "multinomial", "normal", "normal_", "poisson", "random_", "randperm"),
            *("uniform_", "_sample_dirichlet", "_standard_gamma"),
        )
        for owner in (torch, torch.Tensor)
        if hasattr(owner, name)
    ),
}
"""What draws in torch; `_LIKE` do not take a generator in all versions of torch."""


_GLOBAL_DRAWS = {
    getattr(functional, name)
    for name in (
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
        *("feature_alpha_dropout", "rrelu", "gumbel_softmax"),
        "multi_head_attention_forward",
    )
}
"""What draws from a global generator and takes no other; most of it in training alone."""


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    values = inspect.signature(func).bind(*args, **kwargs)
    values.apply_defaults()
    return bool(values.arguments.get("training", True))


def _drawn_like(func: Any, x: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kwargs.pop("memory_format", None)
    about = {"dtype": x.dtype, "device": x.device}
    return _LIKE[func](*args, x.shape, **(about | kwargs))
