"""What users of scikit-learn expect, and what is checked at the door of an estimator."""

import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError as SklearnNotFitted
from sklearn.utils.validation import check_is_fitted

import mvflow
from mvflow import JNF, ArraySource, EarlyStopping, Modality, ModelCheckpoint
from mvflow.core import (
    ConfigError,
    DataError,
    MvflowError,
    NotFittedError,
    UsageError,
    check_batch,
)
from mvflow.training import NoOpCallback


@pytest.fixture(scope="module")
def model(fitted):
    return fitted(JNF, 2)


def fresh(small, **changes):
    return small.estimator(JNF, 2, **changes)


# The door


@pytest.mark.bad_input
def test_a_mask_of_bytes_is_refused_and_as_floats_taken(small):
    mask = np.tile(np.array([[0], [1]], np.uint8), (80, 2))
    data = small.data(2)[0]
    with pytest.raises(DataError, match="only 0 and 1 as uint8"):
        fresh(small).fit(data | {"m0": mask})


@pytest.mark.bad_input
def test_floats_of_bytes_are_refused_by_a_model_of_bytes(small, tmp_path):
    data = small.data(2)[0]
    data["m0"] = np.random.default_rng(0).integers(0, 256, data["m0"].shape).astype(np.uint8)
    made = fresh(small).fit(data, seed=0)
    some = data["m0"][:3]
    expected = made.draw({"m0": some}).z
    np.testing.assert_array_equal(made.draw({"m0": some / np.float32(255)}).z, expected)
    made.save(tmp_path / "run")
    for each in (made, mvflow.load(tmp_path / "run")):
        with pytest.raises(DataError, match="trained on uint8"):
            each.draw({"m0": some.astype(np.float32)})


@pytest.mark.bad_input
@pytest.mark.parametrize("as_validation", [False, True])
def test_a_source_is_checked_against_the_model(as_validation):
    x = {"x": np.full((40, 2), 5.0, np.float32), "y": np.zeros((40, 3), np.float32)}
    good = {"x": np.full((40, 2), 0.5, np.float32), "y": x["y"]}
    made = JNF([Modality("x", (2,), "bernoulli"), Modality("y", (3,))], 2, joint={"epochs": 1})
    data = {"source": ArraySource(x), "validation": None}
    if as_validation:
        data = {"source": good, "validation": ArraySource(x)}
    with pytest.raises(DataError, match=r"'x', row 0 contains 5.0: expected probabilities"):
        made.fit(**data)


@pytest.mark.bad_input
def test_masked_and_complex_values_are_refused():
    x = np.ma.masked_equal(np.array([[1.0], [-9.0]]), -9.0)
    with pytest.raises(DataError, match="'a', row 1 has a masked value"):
        check_batch({"a": x}, [Modality("a", (1,))])
    with pytest.raises(DataError, match="'a' is complex"):
        ArraySource({"a": np.ones((2, 1)) * 1j})


@pytest.mark.bad_input
@pytest.mark.parametrize("labels", [[0.5, 1], [np.nan, 1], ["a", "b"], [-2, 0], [[0], [1]]])
def test_labels_are_whole_numbers_from_zero(labels):
    with pytest.raises(DataError, match="label"):
        ArraySource({"a": np.zeros((2, 1))}, labels=labels)


def test_views_tensors_and_plain_arrays_give_the_same(model, small):
    x = small.data(2)[0]["m0"][:5]
    expected = model.draw({"m0": x}).z
    flipped = np.ascontiguousarray(x[::-1])[::-1]
    frozen = x.copy()
    frozen.flags.writeable = False
    for each in (flipped, frozen, torch.from_numpy(x).requires_grad_()):
        np.testing.assert_array_equal(model.draw({"m0": each}).z, expected)
    alone = model.draw({"m0": x[:1]}).z  # one row that is flipped counts as contiguous
    np.testing.assert_array_equal(model.draw({"m0": x[:1][::-1]}).z, alone)
    np.testing.assert_array_equal(model.decode(alone[0][::-1])["m1"], model.decode(alone[0])["m1"])


def test_tensors_of_any_precision_are_taken(model, small):
    x = torch.from_numpy(small.data(2)[0]["m0"][:5]).bfloat16()
    found = model.draw({"m0": x}).z
    np.testing.assert_array_equal(found, model.draw({"m0": x.float().numpy()}).z)


def test_bytes_may_be_views(small):
    x = np.arange(160 * 2, dtype=np.uint8).reshape(160, 2)[:, ::-1]
    source = ArraySource({"a": x})
    assert torch.from_numpy(source.take([0])["a"]).tolist() == [[1, 0]]
    assert source.columns()["a"].values.flags.c_contiguous


@pytest.mark.bad_input
@pytest.mark.parametrize("data", [None, [1, 2], np.zeros((3, 2))])
def test_what_is_no_source_is_named(small, model, data):
    with pytest.raises(UsageError, match="expected a dict from modality to array"):
        fresh(small).fit(data)
    if data is not None:
        for call in (model.draw, model.generate, model.transform, model.log_likelihood):
            with pytest.raises(UsageError, match="expected a dict"):
                call(data)


