"""Kernel regression of z on what is observed: the posterior of any subset in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.core import Observed, UsageError
from mvflow.core.parts import Later, dump
from mvflow.functional import kernel_regression
from mvflow.posteriors import CorrelatedNormal
from mvflow.stages import Rows, StageSpec
from mvflow.systems.subsets.base import Experts, SubsetRule

__all__ = ["Kernel", "KernelPosterior", "axes_above_noise"]

COVARIATE = "covariates/"

MIN_ROWS = 10
"""Rows that have what a regression is on, at least."""

KEPT = ("inputs_", "moments_", "latents", "present_")
"""How names of buffers begin that have a row for each row that is kept."""


class Kernel(SubsetRule):
    """q(z|x_S) by kernel ridge regression of the means of q(z|X) on x_S, for tables of few rows.

    A Gaussian process with one penalty for each dimension of z, chosen by the error of rows left
    out one at a time. Those errors also give the covariance, so that it is not too small where
    rows are few; it grows with the distance to the training rows.
    """

    uses_experts: ClassVar[bool] = False

    rows: PositiveInt = 2048
    """Training rows that are kept, drawn at random if there are more."""
    width: PositiveFloat = 0.3
    """Factor of the mean squared distance of two rows, per standardised column, in exp(-...)."""
    components: Annotated[Literal["all", "above-noise"], Later()] = "all"
    """Of what is observed: all columns, or the principal components that vary more than any of
    pure noise would (Marchenko and Pastur 1967); covariates are kept apart from them."""

    def combine(
        self, system: Experts, module: nn.Module | None, observed: Observed
    ) -> Distribution:
        """The regression on what is observed."""
        assert isinstance(module, KernelPosterior)
        return module(_features(system, observed))

    def build(self, system: Experts) -> KernelPosterior:
        """The rows that are kept; none before the stage."""
        blocks = [m.name for m in system.modalities]
        blocks += [f"{COVARIATE}{name}" for name in system.settings.covariates]
        return KernelPosterior(blocks, system.latent.dim, self.width, self.components)

    def stages(self, system: Experts, module: nn.Module | None) -> Sequence[StageSpec]:
        """One stage in closed form."""
        assert isinstance(module, KernelPosterior)

        def fit(rows: Rows, rng: np.random.Generator) -> None:
            if len(rows) > self.rows:
                rows = rows.subset(np.sort(rng.permutation(len(rows))[: self.rows]))
            inputs: dict[str, list[Tensor]] = {}
            present: dict[str, list[Tensor]] = {}
            moments = []
            with torch.no_grad():
                for batch in rows.batches(2048):
                    observed = Observed.from_columns(batch)
                    q = system.encode(observed).base_dist
                    moments.append(torch.stack([q.loc, q.scale], 1))
                    for name, x in _features(system, observed).items():
                        inputs.setdefault(name, []).append(x)
                        if (here := observed.is_present(name)) is not None:
                            present.setdefault(name, []).append(here)
            module.keep(
                {n: torch.cat(x) for n, x in inputs.items()},
                torch.cat(moments),
                {n: torch.cat(masks) for n, masks in present.items()},
            )

        reads = {"subset": dump(self, "subsets")}
        spec = system.posterior_stage("kernel", module, system.settings.joint, reads, None)
        closed = replace(spec, settings=None, loss=None, columns=(), start=None, fit=fit)
        return [replace(closed, takes_held_out=True)]


class KernelPosterior(nn.Module):
    """Kernel regressions on every subset of blocks of columns, each solved when first asked for.

    Args:
        blocks: names of all blocks of columns.
        latent: dimension of z.
        width: as of `Kernel`.
        components: as of `Kernel`.
    """

    def __init__(
        self, blocks: Sequence[str], latent: int, width: float, components: str = "all"
    ) -> None:
        super().__init__()
        self.blocks, self.width, self.components = list(blocks), width, components
        self.latents: Tensor
        self.register_buffer("latents", torch.zeros(0, 2, latent))
        self._solved: dict[tuple[str, ...], Any] = {}
        self._axes: dict[tuple[str, ...], Tensor] = {}

    def keep(
        self,
        inputs: Mapping[str, Tensor],
        latents: Tensor,
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep training rows; what is absent from one counts as the mean of its column.

        Args:
            inputs: block -> rows (rows, columns), NaN where a value is absent.
            latents: means and scales of q(z|X) of these rows, (rows, 2, latent).
            present: block -> bool (rows,), of those that some row lacks.
        """
        self._forget()
        self.latents = latents
        for name, x in inputs.items():
            here = None if present is None else present.get(name)
            known = x if here is None else x[here]
            if gaps := bool(known.isnan().any()):
                mean = known.nanmean(0).nan_to_num()
                std = (known - mean).square().nanmean(0).nan_to_num().sqrt()
            else:
                mean, std = known.mean(0), known.std(0, correction=0)
            moments = torch.stack([mean, torch.where(std > 0, std, 1.0)])
            number = self.blocks.index(name)
            self.register_buffer(f"moments_{number}", moments)
            unit = (x - mean) / moments[1]
            self.register_buffer(f"inputs_{number}", unit.nan_to_num() if gaps else unit)
            if here is not None:
                self.register_buffer(f"present_{number}", here)

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        """Rows are as many as were kept."""
        self._forget()
        for key, value in state.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name.startswith(KEPT):
                self.register_buffer(name, torch.empty_like(value, device=self.latents.device))
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, blocks: Mapping[str, Tensor]) -> CorrelatedNormal:
        """q(z|x_S): batch shape (rows,), event shape (latent,).

        Args:
            blocks: rows of what is observed, (rows, columns) each.
        """
        key = tuple(sorted(blocks))
        at = self._rows_with(key)
        if key not in self._solved:
            kept = {name: self._kept("inputs", name)[at].double() for name in key}
            if self.components == "above-noise":
                self._axes[key] = axes_above_noise(_columns(kept))
            kernel = self._kernel(kept, at)
            z, scale = self.latents[at].double().unbind(1)
            self._solved[key] = kernel_regression(kernel, z, scale.square())
        rows = {}
        for name in key:
            mean, std = self._kept("moments", name)
            rows[name] = ((blocks[name] - mean) / std).nan_to_num()
        loc, scale = self._solved[key].predict(self._kernel(rows, at))
        factor = self._solved[key].factor
        dtype = self.latents.dtype
        return CorrelatedNormal(loc.to(dtype), scale.to(dtype), factor.to(dtype))

    def _forget(self) -> None:
        self._solved.clear()
        self._axes.clear()

    def _kept(self, what: str, block: str) -> Tensor:
        kept: Tensor = getattr(self, f"{what}_{self.blocks.index(block)}")
        return kept

    def _rows_with(self, blocks: Sequence[str]) -> Any:
        """Those of the rows kept that have all blocks."""
        numbers = [self.blocks.index(name) for name in blocks]
        masks = [getattr(self, f"present_{i}") for i in numbers if hasattr(self, f"present_{i}")]
        if not masks:
            return slice(None)
        here = torch.stack(masks).all(0)
        if here.sum() < MIN_ROWS:
            msg = (
                f"{int(here.sum())} of the training rows have {' and '.join(blocks)} together: a "
                f"kernel regression needs {MIN_ROWS}; choose another subset rule"
            )
            raise UsageError(msg)
        return here

    def _kernel(self, rows: Mapping[str, Tensor], at: Any) -> Tensor:
        """Of given rows with those that were kept, in float64."""
        pairs = {n: (x.double(), self._kept("inputs", n)[at].double()) for n, x in rows.items()}
        total, columns = torch.zeros((), device=self.latents.device, dtype=torch.float64), 0.0
        if (axes := self._axes.get(tuple(sorted(rows)))) is not None:
            new, kept = (_columns({n: of[i] for n, of in pairs.items()}) @ axes for i in (0, 1))
            pairs = {n: of for n, of in pairs.items() if n.startswith(COVARIATE)}
            total, columns = (
                torch.cdist(new, kept).square(),
                kept.square().sum().item() / len(kept),
            )
        for new, kept in pairs.values():
            total, columns = total + torch.cdist(new, kept).square(), columns + kept.shape[1]
        return (-self.width * total / columns).exp()


