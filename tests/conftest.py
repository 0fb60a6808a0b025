"""Fixtures of all tests: the array libraries for formulas, and models with known answers."""

import dataclasses
import sys
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from scipy import stats
from torch import nn

from mvflow import JNF, JNFShared
from mvflow.config import Classifiers, Training
from mvflow.core import LatentSpace, Modality, parts, registry
from mvflow.posteriors import FlowPosterior
from mvflow.runs import Plan, StageRecord
from mvflow.systems import JointVAE, jnf, stages_of
from mvflow.systems.decoders import Decoders

# The same examples each time, however slow the machine is: times belong in benchmarks.
# `--hypothesis-profile search` looks for others, by chance.
common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("search", **common)
settings.register_profile("mvflow", derandomize=True, **common)
settings.load_profile("mvflow")
torch.set_num_threads(1)  # of fixtures, before the first test

registries = import_module("mvflow.core.registry")  # the package has a function of this name

BACKENDS = ["array_api_compat.numpy", "array_api_compat.torch", "array_api_strict"]
try:
    import jax
except ImportError:
    pass
else:
    jax.config.update("jax_enable_x64", True)
    BACKENDS.append("jax.numpy")


@pytest.fixture(scope="session", params=BACKENDS, ids=lambda name: name.split(".")[-1])
def xp(request):
    """Array API namespace; `xp.asarray(a)` brings a NumPy array there, `np.asarray` back."""
    return import_module(request.param)


class LinearGaussian:
    """z ~ N(0, I), x_j = A_j z + b_j + s_j noise, the columns of A_j orthogonal.

    So every posterior p(z|x_S) is a diagonal Gaussian, and a JNF of linear layers holds the exact
    q(z|X) and the exact q(z|x_j). Everything else follows in closed form, in NumPy.
    """

    def __init__(self, modalities=2, latent=2, seed=0):
        rng = np.random.default_rng(seed)
        self.latent = latent
        self.names = [f"m{j}" for j in range(modalities)]
        self.dims = {name: 3 + j for j, name in enumerate(self.names)}
        self.scale = {name: 0.8 + 0.1 * j for j, name in enumerate(self.names)}
        self.a, self.b = {}, {}
        for name, dim in self.dims.items():
            orthogonal = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :latent]
            self.a[name] = orthogonal * rng.uniform(0.5, 1.2, size=latent)
            self.b[name] = rng.normal(size=dim)
        self.specs = [
            Modality(n, (d,), {"kind": "normal", "scale": self.scale[n]})
            for n, d in self.dims.items()
        ]

    def sample(self, rows, seed=1):
        """Rows of all modalities, in float64."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(rows, self.latent))
        return {
            n: z @ self.a[n].T + self.b[n] + self.scale[n] * rng.normal(size=(rows, d))
            for n, d in self.dims.items()
        }

    def precision(self, names):
        """Diagonal of the precision of p(z|x_S)."""
        return 1 + sum((self.a[n] ** 2).sum(0) / self.scale[n] ** 2 for n in names)

    def posterior(self, x):
        """Mean (rows, latent) and standard deviation (latent,) of p(z|x_S)."""
        precision = self.precision(x)
        weighted = sum((x[n] - self.b[n]) @ self.a[n] / self.scale[n] ** 2 for n in x)
        return weighted / precision, precision**-0.5

    def log_evidence(self, x):
        """log p(x_S) of each row."""
        names = list(x)
        a = np.concatenate([self.a[n] for n in names])
        noise = np.concatenate([np.full(self.dims[n], self.scale[n] ** 2) for n in names])
        centred = np.concatenate([x[n] - self.b[n] for n in names], 1)
        density = stats.multivariate_normal(cov=a @ a.T + np.diag(noise))
        return np.atleast_1d(density.logpdf(centred))

    def _encoder(self, names, shares):
        """For each name a linear layer; their sum is the mean and the log-scale of p(z|x_S)."""
        precision = self.precision(names)
        log_scale = 7 * np.arctanh(-0.5 * np.log(precision) / 7)  # models bound it by 7 tanh(./7)
        layers = {}
        for name in names:
            weight = (self.a[name] / self.scale[name] ** 2 / precision).T
            bias = np.concatenate([-weight @ self.b[name], log_scale / shares])
            layers[name] = linear_layer(np.concatenate([weight, 0 * weight]), bias)
        return layers

    def system(self, dtype=torch.float64, **settings):
        """The exact JNF."""
        width = 2 * self.latent
        networks = {n: linear_layer(self.a[n], self.b[n]) for n in self.names}
        joint = JointVAE(
            self.specs,
            self._encoder(self.names, len(self.names)),
            Decoders(self.specs, networks, LatentSpace.flat(self.latent)),
            self.latent,
            merge=(),
        )
        (merge,) = joint.merge
        set_linear(merge, np.tile(np.eye(width), len(self.names)), np.zeros(width))
        flows = {n: FlowPosterior(self._encoder([n], 1)[n], self.latent) for n in self.names}
        config = JNF(self.specs, self.latent, **settings).config
        system = jnf.JNF(config, joint, flows)
        system.fitted_prior = None
        return system.to(dtype).eval().requires_grad_(False)

    def estimator(self, **settings):
        """The estimator around it, as if it had been trained."""
        made = JNF(self.specs, self.latent, **settings)
        made.system_ = self.system(torch.float32, **settings)
        made.plan_ = Plan(made.config, stages_of(made.system_))
        made.records_ = {name: StageRecord("", "") for name in made.plan_.names}
        return made


def set_linear(layer, weight, bias):
    layer.weight.data = torch.from_numpy(np.array(weight))
    layer.bias.data = torch.from_numpy(np.array(bias))
    return layer


def linear_layer(weight, bias):
    return set_linear(nn.Linear(*np.shape(weight)[::-1]), weight, bias)


@pytest.fixture(scope="session")
def linear_gaussian():
    """`LinearGaussian`: makes models whose densities are known."""
    return LinearGaussian


def small_data(count, rows=160, seed=0):
    """Rows of two classes seen in every modality, dict of arrays, and the class of each row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows)
    data = {}
    for j in range(count):
        towards = np.random.default_rng(100 + j).normal(size=2 + j)
        x = (4 * labels - 2)[:, None] * towards + 0.5 * rng.normal(size=(rows, 2 + j))
        data[f"m{j}"] = x.astype(np.float32)
    return data, labels


