"""Of all tests: the same random numbers each time; estimators fitted once for all examples."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_each_time() -> None:
    """Global generators and threads do not depend on the tests before, nor on the moment."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two threads on a busy machine are many times slower than one


@pytest.fixture(scope="session")
def example() -> dict[str, Any]:
    """The model and the rows of the example of `Estimator`, and names that examples use."""
    from mvflow import JNF, JNFShared, Modality, load
    from mvflow.runs import RunDirectory

    rng = np.random.default_rng(0)
    rows = {"a": rng.normal(size=(64, 3)), "b": rng.normal(size=(64, 2))}
    specs, short = [Modality("a", (3,)), Modality("b", (2,))], {"epochs": 1}
    few = {"rows": 8, "prior_draws": 8, "importance_rows": 4, "importance_draws": 8}
    settings = {"joint": short, "flows": short, "evaluation": {**few, "sampler_rows": 2}}
    model = JNF(specs, latent_dim=2, **settings).fit(rows, seed=0)
    settings["projectors"] = {**short, "batch_size": 16}
    shared = JNFShared(specs, latent_dim=2, projector={"dim": 2}, **settings).fit(rows, seed=0)
    x = {name: values[:4] for name, values in rows.items()}
    named = {"rows": rows, "specs": specs, "short": short, "model": model, "shared": shared}
    classes = {"JNF": JNF, "Modality": Modality, "RunDirectory": RunDirectory, "load": load}
    return {**named, **classes, "x": x}


@pytest.fixture(autouse=True)
def _named_in_examples(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, Any], tmp_path_factory: Any
) -> None:
    """Give examples of estimators these names, and an empty `folder`."""
    node = request.node
    if isinstance(node, pytest.DoctestItem) and Path(node.path).parent.name == "estimators":
        folder = tmp_path_factory.mktemp("example")
        doctest_namespace.update(request.getfixturevalue("example"), folder=folder)
