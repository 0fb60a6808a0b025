"""What a configuration leaves out means tomorrow what it means today."""

import pytest

from mvflow.config import config_from_dict
from mvflow.core import ConfigError
from mvflow.systems import build_system

TRAINING = {
    "epochs": 10,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "precision": "float32",
    "keep_best": False,
}
BETA = TRAINING | {"beta": 1.0, "anneal": 0.5}
JOINT = BETA | {"merge": [512, 512], "independence": 0.0, "start": "random"}
JNF = {
    "joint": JOINT,
    "posterior": {"kind": "maf", "transforms": 2, "hidden": [128, 128]},
    "flows": TRAINING | {"summary_hidden": [512, 512]},
    "subset": {"kind": "product", "divisor": "aggregate"},
}
CONTRASTIVE = {"kind": "contrastive", "dim": 10, "dropout": 0.0, "temperature": 0.1}
DEFAULTS = {
    "jnf": JNF | {"projector": {"kind": "none"}},
    "jnf-shared": JNF | {"projectors": TRAINING, "projector": CONTRASTIVE},
    "jmvae": {
        "joint": TRAINING | {"beta": 1.0, "alpha": 0.1, "warmup": 0.5, "merge": [512, 512]},
        "subset": {"kind": "product", "divisor": "prior"},
    },
    "telbo": {
        "joint": JOINT,
        "experts": BETA,
        "subset": {"kind": "product", "divisor": "prior"},
    },
    "mvae": {"joint": BETA | {"random_subsets": 1}},
    "mmvae": {
        "joint": BETA | {"samples": 10, "gradient": "dreg"},
        "family": "laplace",
        "scales": "normalised",
    },
    "mmvae-plus": {"joint": BETA | {"samples": 10}, "family": "laplace"},
    "mopoe": {"joint": BETA | {"subsets": "all"}},
    "mvtcae": {"joint": BETA | {"alpha": 0.9}},
    "crmvae": {"joint": BETA},
    "nexus": {
        "joint": BETA | {"warmup": 0.2, "dropout": 0.2},
        "private_dim": 64,
        "message_dim": 512,
        "hidden": [512, 512],
    },
}


@pytest.mark.parametrize("system", DEFAULTS)
def test_a_setting_that_is_left_out_keeps_its_value(system):
    modalities = {"a": {"shape": [3]}, "b": {"shape": [4]}}
    raw = {"system": system, "latent_dim": 2, "modalities": modalities}
    settings = config_from_dict(raw).to_dict()
    for name, expected in DEFAULTS[system].items():
        value = settings[name]
        assert (
            {k: value[k] for k in expected} == expected
            if isinstance(expected, dict)
            else (value == expected)
        ), name


@pytest.mark.bad_input
@pytest.mark.parametrize("library", ["batch", "nothing"])
def test_the_size_of_a_row_is_a_covariate_that_is_a_number(library):
    counts = {"kind": "negative-binomial", "library": library}
    raw = {
        "system": "mvae",
        "latent_dim": 2,
        "modalities": {"rna": {"shape": [3], "likelihood": counts}},
        "covariates": {"batch": {"levels": ["A", "B"]}, "depth": {"mean": 7.0, "scale": 2.0}},
    }
    with pytest.raises(ConfigError, match=f"library='{library}'.* such covariates are depth;"):
        build_system(config_from_dict(raw))
    counts["library"] = "depth"
    build_system(config_from_dict(raw))