TRAIN = {"epochs": 3, "batch_size": 32, "learning_rate": 1e-2}

AMORTISED = {
    "kind": "amortised",
    "posterior": {"kind": "conditional-maf", "hidden": [8], "context": 2},
    "summary_hidden": [8],
    "embedding": 4,
}
"""A subset rule for `small.estimator` that is trained in about a second."""


def _is_stage(annotation):
    is_training = isinstance(annotation, type) and issubclass(annotation, Training)
    return is_training and annotation is not Classifiers


def _quick(section):
    widths = {name: [8] for name in ("merge", "summary_hidden") if name in section.model_fields}
    return TRAIN | widths


def small_estimator(kind, count, **changes):
    """An untrained estimator of `count` modalities that trains in about a second."""
    fields = registry("systems").load(kind.system).Settings.model_fields
    sections = {
        **{name: _quick(f.annotation) for name, f in fields.items() if _is_stage(f.annotation)},
        "posterior": {"kind": "maf", "hidden": [8]},
        "projector": {"kind": "contrastive", "dim": 2} if kind is JNFShared else "none",
        "sampler": {
            **{"kind": "hmc", "warmup": 8, "draws": 4},
            **{"chains": 2, "candidates": 8, "num_steps": 3},
        },
        "evaluation": {
            "rows": 30,
            "product_rows": 10,
            "prior_draws": 50,
            "importance_rows": 6,
            "importance_draws": 20,
            "sampler_rows": 5,
        },
    }
    sections = {name: value for name, value in sections.items() if name in fields}
    modalities = [Modality(f"m{j}", (2 + j,)) for j in range(count)]
    networks = {m.name: {"encoder": {"kind": "mlp", "hidden": [8]}} for m in modalities}
    return kind(modalities, 2, **(sections | {"networks": networks} | changes))


@pytest.fixture(scope="session")
def small():
    """`small.data` and `small.estimator`: data and models for tests of what is built on them."""
    return SimpleNamespace(data=small_data, estimator=small_estimator, amortised=AMORTISED)


@pytest.fixture(scope="session")
def fitted():
    """Trained estimators by class and number of modalities, each trained once a session."""

    @cache
    def get(kind, count):
        return small_estimator(kind, count).fit(small_data(count)[0], seed=0)

    return get


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: install("name", module code, group={"kind": "module:object"})."""
    before = set(sys.modules)

    def call(name, code, **groups):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(code, "utf-8")
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, kinds in groups.items()
            for line in (f"[mvflow.{group}]", *(f"{k} = {v}" for k, v in kinds.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines), "utf-8")
        fresh = {group: dataclasses.replace(each) for group, each in registries.REGISTRIES.items()}
        monkeypatch.setattr(registries, "REGISTRIES", fresh)
        parts._created.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registries, "_TRUSTED", set())
    yield call
    parts._created.cache_clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]
