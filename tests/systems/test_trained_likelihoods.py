"""Systems trained on a model whose likelihoods are known come near them."""

import numpy as np
import pytest

from mvflow.config import config_from_dict
from mvflow.estimators import estimator_class
from mvflow_datasets.linear_gaussian import LinearGaussian

LINEAR = {"kind": "mlp", "hidden": []}
STAGE = {"epochs": 8, "steps_per_epoch": 50, "learning_rate": 5e-2, "schedule": "one-cycle"}
CASES = {
    "jmvae": {"joint": {**STAGE, "merge": [], "warmup": 0.25}},
    "telbo": {"joint": {**STAGE, "merge": []}, "experts": STAGE},
    "mvtcae": {"joint": {**STAGE, "alpha": 0.0}},
    "mopoe": {"joint": STAGE},
    "mmvae": {"joint": {**STAGE, "samples": 3}, "family": "normal", "scales": "free"},
}
GAPS = {"jmvae": 0.26, "telbo": 0.26, "mvtcae": 0.26, "mopoe": 1.0, "mmvae": 1.0}
"""Nats; mixtures cannot reach the bound (Daunhawer et al. 2022)."""


@pytest.mark.slow
@pytest.mark.parametrize("system", CASES)
def test_a_trained_one_is_near_the_exact_likelihoods(system):
    known = LinearGaussian.drawn(modalities=3, latent=2, seed=0)
    rng = np.random.default_rng(1)
    rows, test = (
        {n: v.astype(np.float32) for n, v in known.sample(count, rng)[1].items()}
        for count in (6000, 200)
    )
    modalities = {
        m.name: {
            "shape": m.shape,
            "likelihood": m.likelihood,
            "weight": 1.0,
            "encoder": LINEAR,
            "decoder": LINEAR,
        }
        for m in known.modalities
    }
    raw = {"system": system, "latent_dim": 2, "modalities": modalities, **CASES[system]}
    estimator = estimator_class(system).from_config(config_from_dict(raw)).fit(rows)
    gap = known.log_likelihood(test) - estimator.log_likelihood(test, n=300)
    assert -0.05 < gap.mean() < GAPS[system]
    given, rest = {"m0": test["m0"]}, {"m2": test["m2"]}
    gap = known.log_likelihood(rest, given) - estimator.log_likelihood(rest, given=given, n=300)
    assert -0.05 < gap.mean() < GAPS[system]
