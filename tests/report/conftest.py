"""Tiny trained models of two and of three modalities, as entries of a report."""

from dataclasses import replace

import numpy as np
import pytest

from mvflow import JNF, ArraySource, JNFShared, Modality
from mvflow.evaluation import ModalityClassifiers, evaluate
from mvflow.report import Entry
from mvflow.runs import RunDirectory

SETTINGS = {
    "joint": {"epochs": 3, "merge": [16]},
    "flows": {"epochs": 1, "summary_hidden": [8]},
    "posterior": {"kind": "maf", "hidden": [8]},
    "sampler": {
        "kind": "hmc",
        "chains": 2,
        "warmup": 1,
        "draws": 4,
        "candidates": 8,
        "num_steps": 1,
    },
    "classifiers": {"kind": "mlp", "epochs": 2},
    "evaluation": {
        "rows": 40,
        "product_rows": 10,
        "prior_draws": 30,
        "importance_rows": 4,
        "importance_draws": 8,
        "sampler_rows": 4,
    },
}
STORE = {"name": "tests", "note": "made <for> tests", "fingerprint": "abc", "builder": {}}


def source(names, rows=80, seed=0):
    """Labelled rows: small images, a curve and a category, brighter or higher with the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    arrays, specs = {}, []
    for name in names:
        if name == "kind":
            arrays[name] = labels
            specs.append(Modality(name, (2,), "categorical"))
        else:
            shape = (5,) if name == "curve" else (1, 6, 6)
            level = 0.7 * labels.reshape(-1, *(1 for _ in shape)) + 0.1
            arrays[name] = (level + 0.2 * rng.random((rows, *shape))).astype("float32")
            specs.append(Modality(name, shape))
    factors = {"square_width": rng.integers(10, 28, rows)}
    names = {0: "empty", 1: "full"}
    return ArraySource(arrays, specs, labels=labels, factors=factors, class_names=names)


def entry(name, model, path, train, test):
    """A trained and measured model."""
    run = RunDirectory.create(path / name, model.config)
    model.fit(train, run=run)
    classifiers = ModalityClassifiers.train(train, test, model.config.classifiers)
    metrics = evaluate(model, test, classifiers)
    made = Entry(name, model, test, run.history(), run.manifest(), STORE, metrics)
    return made, classifiers


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """JNF and JNF-Shared of two image modalities with a latent space of two dimensions."""
    names, path = ("square", "circle"), tmp_path_factory.mktemp("two")
    train, test = source(names), source(names, 60, 1)
    models = {
        "plain": JNF(train.modalities, 2, **{**SETTINGS, "posterior": "gaussian"}),
        "shared": JNFShared(
            train.modalities,
            2,
            projector={"kind": "contrastive", "dim": 4},
            projectors={"epochs": 1},
            **SETTINGS,
        ),
    }
    made = [entry(name, model, path, train, test) for name, model in models.items()]
    return [e for e, _ in made], made[0][1]


@pytest.fixture(scope="session")
def three(tmp_path_factory):
    """JNF of an image, a curve and a category, with three latent dimensions."""
    names, path = ("photo", "curve", "kind"), tmp_path_factory.mktemp("three")
    train, test = source(names), source(names, 60, 1)
    made, classifiers = entry("three", JNF(train.modalities, 3, **SETTINGS), path, train, test)
    return [made], classifiers


@pytest.fixture
def bare(two):
    """A model without metrics, history, labels or anything known of its data."""
    known = two[0][0]
    test = ArraySource(known.test.take(np.arange(20)), known.test.modalities)
    return replace(known, name="bare", test=test, history=[], manifest={}, store={}, metrics=None)
