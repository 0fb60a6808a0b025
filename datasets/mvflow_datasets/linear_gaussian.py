"""A linear-Gaussian model of any number of modalities, all of whose posteriors are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Batch, DataError, Modality, UsageError, generator, subset_of
from mvflow_datasets.builders import Builder, Content, Parameter
from mvflow_datasets.store import Store
from mvflow_datasets.writing import SplitData

__all__ = ["BUILDER", "Gaussian", "LinearGaussian"]

NAME = "linear-gaussian"
Floats = NDArray[np.float64]


class Gaussian(NamedTuple):
    """N(mean, covariance) of each row; all rows have the same covariance."""

    mean: Floats
    """(rows, size)."""
    covariance: Floats
    """(size, size)."""

    def log_prob(self, x: ArrayLike) -> Floats:
        """Log density in nats, (rows,), of x (rows, size).

        Examples:
            >>> Gaussian(np.zeros((1, 1)), np.eye(1)).log_prob([[0.0]]).round(3)
            array([-0.919])
        """
        factor = np.linalg.cholesky(self.covariance)
        white = np.linalg.solve(factor, (np.asarray(x, np.float64) - self.mean).T)
        constant = 2 * np.log(np.diag(factor)).sum() + len(factor) * np.log(2 * np.pi)
        return np.asarray(-0.5 * ((white * white).sum(0) + constant))

    def kl(self, other: Gaussian) -> Floats:
        """KL(self || other) in nats, (rows,).

        Examples:
            >>> a, b = (Gaussian(np.full((1, 2), m), np.eye(2)) for m in (0.0, 1.0))
            >>> a.kl(b)
            array([1.])
        """
        factor = np.linalg.cholesky(other.covariance)
        white = np.linalg.solve(factor, (self.mean - other.mean).T)
        inner = np.linalg.solve(factor, np.linalg.solve(factor, self.covariance).T)
        log_ratio = 2 * np.log(np.diag(factor)).sum() - np.linalg.slogdet(self.covariance)[1]
        return np.asarray(
            0.5 * (np.trace(inner) - len(factor) + (white * white).sum(0) + log_ratio)
        )


@dataclass(frozen=True, slots=True, eq=False)
class LinearGaussian:
    r"""z ~ N(0, I), x_j = W_j z + b_j + s_j noise: the model, and everything that follows from it.

    The posterior p(z|x_S) is N(m, C) with C^-1 = I + sum_j W_j^T W_j / s_j^2 and
    m = C sum_j W_j^T (x_j - b_j) / s_j^2 for every subset S, the empty one included.

    Args:
        loadings: name -> W_j, (size, latent).
        offsets: name -> b_j, (size,).
        noise: name -> s_j.

    Examples:
        >>> exact = LinearGaussian.drawn(modalities=3, latent=2, seed=0)
        >>> z, x = exact.sample(5, np.random.default_rng(0))
        >>> exact.posterior({"m0": x["m0"], "m2": x["m2"]}).mean.shape
        (5, 2)
    """

    loadings: Mapping[str, Floats]
    offsets: Mapping[str, Floats]
    noise: Mapping[str, float]

    @classmethod
    def drawn(cls, *, modalities: int, latent: int, seed: int) -> Self:
        """The model that the builder draws from a seed.

        Modality j has latent + 1 + j values and noise 0.8 + 0.1 j. The columns of W_j are
        orthogonal, and the first latents matter most: so every posterior is a diagonal Gaussian,
        which the simplest model can learn, and a joint VAE finds the latents up to their signs.
        """
        rng = generator(seed, NAME, "model")
        strength = np.geomspace(1.4, 0.7, latent)
        loadings, offsets, noise = {}, {}, {}
        for j in range(modalities):
            name, size = f"m{j}", latent + 1 + j
            orthogonal = np.linalg.qr(rng.normal(size=(size, latent)))[0]
            loadings[name] = orthogonal * strength * rng.uniform(0.85, 1.15, size=latent)
            offsets[name] = rng.normal(size=size)
            noise[name] = round(0.8 + 0.1 * j, 10)
        return cls(loadings, offsets, noise)

    @classmethod
    def of_store(cls, store: Store) -> Self:
        """The model that a store's rows were drawn from, by the builder's seed and parameters.

        Raises:
            DataError: if another builder made the store.
        """
        if store.builder.get("name") != NAME:
            msg = f"store {store.path} was made by {store.builder.get('name')!r}, not by {NAME!r}"
            raise DataError(msg)
        chosen, seed = store.builder["parameters"], store.builder["seed"]
        return cls.drawn(modalities=chosen["modalities"], latent=chosen["latent"], seed=seed)

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        return next(iter(self.loadings.values())).shape[1]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications; all weights are 1, so that the ELBO bounds log p(X) itself."""
        return tuple(
            Modality(name, (len(w),), {"kind": "normal", "scale": self.noise[name]}, weight=1.0)
            for name, w in self.loadings.items()
        )

    def sample(self, rows: int, rng: np.random.Generator) -> tuple[Floats, dict[str, Floats]]:
        """Draws of z (rows, latent) and of all modalities."""
        z = rng.normal(size=(rows, self.latent_dim))
        return z, self.decode(z, rng)

    def decode(self, z: ArrayLike, rng: np.random.Generator) -> dict[str, Floats]:
        """Draws of all modalities from p(X|z)."""
        values = np.asarray(z, np.float64)
        return {
            name: values @ w.T
            + self.offsets[name]
            + self.noise[name] * rng.normal(size=(len(values), len(w)))
            for name, w in self.loadings.items()
        }

    def posterior(self, x: Batch) -> Gaussian:
        """p(z|x_S) of the modalities in `x`; of none, the prior for one row."""
        precision, weighted = np.eye(self.latent_dim), np.zeros((1, self.latent_dim))
        for name in subset_of(x, self.modalities):
            gain = self.loadings[name].T / self.noise[name] ** 2
            precision = precision + gain @ self.loadings[name]
            weighted = weighted + (np.asarray(x[name], np.float64) - self.offsets[name]) @ gain.T
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        return Gaussian(weighted @ covariance, covariance)

    def product(self, x: Batch, divisions: int | None = None) -> Gaussian:
        """Product of the exact p(z|x_j), divided by the prior `divisions` times (Eq. 12).

        Args:
            x: one modality or more.
            divisions: by default |S| - 1, which gives `posterior` exactly.
        """
        experts = [self.posterior({name: x[name]}) for name in subset_of(x, self.modalities)]
        times = len(experts) - 1 if divisions is None else divisions
        precisions = [np.linalg.inv(expert.covariance) for expert in experts]
        precision = sum(precisions) - times * np.eye(self.latent_dim)
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        weighted = sum(e.mean @ p for e, p in zip(experts, precisions, strict=True))
        return Gaussian(weighted @ covariance, covariance)

    def predictive(self, targets: Sequence[str], given: Batch) -> Gaussian:
        """p(x_T | x_S), the targets side by side in the order given.

        Raises:
            UsageError: if a target is unknown or named twice.
        """
        subset_of(targets, self.modalities)
        z = self.posterior(given)
        w = np.concatenate([self.loadings[name] for name in targets])
        offset = np.concatenate([self.offsets[name] for name in targets])
        noise = np.concatenate(
            [np.full(len(self.loadings[name]), self.noise[name] ** 2) for name in targets]
        )
        return Gaussian(z.mean @ w.T + offset, w @ z.covariance @ w.T + np.diag(noise))

    def log_likelihood(self, x: Batch, given: Batch | None = None) -> Floats:
        """Log p(x), or log p(x | given), of each row in nats, (rows,).

        Raises:
            UsageError: if there is nothing to score, or a modality is both given and scored.
        """
        names, seen = list(x), given or {}
        if not names or set(names) & set(seen):
            msg = f"scored are {names}, given {list(seen)}: name one to score that is not given"
            raise UsageError(msg)
        return self.predictive(names, seen).log_prob(np.concatenate([x[n] for n in names], 1))