@pytest.mark.bad_input
@pytest.mark.parametrize("seed", [-1, 1.5, "one", True])
def test_seeds_are_whole_numbers(model, seed):
    with pytest.raises(UsageError, match="expected a whole number from 0"):
        model.draw(seed=seed)


@pytest.mark.bad_input
def test_words_for_devices_and_counts(small, model):
    for word in ("gpu", "CPU", "cuda:99", 1.5):
        with pytest.raises(UsageError, match="cannot be used: expected 'auto' or one of cpu"):
            fresh(small).fit(small.data(2)[0], device=word)
    with pytest.raises(UsageError, match="n=2.0: expected at least one draw"):
        model.generate(n=2.0)


@pytest.mark.bad_input
@pytest.mark.parametrize("settings", [{"patience": 3}, {"keep_best": True}])
def test_the_best_weights_are_not_kept_without_rows_that_tell_them(small, settings):
    made, data = (
        fresh(small, joint={"epochs": 2} | settings, data={"validation": 0}),
        small.data(2),
    )
    with pytest.raises(ConfigError, match="'joint' keeps its best weights .* no rows are held"):
        made.fit(data[0])
    made.fit(data[0], validation=data[0])


def test_no_seed_gives_fresh_draws(model):
    a, b = (model.draw(None, 3, seed=None).z for _ in range(2))
    assert not np.array_equal(a, b)


def test_a_fit_that_fails_leaves_the_one_before(small):
    data = small.data(2)[0]
    made = fresh(small).fit(data, seed=0)
    before = made.encode(data)[0]

    class Fails(NoOpCallback):
        def on_epoch(self, record, checkpoint):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made.fit(data, seed=1, callback=Fails())
    assert made.config.seed == 0
    np.testing.assert_array_equal(made.encode(data)[0], before)


def test_one_modality_works(small):
    data = small.data(1)[0]
    made = small.estimator(JNF, 1).fit(data, seed=0)
    assert "joint" in made.evaluate(data).log_likelihood


# As scikit-learn has it


def test_clone_and_check_is_fitted(model, small):
    copy = clone(model)
    assert copy.config == model.with_settings(seed=copy.config.seed).config
    check_is_fitted(model)
    with pytest.raises(SklearnNotFitted):
        check_is_fitted(copy)
    assert clone(JNF.from_config(model.config)).config == model.config


def test_parameters_can_be_set(small):
    made = fresh(small).set_params(joint__epochs=7, latent_dim=3)
    assert (made.config.joint.epochs, made.config.latent_dim) == (7, 3)
    assert made.config.joint.batch_size == fresh(small).config.joint.batch_size
    with pytest.raises(MvflowError, match="jiont"):
        made.set_params(jiont__epochs=3)
    assert made.config.joint.epochs == 7


def test_every_public_name_has_an_example():
    """Which the tests of modules run; a system's own estimator has those of `Estimator`."""
    public = {name: getattr(mvflow, name) for name in mvflow.__all__}
    members = inspect.getmembers(mvflow.Estimator)
    public |= {name: value for name, value in members if not name.startswith("_")}
    texts = {n: inspect.getdoc(getattr(x, "fget", x)) or "" for n, x in public.items()}
    plain = {name for name, text in texts.items() if ">>>" not in text}
    assert plain == {"Callback", "UnreliableDrawsWarning"}


def test_the_signature_and_the_repr_say_what_there_is(small):
    assert {"modalities", "latent_dim", "posterior", "joint"} <= {
        *inspect.signature(JNF).parameters
    }
    shown = repr(fresh(small))
    assert shown.startswith("JNF(modalities=['m0', 'm1'], latent_dim=2")
    assert "'epochs': 3" in shown
    assert "classifiers" not in shown


def test_the_history_is_a_table(model, small, tmp_path):
    losses = [r for r in model.history_ if r["stage"] == "joint"]
    assert [r["epoch"] for r in losses] == [0, 1, 2]
    model.save(tmp_path / "run")
    assert mvflow.load(tmp_path / "run").history_ == model.history_
    pytest.importorskip("pandas", reason="needs pandas")
    table = model.history_.to_pandas()
    assert len(table) == len(model.history_)


def test_callbacks_can_stop_and_keep(small, tmp_path):
    class Second(NoOpCallback):
        def on_epoch(self, record, checkpoint):
            return record.epoch == 1

    kept = ModelCheckpoint(tmp_path)
    made = fresh(small).fit(small.data(2)[0], seed=0, callback=[Second(), kept], progress=True)
    assert {r["epoch"] for r in made.history_} == {0, 1}
    assert (tmp_path / "joint.safetensors").is_file()
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    assert made.records_["joint"].epochs == 2


