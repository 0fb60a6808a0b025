"""The loop: resuming to the bit, early stopping, broken numbers, seeds."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import Training
from mvflow.core import DataError, NumericsError, generator
from mvflow.nn import seeded
from mvflow.stages import Losses
from mvflow.training import NoOpCallback, Stage, Table, TensorColumn, loop, run_stage

ROWS = 48


def table(rows=ROWS, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=rng)
    columns = {"x": x, "y": x.sum(1, keepdim=True).sin(), "row": torch.arange(rows)}
    return Table({k: TensorColumn(v, None) for k, v in columns.items()}, rows)


def stage(settings, *, validation=True, train=None, spoil=None, spoil_held=None, seen=None):
    """A small network with dropout and batch normalisation, trained with further noise."""
    with seeded(0, "network"):
        module = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def loss(batch, progress):
        if seen is not None and module.training:
            seen.append((batch["row"].tolist(), progress))
        noise = 0.1 * torch.randn_like(batch["x"])
        total = error = (module(batch["x"] + noise) - batch["y"]).square().mean()
        change = spoil if module.training else spoil_held
        if change is not None:
            total = change(total, batch, progress)
        return Losses(total, {"double": 2 * error})

    held = table(16, seed=1) if validation else None
    return Stage("joint", module, loss, settings, table() if train is None else train, held)


class Recorder(NoOpCallback):
    def __init__(self):
        self.records, self.checkpoints, self.within = [], [], []

    def on_step(self, record, checkpoint):
        self.within.append(((record.epoch, record.step), checkpoint()))

    def on_epoch(self, record, checkpoint):
        self.records.append(record)
        self.checkpoints.append(checkpoint())


def train(settings, *, seed=0, resume=None, **options):
    made, recorder = stage(settings, **options), Recorder()
    run_stage(made, seed=seed, resume=resume, callback=recorder)
    return made.trainable.state_dict(), recorder


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


SETTINGS = {
    "plain": Training(epochs=5, batch_size=8),
    "scheduled": Training(
        epochs=5, batch_size=8, schedule="one-cycle", clip=0.5, learning_rate=0.05
    ),
    "patient": Training(epochs=8, batch_size=8, patience=2, learning_rate=0.1),
    "best": Training(epochs=6, batch_size=8, keep_best=True, weight_decay=0.5, learning_rate=0.1),
    "short": Training(epochs=5, batch_size=8, steps_per_epoch=2, schedule="cosine"),
    "bfloat16": Training(epochs=3, batch_size=8, precision="bfloat16"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_going_on_from_any_checkpoint_gives_the_same_weights_to_the_bit(settings):
    expected, whole = train(settings)
    for i, checkpoint in enumerate(whole.checkpoints):
        found, rest = train(settings, resume=checkpoint)
        assert_equal(found, expected)
        remaining = whole.records[i + 1 :]
        assert [r.loss for r in rest.records] == [r.loss for r in remaining]
        assert [r.validation for r in rest.records] == [r.validation for r in remaining]
        assert [r.learning_rate for r in rest.records] == [r.learning_rate for r in remaining]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_going_on_within_an_epoch_gives_the_same_weights_to_the_bit(settings, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_INTERVAL", -1.0)
    expected, whole = train(settings)
    per_epoch = settings.steps_per_epoch or ROWS // settings.batch_size
    assert len(whole.within) == per_epoch * len(whole.records)
    for (epoch, step), checkpoint in whole.within[:: per_epoch - 1]:
        found, rest = train(settings, resume=checkpoint)
        assert [at for at, _ in rest.within] == [
            at for at, _ in whole.within if at > (epoch, step)
        ]
        assert_equal(found, expected)
        for ours, theirs in zip(rest.records, whole.records[epoch:], strict=True):
            assert ours[:6] == theirs[:6]  # all but what was measured of the speed
            assert list(ours.terms) == list(theirs.terms)


def test_a_nan_after_going_on_within_an_epoch_is_named(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_INTERVAL", -1.0)
    seen, recorder = [], Recorder()
    made = stage(Training(epochs=5, batch_size=8), spoil=spoil_in_the_third_epoch, seen=seen)
    with pytest.raises(NumericsError) as whole:
        run_stage(made, callback=recorder)
    bad = next(i for i, (r, _) in enumerate(seen[12:18]) if BAD in r)
    assert bad > 0  # so that there is a step to go on from
    resume = dict(recorder.within)[(2, bad)]
    with pytest.raises(NumericsError) as rest:
        run_stage(made, resume=resume)
    said = str(whole.value).replace("last good epoch", "checkpoint resumed from")
    assert str(rest.value) == said
    found = made.trainable.state_dict()
    assert_equal(found, {k: resume.tensors[f"weights/{k}"] for k in found})


def test_the_seed_decides_and_the_global_state_stays():
    before = torch.get_rng_state()
    weights = [train(SETTINGS["plain"], seed=s)[0] for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(weights[0], weights[1])
    assert not torch.equal(weights[0]["0.weight"], weights[2]["0.weight"])


def test_the_callback_changes_nothing():
    made = stage(SETTINGS["plain"])
    run_stage(made)
    assert_equal(made.trainable.state_dict(), train(SETTINGS["plain"])[0])


def test_validation_does_not_disturb_training():
    with_validation = train(SETTINGS["plain"])[0]
    assert_equal(train(SETTINGS["plain"], validation=False)[0], with_validation)


@pytest.mark.parametrize("limit", [None, 1, 4, 1000])
def test_an_epoch_sees_each_row_at_most_once_and_has_the_steps_asked_for(limit):
    seen = []
    settings = Training(epochs=3, batch_size=10, steps_per_epoch=limit)
    train(settings, seen=seen)
    steps = min(limit or 4, 4)  # 48 rows hold 4 full batches of 10
    assert len(seen) == 3 * steps
    epochs = [sum((rows for rows, _ in seen[e * steps : (e + 1) * steps]), []) for e in range(3)]
    for rows in epochs:
        assert len(set(rows)) == len(rows) == 10 * steps
    assert epochs[0] != epochs[1]
    np.testing.assert_allclose(
        [p for _, p in seen], np.arange(3 * steps) / (3 * steps), atol=1e-12
    )


def test_a_batch_larger_than_the_data_takes_all_rows():
    seen = []
    train(Training(epochs=1, batch_size=1000), seen=seen)
    assert [sorted(rows) for rows, _ in seen] == [list(range(ROWS))]


def test_the_records_are_means_over_the_steps():
    _, recorder = train(Training(epochs=2, batch_size=8))
    for epoch, record in enumerate(recorder.records):
        assert (record.stage, record.epoch) == ("joint", epoch)
        assert record.terms["double"] == pytest.approx(2 * record.loss)
        assert record.validation.keys() == {"loss", "double"}
        assert record.samples_per_second > 0


def test_early_stopping_keeps_the_best_weights():
    settings = Training(epochs=40, batch_size=8, patience=3, learning_rate=0.1)
    weights, recorder = train(settings)
    losses = [r.validation["loss"] for r in recorder.records]
    best = int(np.argmin(losses))
    assert len(losses) < 40
    assert len(losses) == best + 1 + 3
    at_best = recorder.checkpoints[best].tensors
    assert_equal(weights, {k: at_best[f"weights/{k}"] for k in weights})


@pytest.mark.parametrize(("epochs", "early"), [(40, True), (2, False)])
def test_that_a_stage_ended_early_is_said_with_the_epoch_that_is_kept(caplog, epochs, early):
    settings = Training(epochs=epochs, batch_size=8, patience=3, learning_rate=0.1)
    with caplog.at_level(logging.INFO, "mvflow.training"):
        _, recorder = train(settings)
    losses = [r.validation["loss"] for r in recorder.records]
    said = [r.message for r in caplog.records if "ended early" in r.message]
    expected = (
        "joint: ended early, for the validation loss has not fallen for 3 epochs; kept are the "
        f"weights of epoch {np.argmin(losses) + 1} of 40, validation loss {min(losses):.4g}"
    )
    assert said == [expected] * early


def test_the_best_weights_are_kept_without_ending_early():
    settings = Training(epochs=12, batch_size=8, keep_best=True, learning_rate=0.3)
    weights, recorder = train(settings)
    losses = [r.validation["loss"] for r in recorder.records]
    best = int(np.argmin(losses))
    assert len(losses) == 12
    assert best < 11
    at_best = recorder.checkpoints[best].tensors
    assert_equal(weights, {k: at_best[f"weights/{k}"] for k in weights})


def test_weight_decay_shrinks_weights_apart_from_the_gradient():
    """Adam's step is what it is without decay, after weights are scaled by 1 - rate * decay."""
    rate, decay = 0.1, 0.3
    plain, _ = train(Training(epochs=1, steps_per_epoch=1, batch_size=8, learning_rate=rate))
    decayed, _ = train(
        Training(epochs=1, steps_per_epoch=1, batch_size=8, learning_rate=rate, weight_decay=decay)
    )
    initial = stage(Training()).trainable.state_dict()
    for name, parameter in stage(Training()).trainable.named_parameters():
        if parameter.requires_grad:
            expected = plain[name] - rate * decay * initial[name]
            torch.testing.assert_close(decayed[name], expected)  # float32 rounding