def _columns(blocks: Mapping[str, Tensor]) -> Tensor:
    """Columns of all blocks but covariates side by side, the blocks by their names."""
    return torch.cat([blocks[n] for n in sorted(blocks) if not n.startswith(COVARIATE)], 1)


def axes_above_noise(x: Tensor) -> Tensor:
    """Principal axes (columns, kept) whose variance is more than noise of variance 1 has.

    The largest variance of noise is (1 + sqrt(columns / rows))^2, where both are many. All axes
    are kept where none has more.

    Examples:
        >>> line = torch.linspace(-1, 1, 50)[:, None] * torch.ones(6)
        >>> axes_above_noise(1.7 * line).shape
        torch.Size([6, 1])
    """
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    kept = values > (1 + math.sqrt(x.shape[1] / len(x))) ** 2
    return vectors[:, kept] if kept.any() else vectors


def _features(system: Experts, observed: Observed) -> dict[str, Tensor]:
    """What posteriors see, as vectors, with NaN for a value that is absent; covariates too."""
    blocks = {}
    for modality in system.modalities:
        if (x := observed.x.get(modality.name)) is not None:
            x = observed.encodable(modality.name)
            seen = system.condition(modality.name, x)
            if seen is x:
                seen = modality.likelihood_part.flat(modality.shape)(x)
            blocks[modality.name] = seen.float().flatten(1)
    covariates = observed.covariates or {}
    return blocks | {f"{COVARIATE}{n}": c.float().flatten(1) for n, c in covariates.items()}
