"""Bounds of several draws: their gradients, and the memory that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mvflow.config import Training
from mvflow.core import Observed, StageError
from mvflow.core.memory import available_memory
from mvflow.functional import importance_weights
from mvflow.stages import Rows, StageSpec
from mvflow.systems.decoders import Decoders

__all__ = ["bytes_of_draw", "check_draws", "check_samples", "doubly_reparametrised"]

PROBED_ROWS = 2
"""By which the memory of a draw is measured."""


def doubly_reparametrised(z: Tensor, log_weights: Tensor) -> None:
    """Make the gradient through z that of DReG: each draw's once more times its weight.

    The log weights must have been computed from z by densities log q whose own parameters are
    detached. The gradient of log 1/K sum_k w_k is then, of the decoders, as it always is, and of
    the encoders sum_k (w_k / sum w)^2 d log w_k/dz dz/dphi, whose signal does not vanish as K
    grows (Tucker et al. 2019).

    Args:
        z: draws with a graph, (samples, ..., latent).
        log_weights: of each draw, (samples, ...).
    """
    if z.requires_grad:
        shares = importance_weights(log_weights.detach())[..., None]
        z.register_hook(lambda grad: shares * grad)


def check_samples(spec: StageSpec, decoders: Decoders, experts: int) -> StageSpec:
    """The stage, which refuses to begin where its draws cannot fit into memory.

    Each of `samples` draws of each expert is decoded, and values and gradients are kept.
    """
    settings = spec.settings
    samples = getattr(settings, "samples", 1)

    def check(rows: Rows) -> None:
        assert settings is not None
        if samples > 1:
            one = experts * _bytes_of_draw(decoders, rows, settings)
            who = "" if experts == 1 else f" of {experts} experts"
            check_draws(f"{spec.name}.samples", samples, settings, rows, one, decoders, who)

    return replace(spec, check=check)


def check_draws(
    key: str,
    draws: int,
    settings: Training,
    rows: Rows,
    bytes_of_draw: float,
    module: nn.Module,
    who: str = "",
) -> None:
    """Refuse draws of a batch that cannot fit into memory.

    Args:
        key: the setting of their number.
        draws: their number.
        settings: of the stage; the section that `key` is in.
        rows: training rows.
        bytes_of_draw: of one draw of one row.
        module: on the device of the draws.
        who: of whom they are, if there are several.

    Raises:
        StageError: saying how many fit.
    """
    count = min(settings.batch_size, len(rows))
    device = next(module.parameters()).device
    is_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_gpu else available_memory()
    one = count * bytes_of_draw
    if draws * one > free:
        msg = (
            f"{draws:,} draws{who} for {count} rows take about {draws * one / 2**20:,.0f} MiB, "
            f"and {free / 2**20:,.0f} MiB are free: choose {key} up to "
            f"{max(1, int(free / (2 * one)))}, or a smaller {key.partition('.')[0]}.batch_size"
        )
        raise StageError(msg)


def _bytes_of_draw(decoders: Decoders, rows: Rows, settings: Training) -> float:
    """What a step takes for one draw of one row: activations, their gradients, an output."""
    batch = Observed.from_columns(next(iter(rows.batches(PROBED_ROWS))))
    count, was_training = len(next(iter(batch.x.values()))), decoders.training
    is_low = settings.precision == "bfloat16"

    def fits(draws: int) -> Any:
        z = next(decoders.parameters()).new_zeros(draws, count, decoders.latent.dim)
        lowered = torch.autocast(z.device.type, torch.bfloat16, is_low, cache_enabled=False)
        with lowered:
            return decoders.log_prob(z.requires_grad_(), batch)

    decoders.eval()  # without noise, which would change what is drawn in training
    taken = bytes_of_draw(fits) / count
    decoders.train(was_training)
    return taken + 4 * sum(x[0].numel() for x in batch.x.values())


def bytes_of_draw(compute: Callable[[int], Any]) -> float:
    """What autograd keeps of each draw more, and as much again for gradients.

    Args:
        compute: number of draws -> results with their graph.
    """

    def kept(draws: int) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an output that its own node kept would never be freed

        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            results = compute(draws)
        assert results is not None  # while they live, no storage of theirs is another's
        return sum(storages.values())

    return float(kept(3) - kept(1))