def test_without_patience_the_last_weights_stay():
    weights, recorder = train(SETTINGS["plain"])
    last = recorder.checkpoints[-1].tensors
    assert_equal(weights, {k: last[f"weights/{k}"] for k in weights})


def test_zero_epochs_leave_the_initial_weights_in_evaluation_mode():
    made = stage(Training(epochs=0))
    before = {k: v.clone() for k, v in made.trainable.state_dict().items()}
    run_stage(made)
    assert_equal(made.trainable.state_dict(), before)
    assert not made.trainable.training


BAD = 17


def spoil_in_the_third_epoch(total, batch, progress):
    hit = (batch["row"] == BAD).any() and progress >= 2 / 5
    return total * (math.nan if hit else 1.0)


def test_a_nan_names_epoch_step_and_rows_and_the_last_good_weights_stay():
    settings = Training(epochs=5, batch_size=8)
    seen, made = [], None
    made = stage(settings, spoil=spoil_in_the_third_epoch, seen=seen)
    recorder = Recorder()
    with pytest.raises(NumericsError) as caught:
        run_stage(made, callback=recorder)
    step, rows = next((i, r) for i, (r, p) in enumerate(seen[12:18]) if BAD in r)
    shown = ", ".join(map(str, rows))
    assert f"stage 'joint' is not finite at epoch 3, step {step + 1} " in str(caught.value)
    assert f"(training rows {shown})" in str(caught.value)
    assert "the weights are those of the last good epoch" in str(caught.value)
    assert len(recorder.records) == 2
    expected = recorder.checkpoints[-1].tensors
    found = made.trainable.state_dict()
    assert_equal(found, {k: expected[f"weights/{k}"] for k in found})