def test_kept_weights_are_written_through_no_link(small, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("joint.safetensors", ".joint.safetensors.partial"):
        (tmp_path / name).symlink_to(precious)
    fresh(small).fit(small.data(2)[0], stages=["joint"], callback=ModelCheckpoint(tmp_path))
    assert precious.read_text() == "mine"
    assert not (tmp_path / "joint.safetensors").is_symlink()


def test_early_stopping_ends_a_stage_that_gets_no_better(small):
    never = EarlyStopping(patience=1, min_delta=1e9)
    made = fresh(small).fit(small.data(2)[0], seed=0, callback=never)
    assert [r["epoch"] for r in made.history_ if r["stage"] == "joint"] == [0, 1]


def test_a_joint_stage_alone_encodes_decodes_generates_and_saves(small, tmp_path):
    data = small.data(2)[0]
    made = fresh(small).fit(data, seed=0, stages=["joint"])
    z = made.encode(data)[0]
    np.testing.assert_array_equal(made.transform(data), z)
    assert {*made.decode(z)} == {*made.generate()} == {"m0", "m1"}
    with pytest.raises(NotFittedError, match="missing: flows"):
        made.generate({"m0": data["m0"][:2]})
    made.save(tmp_path / "run")
    np.testing.assert_array_equal(mvflow.load(tmp_path / "run").encode(data)[0], z)


@pytest.mark.bad_input
def test_a_configured_prior_is_not_replaced_in_silence(small):
    made = fresh(small, prior="mixture").fit(small.data(2)[0], seed=0, stages=["joint"])
    with pytest.raises(NotFittedError, match="missing: prior"):
        made.generate()
    assert {*made.decode(made.draw(prior="standard").z[0])} == {"m0", "m1"}


def test_tensors_come_back_as_tensors(model, small):
    x = small.data(2)[0]
    tensors = {name: torch.from_numpy(v[:4]) for name, v in x.items()}
    plain = {name: v[:4] for name, v in x.items()}
    for call in (
        lambda x: model.encode(x)[0],
        lambda x: model.generate({"m0": x["m0"]}, 2)["m1"],
        lambda x: model.transform({"m0": x["m0"]}),
        lambda x: model.log_likelihood(x, n=5),
    ):
        found = call(tensors)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), call(plain))


def test_transform_is_the_mean_of_draws(model, small):
    x = {"m0": small.data(2)[0]["m0"][:3]}
    np.testing.assert_allclose(
        model.transform(x, n=7, seed=3), model.draw(x, 7, seed=3).z.mean(0), rtol=1e-6
    )


def test_full_output_has_diagnostics_and_bad_draws_warn(model, small):
    x = small.data(3)[0]
    made = small.estimator(JNF, 3).fit(x, seed=0)
    given = {name: x[name][:4] for name in ("m0", "m1")}
    options = {"seed": 0, "sampler": {"warmup": 1, "draws": 4, "chains": 2}}
    found, drawn = made.generate(given, 2, full_output=True, **options)
    assert drawn.diagnostics.rhat.max() > 1.05
    with pytest.warns(mvflow.UnreliableDrawsWarning, match="R-hat"):
        again = made.generate(given, 2, **options)
    np.testing.assert_array_equal(again["m2"], found["m2"])


def test_report_and_figures(model, small, tmp_path):
    data = small.data(2)[0]
    text = model.report(tmp_path / "page.html", data, train=data).read_text("utf-8")
    assert f"baselines of {len(data['m0'])} training rows" in text
    stages = {r["stage"] for r in model.history_}
    assert {a.get_title() for a in model.plot.history().axes} == stages
    points = model.plot.latent(data).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, model.transform(data)[:, :2])
    assert len(model.plot.samples({"m0": data["m0"]}, 3).axes) == 3


PORTABLE = """
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import numpy as np, mvflow
x = np.random.default_rng(0).normal(size=(40, 2)).astype("f4")
short = {"epochs": 1}
model = mvflow.JNF([mvflow.Modality("a", (2,)), mvflow.Modality("b", (2,))], 2,
                   joint=short, flows=short).fit({"a": x, "b": x})
model.save(sys.argv[1])
again = mvflow.load(sys.argv[1])
assert (again.encode({"a": x, "b": x})[0] == model.encode({"a": x, "b": x})[0]).all()
"""


def test_what_only_unix_has_is_not_needed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PORTABLE, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_frame_by_modality_is_fitted_as_the_dict_of_its_arrays(small):
    data = {n: np.asarray(x, np.float32).reshape(len(x), -1) for n, x in small.data(3)[0].items()}
    columns = [(name, str(i)) for name, x in data.items() for i in range(x.shape[1])]
    frame = pd.DataFrame(
        np.concatenate([*data.values()], 1), columns=pd.MultiIndex.from_tuples(columns)
    )
    fitted = [small.estimator(JNF, 3).fit(x, seed=0, stages=["joint"]) for x in (data, frame)]
    means = [m.encode(data)[0] for m in fitted]
    np.testing.assert_array_equal(*means)
