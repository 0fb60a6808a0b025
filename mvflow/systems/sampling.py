"""Bounds of several draws: their gradients, and the memory that they take."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mvflow.core import StageError
from mvflow.core.memory import available_memory
from mvflow.functional import importance_weights
from mvflow.stages import Rows, StageSpec
from mvflow.systems.base import System

__all__ = ["check_samples", "doubly_reparametrised"]


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


def check_samples(spec: StageSpec, system: System, experts: int) -> StageSpec:
    """The stage, which refuses to begin where the decoders' outputs cannot fit into memory.

    Each of `samples` draws of each expert is decoded, and values and gradients are kept.
    """
    settings, sizes = spec.settings, sum(m.size for m in system.modalities)
    samples = getattr(settings, "samples", 1)

    def start(rows: Rows) -> None:
        assert settings is not None
        if spec.start is not None:
            spec.start(rows)
        count = min(settings.batch_size, len(rows))
        one = 2 * 4 * experts * count * sizes
        is_gpu = system.device.type == "cuda"
        free = torch.cuda.mem_get_info(system.device)[0] if is_gpu else available_memory()
        if samples * one > free:
            msg = (
                f"{samples} draws of {experts} experts for {count} rows take more than "
                f"{samples * one / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free: choose "
                f"{spec.name}.samples up to {max(1, free // (2 * one))}, or a smaller "
                f"{spec.name}.batch_size"
            )
            raise StageError(msg)

    return replace(spec, start=start)