def test_a_nan_in_the_first_epoch_leaves_the_initial_weights():
    made = stage(Training(epochs=2, batch_size=8), spoil=lambda total, batch, p: total * math.inf)
    before = {k: v.clone() for k, v in made.trainable.state_dict().items()}
    with pytest.raises(NumericsError, match="at epoch 1, step 1 "):
        run_stage(made)
    assert_equal(made.trainable.state_dict(), before)


def test_a_nan_in_validation_stops_the_stage_and_the_last_good_weights_stay():
    """Row 13 of the 16 that are held out is in the second batch of 8, from the third epoch on."""
    recorder = Recorder()

    def spoil_held(total, batch, progress):
        return total * (math.nan if 13 in batch["row"] and len(recorder.records) == 2 else 1.0)

    made = stage(Training(epochs=5, batch_size=8, patience=2), spoil_held=spoil_held)
    with pytest.raises(NumericsError) as caught:
        run_stage(made, callback=recorder)
    assert (
        "the validation loss of stage 'joint' is not finite at epoch 3, step 2 (validation rows "
        "8, 9, 10, 11, 12, 13, 14, 15); the weights are those of the last good epoch"
    ) in str(caught.value)
    assert len(recorder.records) == 2
    expected = recorder.checkpoints[-1].tensors
    found = made.trainable.state_dict()
    assert_equal(found, {k: expected[f"weights/{k}"] for k in found})


def test_validation_is_that_of_the_end_of_the_stage_after_every_epoch():
    """With weights that stay, a loss with an annealed weight has one value in all epochs."""
    made = stage(
        Training(epochs=3, batch_size=8, learning_rate=1e-30),
        spoil_held=lambda total, batch, progress: total * (10.0 - progress),
    )
    made.trainable[1].momentum = 0.0  # so that running moments stay too
    recorder = Recorder()
    run_stage(made, callback=recorder)
    for record in recorder.records:
        assert record.validation == recorder.records[0].validation
        plain = record.validation["double"] / 2
        assert record.validation["loss"] == pytest.approx(9 * plain, rel=1e-6)  # float32


@pytest.mark.bad_input
def test_order_and_noise_follow_from_the_seed_the_stage_and_the_epoch():
    """By names that stay: what one version has begun the next one ends alike."""
    module, seen, held = nn.Linear(3, 1), [], []

    def loss(batch, progress):
        (seen if module.training else held).append((batch["row"].tolist(), torch.rand(2).tolist()))
        total = module(batch["x"]).square().mean()
        return Losses(total, {"loss": total})

    settings = Training(epochs=2, batch_size=8)
    run_stage(Stage("joint", module, loss, settings, table(), table(16, seed=1)), seed=7)
    expected, expected_held = [], []
    for epoch in range(2):
        order = generator(7, "joint", "order", epoch).permutation(ROWS).reshape(-1, 8)
        with seeded(7, "joint", "noise", epoch):
            expected += [(rows.tolist(), torch.rand(2).tolist()) for rows in order]
        with seeded(7, "joint", "validation"):
            expected_held += [
                (list(range(i, i + 8)), torch.rand(2).tolist()) for i in range(0, 16, 8)
            ]
    assert seen == expected
    assert held == expected_held


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="stage 'joint' has no rows"):
        train(SETTINGS["plain"], train=table().subset(np.array([], np.int64)))


def test_frozen_parameters_stay():
    made = stage(SETTINGS["plain"])
    made.trainable[0].requires_grad_(False)
    before = made.trainable[0].weight.clone()
    run_stage(made)
    assert torch.equal(made.trainable[0].weight, before)
