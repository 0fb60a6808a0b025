"""Networks that would not fit into memory, refused before their arrays are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mvflow.core import ConfigError
from mvflow.core.memory import available_memory

__all__ = ["checked_allocation"]

SMALL = 1 << 26
"""Values that are not worth a look."""

FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn}


@contextmanager
def checked_allocation(what: str) -> Iterator[None]:
    """Within this block, torch refuses to make an array that is larger than the memory left.

    Systems would let it be made, and end the process when it is filled.

    Args:
        what: is built; it begins the message.

    Raises:
        ConfigError: saying how large the array would be.

    Examples:
        >>> with checked_allocation("the networks"):
        ...     torch.nn.Linear(2, 3).weight.shape
        torch.Size([3, 2])
    """
    try:
        with _Allocation(what):
            yield
    except MemoryError as error:
        raise _too_large(what, "", None) from error
    except (RuntimeError, TypeError, OverflowError) as error:  # as torch says it of such sizes
        if not any(word in str(error) for word in ("allocate memory", "verflow", "enough memory")):
            raise
        raise _too_large(what, "", None) from error


class _Allocation(TorchFunctionMode):
    """Asks for the shape of what large operations give, on torch's meta device, beforehand."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            self.check(func(*args, **{**kwargs, "device": "meta"}))
        else:
            leaves = tree_leaves((args, kwargs))
            sizes = [x.numel() for x in leaves if isinstance(x, Tensor) and not is_lazy(x)]
            if len(sizes) > 1 and prod(sizes) > SMALL:
                self.check(_shape_of(func, args, kwargs))
        return func(*args, **kwargs)

    def check(self, result: Any) -> None:
        """Refuse a tensor on the meta device that would take more memory than there is."""
        if not isinstance(result, Tensor) or result.numel() < SMALL or result._base is not None:
            return
        available = available_memory()
        if result.nbytes > available:
            raise _too_large(
                self.what, f"of shape {tuple(result.shape)} ", result.nbytes, available
            )


def _shape_of(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return func(*tree_map_only(Tensor, lambda x: x.to("meta"), args), **kwargs)
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # its shape depends on values


def _too_large(
    what: str, shape: str, nbytes: int | None, available: int | None = None
) -> ConfigError:
    takes = "more" if nbytes is None else f"{nbytes / 2**30:,.1f} GiB"
    available = available_memory() if available is None else available
    return ConfigError(
        f"{what} are too large: an array {shape}takes {takes} of memory, where "
        f"{available / 2**30:,.1f} GiB are available: choose fewer or narrower layers, or a "
        "smaller latent_dim"
    )
