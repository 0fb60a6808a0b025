"""Draws of a product of experts by the package hamiltorch, to compare with another's HMC."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from mvflow.core import UsageError
from mvflow.inference.chains import resample, spread
from mvflow.inference.diagnostics import chain_diagnostics
from mvflow.inference.product import into_ball
from mvflow.inference.target import Draws, Sampler, Target

__all__ = ["Hamiltorch"]


class Hamiltorch(Sampler):
    """HMC of hamiltorch (Cobb), one chain of one row at a time: for comparisons, not for speed.

    With `adaptive` the step size is tuned by what hamiltorch calls HMC_NUTS: the dual averaging
    of the No-U-Turn paper, not its trajectories. Every evaluation takes the gradient of all rows
    and keeps one, so that time grows with the square of the number of rows.

    A first rejection after hamiltorch's burn-in sets the chain back to its start. Kept draws are
    therefore made by a second call without burn-in; where the first one fell back, the second
    makes the warm-up again and drops it.
    """

    chains: PositiveInt = 4
    """Chains per row."""
    warmup: NonNegativeInt = 100
    """Steps that tune the step size, and are thrown away."""
    draws: PositiveInt = 200
    """Least steps kept per chain."""
    candidates: PositiveInt = 128
    """Draws per expert among which the starts are resampled."""
    num_steps: PositiveInt = 5
    """Leapfrog steps a proposal."""
    step_size: PositiveFloat = 0.1
    """Where the adaptation starts, or the size of all steps."""
    adaptive: bool = True
    """Whether the step size is tuned."""

    @torch.no_grad()
    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row, spread over all chains and their length (see `Sampler`).

        Raises:
            UsageError: if hamiltorch is not installed.
        """
        package = _import()
        pool, log_weights = target.candidates(self.candidates)
        start, ess = resample(pool, log_weights, self.chains)
        start, variance = into_ball(start, target.radius), target.variance(pool)
        steps = max(self.draws, -(-n // self.chains))
        targets = [_Row(target, row, start.shape[1]) for row in range(start.shape[1])]
        with torch.enable_grad(), _silenced():
            chains = [
                [
                    self._chain(package, target, z, variance[target.row], steps)
                    for target, z in zip(targets, each, strict=True)
                ]
                for each in start
            ]
        states = torch.stack([torch.stack(rows, 1) for rows in chains], 1)
        kept, moved = states[1:], (states[1:] != states[:-1]).any(-1)
        diagnostics = chain_diagnostics(
            kept,
            acceptance=moved.double().mean((0, 1)),
            divergences=torch.tensor([target.broken for target in targets]),
            contacts=torch.tensor([target.outside / target.calls for target in targets]),
            start_ess=ess / len(pool),
            improper=target.is_improper(pool),
        )
        return Draws(kept[spread(n, steps, self.chains)], diagnostics)

    def _chain(
        self, package: Any, target: _Row, z: Tensor, inverse_mass: Tensor, steps: int
    ) -> Tensor:
        """A start and `steps` states after it, (1 + steps, latent_dim)."""
        size, restart_steps = self.step_size, self.warmup
        common = {"num_steps_per_sample": self.num_steps, "inv_mass": inverse_mass}
        common |= {"verbose": False, "debug": 2}
        if self.adaptive and self.warmup:
            (first, *_, last), size = package.sample(
                target,
                z,
                num_samples=self.warmup + 2,  # the last of them is the only one it returns
                burn=self.warmup,
                step_size=self.step_size,
                sampler=package.Sampler.HMC_NUTS,
                **common,
            )
            if not torch.equal(first, last):
                z, restart_steps = last, 0
        states, _ = package.sample(
            target,
            z,
            num_samples=restart_steps + steps,
            burn=-1,
            step_size=size,
            sampler=package.Sampler.HMC,
            **common,
        )
        return torch.stack([state.detach() for state in states[restart_steps:]])


class _Row:
    """Log density of one row, z (latent_dim,) -> scalar, which autograd can differentiate."""

    def __init__(self, target: Target, row: int, rows: int) -> None:
        self.target = target
        self.row = row
        self.rows = rows
        self.calls = 0
        self.outside = 0
        self.broken = 0

    def __call__(self, z: Tensor) -> Tensor:
        value: Tensor = _Value.apply(z, self)
        return value


class _Value(torch.autograd.Function):
    """The product's value with the gradient that holds inside the ball, also outside."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: _Row) -> Tensor:
        value, grad = target.target.value_and_grad(z.expand(target.rows, -1))
        ctx.save_for_backward(grad[target.row])
        target.calls += 1
        target.outside += int(not z.norm() <= target.target.radius)
        target.broken += int(value[target.row].isnan())
        return value[target.row]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return upstream * grad, None


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without what hamiltorch prints, and without the warnings that its own code causes."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import() -> Any:
    """The package; its import seeds every generator there is, which is undone here."""
    if "hamiltorch" in sys.modules:
        return sys.modules["hamiltorch"]
    if find_spec("hamiltorch") is None:
        msg = (
            "sampler 'hamiltorch' needs the package hamiltorch, which is installed from its "
            "repository AdamCobb/hamiltorch: pip install git+https://github.com/AdamCobb/hamiltorch"
        )
        raise UsageError(msg)
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            return import_module("hamiltorch")
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
