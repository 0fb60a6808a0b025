"""Stages of all systems can be stacked, and give alone what they give stacked."""

import numpy as np
import pytest
import torch
from torch.distributions import normal

from mvflow.config import config_from_dict
from mvflow.core import ArraySource
from mvflow.stacking import Variant, run_stack
from mvflow.systems import build_system, stages_of
from mvflow.training import NoOpCallback, Table, build_stage, run_stage

TRAIN = {"epochs": 2, "batch_size": 16, "steps_per_epoch": 2}
MLP, CONV = {"kind": "mlp", "hidden": [8]}, {"kind": "conv", "channels": [4]}
LAYERS = {"kind": "layers", "layers": [{"channels": 4}], "hidden": [8], "norm": "batch"}
IMAGE = {"shape": [1, 8, 8], "likelihood": "laplace"}
ROW = {"shape": [3], "encoder": MLP, "decoder": MLP, "projector": MLP}
CONV_IMAGE = {**IMAGE, "encoder": CONV, "decoder": CONV, "projector": CONV}
JNF = {
    "system": "jnf",
    "modalities": {"a": CONV_IMAGE, "b": ROW},
    "joint": {**TRAIN, "merge": [8]},
    "flows": TRAIN,
    "posterior": {"kind": "maf", "transforms": 2, "hidden": [8]},
}
VAE = {"modalities": JNF["modalities"], "joint": TRAIN}
AMORTISED = {
    "kind": "amortised",
    "posterior": {"kind": "conditional-maf", "hidden": [8]},
    "embedding": 4,
    **TRAIN,
}
MATCHING = {"kind": "matching", "embedding": 4, "width": 8, "summary_hidden": [8], **TRAIN}
NOISY = {
    "joint": ("joint", JNF),
    "flows": ("flows", JNF),
    "subsets drawn": ("joint", {**VAE, "system": "mvae"}),
    "mixture": ("joint", {**VAE, "system": "mmvae-plus"}),
    "amortised": ("amortised", {**JNF, "subset": AMORTISED}),
    "matching": ("matching", {**JNF, "subset": MATCHING}),
}
SHARED = {**JNF, "system": "jnf-shared", "projectors": TRAIN}
CASES = {
    "joint": ("joint", {**JNF, "joint": {**JNF["joint"], "beta_start": 9.0, "clip": 1.0}}),
    "joint, bfloat16": ("joint", {**JNF, "joint": {**JNF["joint"], "precision": "bfloat16"}}),
    "flows": ("flows", JNF),
    "splines": ("flows", {**JNF, "posterior": {"kind": "nsf", "hidden": [8]}}),
    "coupling": ("flows", {**JNF, "posterior": {"kind": "coupling", "hidden": [8]}}),
    "contrastive": ("projectors", {**SHARED, "projector": {"kind": "contrastive", "dim": 2}}),
    "dcca": (
        "projectors",
        {
            **SHARED,
            "projectors": {**TRAIN, "batch_size": 20},
            "projector": {"kind": "dcca", "dim": 2},
        },
    ),
    "batch normalisation": (
        "joint",
        {**JNF, "modalities": {"a": {**CONV_IMAGE, "encoder": LAYERS}, "b": ROW}},
    ),
    "flows on projections": ("flows", {**SHARED, "projector": {"kind": "contrastive", "dim": 2}}),
}


@pytest.fixture
def noiseless(monkeypatch):
    """All draws are functions of their shape alone, so that they are equal however made."""

    def drawn(shape, *, dtype=torch.float32, device=None, **_):
        count = int(torch.Size(shape).numel())
        return torch.linspace(-1, 1, count, dtype=dtype, device=device).sin().view(shape)

    monkeypatch.setattr(torch, "randn_like", lambda x: drawn(x.shape, dtype=x.dtype))
    monkeypatch.setattr(normal, "_standard_normal", lambda s, dtype, device: drawn(s, dtype=dtype))


def source(config):
    rng, pairs = np.random.default_rng(0), {}
    arrays = {
        name: rng.integers(256, size=(40, *m.shape), dtype=np.uint8)
        if len(m.shape) == 3
        else rng.normal(size=(40, *m.shape)).astype(np.float32)
        for name, m in config.modalities.items()
    }
    pairs = {name: rng.integers(40, size=120) for name in arrays}
    return ArraySource(arrays, config.specifications(), pairs=pairs)


def stage(name, raw, seed):
    config = config_from_dict({"latent_dim": 2, **raw, "seed": seed})
    system = build_system(config).eval().requires_grad_(False)
    spec = next(s for s in stages_of(system) if s.name == name)
    spec.module.requires_grad_(True)
    rows = Table.of(source(config))
    held = rows.subset(np.arange(20 + seed, 60 + seed))
    return build_stage(spec, system, rows.subset(np.arange(60 + seed, 120)), held)


class Recorder(NoOpCallback):
    def __init__(self):
        self.records = []

    def on_epoch(self, record, checkpoint):
        self.records.append(record)


@pytest.mark.parametrize("case", CASES)
def test_a_stage_is_trained_as_alone_at_equal_noise(case, noiseless):
    """Float32 sums in another order: 1e-4; bfloat16 keeps eight bits."""
    tolerance = 3e-2 if "bfloat16" in case else 1e-4
    records = {seed: [] for seed in (0, 1, 2)}
    variants = [Variant(stage(*CASES[case], s), s, records[s].append) for s in records]
    run_stack(variants)
    for seed, found in records.items():
        recorder = Recorder()
        run_stage(stage(*CASES[case], seed), seed=seed, callback=recorder)
        for one, other in zip(found, recorder.records, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=tolerance)
            assert one.terms == pytest.approx(other.terms, rel=tolerance, abs=tolerance)
            assert one.validation == pytest.approx(other.validation, rel=tolerance, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("case", NOISY)
def test_what_draws_in_other_ways_learns_as_alone(case):
    """Validation losses differ by noise: less than four standard errors over the seeds."""
    name, raw = NOISY[case]
    long = {
        k: {**v, "steps_per_epoch": 3, "epochs": 8} if k == name else v for k, v in raw.items()
    }
    records = {seed: [] for seed in range(6)}
    run_stack([Variant(stage(name, long, s), s, records[s].append) for s in records])
    differences = []
    for seed, found in records.items():
        recorder = Recorder()
        run_stage(stage(name, long, seed), seed=seed, callback=recorder)
        ends = [each[-1].validation["loss"] for each in (found, recorder.records)]
        differences.append(ends[0] - ends[1])
    assert abs(np.mean(differences)) < 4 * np.std(differences, ddof=1) / len(records) ** 0.5
    assert min(map(abs, differences)) > 0  # the noise is another