def _split(exact: LinearGaussian, rows: int, rng: np.random.Generator) -> SplitData:
    z, x = exact.sample(rows, rng)
    return SplitData(
        arrays={name: values.astype(np.float32) for name, values in x.items()},
        factors={f"z{k}": z[:, k].astype(np.float32) for k in range(exact.latent_dim)},
    )


def _make(
    files: Mapping[str, Path],
    seed: int,
    *,
    modalities: int,
    latent: int,
    rows: int,
    test_rows: int,
) -> Content:
    exact = LinearGaussian.drawn(modalities=modalities, latent=latent, seed=seed)
    return Content(
        modalities=exact.modalities,
        splits={
            split: _split(exact, n, generator(seed, NAME, split))
            for split, n in (("train", rows), ("test", test_rows))
        },
    )


BUILDER = Builder(
    name=NAME,
    summary="linear maps of shared Gaussian latents plus noise; every posterior is known",
    make=_make,
    parameters=(
        Parameter("modalities", 3, "how many modalities"),
        Parameter("latent", 2, "dimension of the latents"),
        Parameter("rows", 20_000, "rows for training"),
        Parameter("test_rows", 2_000, "rows for testing"),
    ),
    about=(
        "Each modality is a linear map of latents that all share, plus noise of its own. Every "
        "posterior and likelihood has a closed form, by which estimates are judged."
    ),
    licence="drawn by mvflow (Apache-2.0)",
)
