"""Bounds of several draws: what a step would take is known before it is tried."""

import re
import weakref

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mvflow import estimator_class
from mvflow.config import config_from_dict
from mvflow.core import ArraySource, Observed, StageError, registry
from mvflow.systems import build_system, sampling
from mvflow.training import Table

WIDE = {"kind": "mlp", "hidden": [256]}
SHAPES, ROWS = {"a": 60, "b": 30}, 8


def _has_samples(name):
    fields = registry("systems").load(name).Settings.model_fields
    return "samples" in fields["joint"].annotation.model_fields


SYSTEMS = [name for name in registry("systems").names() if _has_samples(name)]


def config(name, samples, **joint):
    modalities = {
        n: {"shape": [size], "encoder": WIDE, "decoder": WIDE} for n, size in SHAPES.items()
    }
    raw = {"system": name, "latent_dim": 2, "modalities": modalities}
    raw["data"] = {"validation": 0.0}
    return config_from_dict({**raw, "joint": {"samples": samples, **joint}})


def data():
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=(ROWS, size)).astype(np.float32) for n, size in SHAPES.items()}


def kept(name, samples):
    """Bytes that autograd keeps of a step."""
    system, storages = build_system(config(name, samples)), {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    (stage,) = [s for s in system.stages() if s.name == "joint"]
    x = {n: torch.from_numpy(v) for n, v in data().items()}
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = stage.loss(Observed(x), 1.0)
    assert losses
    return sum(storages.values())


def test_measuring_a_draw_leaves_nothing_alive():
    """A graph that lives on keeps its memory, and no step with its weights can be captured."""
    network, made = torch.nn.Linear(3, 3), []

    def compute(draws):
        out = torch.sigmoid(network(torch.ones(draws, 3)))  # which its own node keeps
        made.append(weakref.ref(out))
        return out

    # Input and output of 3 numbers each, and as much again for gradients.
    assert sampling.bytes_of_draw(compute) == 2 * (3 + 3) * 4
    assert len(made) == 2
    assert all(out() is None for out in made)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", SYSTEMS)
def test_draws_that_do_not_fit_are_refused_with_a_number_that_does(name, monkeypatch):
    monkeypatch.setattr(sampling, "available_memory", lambda: 2**24)

    def fit(samples):
        once = {"epochs": 1, "steps_per_epoch": 1, "batch_size": ROWS}
        model = estimator_class(name).from_config(config(name, samples, **once))
        stages = [s for s in model.stage_names if s in ("projectors", "joint")]
        return model.fit(data(), stages=stages)

    with pytest.raises(StageError) as refused:
        fit(10**12)
    message = str(refused.value)
    assert message.startswith("1,000,000,000,000 draws")
    assert "\n" not in message
    fit(int(re.search(r"joint\.samples up to (\d+)", message).group(1)))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_memory_of_a_draw_is_what_a_step_keeps_and_as_much_again(name):
    system = build_system(config(name, 10**9))
    (stage,) = [s for s in system.stages() if s.name == "joint"]
    rows = Table.of(ArraySource(data(), system.modalities))
    before = torch.get_rng_state()
    with pytest.raises(StageError, match="draws") as refused:
        stage.check(rows)
    assert torch.equal(before, torch.get_rng_state())
    assert system.joint.decoders.training
    said = int(re.search(r"about ([\d,]+) MiB", str(refused.value)).group(1).replace(",", ""))
    one = (kept(name, 42) - kept(name, 2)) / 40
    # more than that by an output of each decoder, less by what densities of z keep
    assert said * 2**20 / 10**9 == pytest.approx(2 * one, rel=0.25)
