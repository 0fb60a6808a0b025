"""What is trained in bfloat16 is as good as in float32; ways to compute a step are one result."""

import numpy as np
import pytest
import torch

from mvflow import JNF
from mvflow.config import config_from_dict, recipe
from mvflow.core import Observed, UsageError, as_source
from mvflow_datasets import Store, find_builder
from mvflow_datasets.toy import SHAPES, WIDTHS

SHORT = (
    *("joint.epochs=2", "joint.steps_per_epoch=150", "joint.anneal=0.0"),
    *("joint.schedule=constant", "joint.learning_rate=1e-3"),
    *("flows.epochs=2", "flows.steps_per_epoch=75", "flows.batch_size=128"),
    *("flows.schedule=constant", "flows.learning_rate=2e-3"),
)
SEED = 1


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "toy.h5"
    with Store.open(find_builder("toy").build(path, rows=4000, test_rows=400)) as store:
        yield store


def is_full(name, x):
    """Whether images (..., 1, 32, 32) are nearer to a full shape than to all empty ones."""
    shapes = [SHAPES[name](width, full=full) for full in (False, True) for width in WIDTHS]
    known = np.stack(shapes).reshape(len(shapes), -1) / 255
    flat = x.reshape(*x.shape[:-3], -1)
    return ((known**2).sum(-1) - 2 * flat @ known.T).argmin(-1) >= len(WIDTHS)


def quality(precision, toy):
    """ELBO of the test rows in nats, and the share of generated shapes of the right class."""
    raw = recipe("toy", SHORT)
    for stage in ("joint", "flows"):
        raw[stage]["precision"] = precision
    model = JNF.from_config(config_from_dict(raw)).fit(toy["train"], seed=SEED)
    test = toy["test"]
    x = test.take(range(len(test)))
    batch = {name: torch.from_numpy(values).float() / 255 for name, values in x.items()}
    torch.manual_seed(0)
    with torch.no_grad():
        elbos = [
            float(model.system_.joint.losses(Observed(batch)).terms["elbo"]) for _ in range(4)
        ]
    right = []
    for given, target in (("square", "circle"), ("circle", "square")):
        drawn = model.generate({given: x[given]}, 4, targets=[target])[target]
        right.append((is_full(target, drawn) == (test.labels == 1)).mean())
    return float(np.mean(elbos)), float(np.mean(right))


@pytest.mark.slow
def test_bfloat16_trains_as_well_as_float32(toy):
    """ELBO within 7 %, coherence within 0.08: four standard deviations of what was measured.

    Over seeds 0 to 7 of this training, bfloat16 less float32 was, in per cent of the ELBO, 2.0,
    0.3, -1.7, -0.6, -0.3, -0.5, 0.2, 3.9 (mean 0.4, deviation 1.7), and in coherence 0.040,
    0.014, -0.022, -0.004, 0.032, -0.007, 0.003, -0.006 (mean 0.006, deviation 0.020): no
    precision is the better one. Between seeds the ELBO goes from -603 to -422 nats.
    """
    (elbo, coherence), (lower_elbo, lower_coherence) = (
        quality(precision, toy) for precision in ("float32", "bfloat16")
    )
    assert coherence > 0.85  # or there is nothing to lose
    assert lower_elbo == pytest.approx(elbo, rel=0.07)
    assert lower_coherence == pytest.approx(coherence, abs=0.08)


@pytest.mark.parametrize("way", ["auto", "graph"])
def test_ways_to_compute_a_step_give_the_same_weights(way, small):
    data, _ = small.data(2)
    expected = small.estimator(JNF, 2).fit(data, seed=0, compile="no").system_.state_dict()
    found = small.estimator(JNF, 2).fit(data, seed=0, compile=way).system_.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.bad_input
def test_an_unknown_way_is_refused_before_anything_is_trained(small):
    model = small.estimator(JNF, 2)
    with pytest.raises(UsageError, match=r"way to compile 'troch': did you mean 'torch'\?"):
        model.fit(as_source(small.data(2)[0], model.modalities), compile="troch")
    assert model.trained_ == ()
