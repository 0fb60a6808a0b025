"""Gaps in given modalities: filled and nothing else, never read, with intervals that hold."""

import numpy as np
import pandas as pd
import pytest

from mvflow import JNF, MVAE, Modality
from mvflow.core import UsageError
from mvflow.nn import GapsNetwork

SPECS = [
    Modality("a", (4,), {"kind": "normal", "scale": 0.3}),
    Modality("b", (3,), {"kind": "normal", "scale": 0.3}),
    Modality("c", (2,), "categorical"),
]
TRAIN, TEST = slice(0, 512), slice(512, 640)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(640, 2))
    tables = {n: z @ rng.normal(size=(2, k)) for n, k in (("a", 4), ("b", 3))}
    return {
        **{n: x + 0.3 * rng.normal(size=x.shape) for n, x in tables.items()},
        "c": (z[:, 0] > 0).astype(int),
    }


@pytest.fixture(scope="module")
def present(rows):
    """Three in ten values at random; one row in ten lacks c, or all of b."""
    rng = np.random.default_rng(1)
    masks = {n: rng.random(rows[n].shape) >= 0.3 for n in ("a", "b")}
    masks["b"][rng.random(640) < 0.1] = False
    masks["a"][~masks["a"].any(1) & ~masks["b"].any(1), 0] = True
    return {**masks, "c": rng.random(640) >= 0.1}


@pytest.fixture(scope="module")
def model(rows, present):
    short = {"epochs": 20, "learning_rate": 5e-3, "batch_size": 64}
    rule = {"kind": "amortised", "posterior": "gaussian", "summary_hidden": (32,), **short}
    train, masks = ({n: x[TRAIN] for n, x in of.items()} for of in (rows, present))
    made = JNF(SPECS, latent_dim=2, joint={**short, "merge": (32,)}, subset=rule)
    return made.fit(train, present=masks, seed=0)


def marked(rows, present, at=TEST, fill=np.nan):
    """Rows with `fill` where they have gaps, and masks of these in whole rows of c."""
    tables = {n: np.where(present[n], rows[n], fill)[at] for n in ("a", "b")}
    return {**tables, "c": np.ma.masked_array(rows["c"], ~present["c"])[at]}


def test_gaps_are_filled_and_all_else_is_as_it_was(model, rows, present):
    filled = model.impute(marked(rows, present), n=20)
    assert {*filled} == {"a", "b", "c"}
    for name, each in filled.items():
        x, here = rows[name][TEST], present[name][TEST]
        assert (each.absent == ~here).all()
        assert each.filled == int((~here).sum())
        if name == "c":
            np.testing.assert_allclose(each.mean.sum(-1), 1, rtol=1e-6)
            assert (each.mean[here] == np.eye(2)[x[here]]).all()
            assert (each.draws[:, here] == x[here]).all()
            continue
        for values in (each.mean, each.low, each.high, *each.draws):
            assert values.dtype == np.float64
            assert values[here].tobytes() == x[here].tobytes()
            assert np.isfinite(values).all()
        gaps = ~here
        assert (each.low < each.high)[gaps].all()
        # 60 % of the variance of the gaps at least: the noise is a tenth of it
        assert ((each.mean - x)[gaps] ** 2).mean() < 0.4 * x[gaps].var()


def test_what_is_absent_is_never_read_however_it_is_said(model, rows, present):
    expected = model.impute(marked(rows, present), n=5)
    garbage = marked(rows, present, fill=1e30)
    ways = [
        {n: np.ma.masked_array(garbage[n], ~present[n][TEST]) for n in ("a", "b")},
        {n: garbage[n] for n in ("a", "b")}
        | {f"present/{n}": present[n][TEST] for n in ("a", "b")},
        {n: pd.DataFrame(x) for n, x in marked(rows, present).items() if n != "c"},
    ]
    for way in ways:
        found = model.impute({**way, "c": marked(rows, present)["c"]}, n=5)
        for name in expected:
            assert np.array_equal(found[name].draws, expected[name].draws)
            assert np.array_equal(found[name].mean, expected[name].mean)
    tables = {n: pd.DataFrame(x) for n, x in marked(rows, present).items() if n != "c"}
    frame = pd.concat(tables, axis=1).iloc[:40]
    has_some = frame.notna().any(axis=1).to_numpy()
    found = model.impute(frame[has_some], n=5)
    assert {*found} == {"a", "b", "c"}
    kept = frame["a"].notna().to_numpy()[has_some]
    assert (found["a"].mean[kept] == frame["a"].to_numpy()[has_some][kept]).all()


def test_encoders_of_modalities_with_gaps_see_flags_and_others_stay(model):
    kinds = {n: type(section.encoder) for n, section in model.config.modalities.items()}
    assert kinds["a"] is kinds["b"] is GapsNetwork
    assert kinds["c"] is not GapsNetwork


def test_calibrated_intervals_hold_what_they_promise(model, rows, present):
    """Calibrated by the values that are there, tested on the gaps: about 300, in 128 rows."""
    given = marked(rows, present)
    masks = {f"present/{n}": present[n][TEST] for n in present}
    intervals = model.calibrate_gaps({**{n: rows[n][TEST] for n in rows}, **masks}, n=40)
    assert {"a+b+c->a", "a+b+c->b", "b+c->a", "a+c->b"} <= {*intervals.margins}
    filled = model.impute(given, n=40, intervals=intervals)
    inside, gaps = [], 0
    for name in ("a", "b"):
        x, each = rows[name][TEST], filled[name]
        inside.append(((each.low <= x) & (x <= each.high))[each.absent])
        gaps += each.filled
        assert each.is_calibrated
    # three standard errors of a share of .9 among the gaps
    assert abs(np.concatenate(inside).mean() - 0.9) < 3 * np.sqrt(0.09 / gaps)


def test_rows_with_gaps_are_compared_by_what_they_have(model, rows, present):
    reference = {n: x[TEST][40:] for n, x in rows.items()}
    given = {n: x[:40] for n, x in marked(rows, present).items()}
    some = np.array([~np.isnan(given["a"]).all(1), ~np.isnan(given["b"]).all(1)]).any(0)
    given = {n: x[some] for n, x in given.items()}
    # each is marked with a probability of 1 / 89: four of 40 or more with about .001
    assert model.unlike(given, reference).sum() < 4
    far = {**given, "a": given["a"] + 50.0}
    has_a = ~np.isnan(given["a"]).all(1)
    assert model.unlike(far, reference)[has_a].all()


def test_rows_of_which_nothing_is_given_are_nan_and_change_no_others(model, rows, present):
    """In imputed values and in means of z, with one warning that names them."""
    x = {n: v[:12] for n, v in marked(rows, present).items()}
    x["a"][[2, 5]] = x["b"][[2, 5]] = np.nan
    x["c"][[2, 5]] = np.ma.masked
    x["c"].mask[3] = True  # so that c has to be filled in elsewhere, too
    kept = np.array([i not in (2, 5) for i in range(12)])
    names = r"^rows 2, 5 have none of a, b, c: the answer is NaN there$"
    with pytest.warns(UserWarning, match=names):
        found = model.impute(x, n=5)
    expected = model.impute({n: v[kept] for n, v in x.items()}, n=5)
    for name, made in found.items():
        assert made.absent[~kept].all()
        for field in ("mean", "low", "high", "absent"):
            values, known = getattr(made, field), getattr(expected[name], field)
            if known is not None:
                np.testing.assert_array_equal(values[kept], known)
                assert field == "absent" or np.isnan(values[~kept]).all()
        np.testing.assert_array_equal(made.draws[:, kept], expected[name].draws)
        empty = made.draws[:, ~kept]
        assert (empty == -1).all() if name == "c" else np.isnan(empty).all()
    hidden = {n: np.ma.masked_invalid(v) if n != "c" else v for n, v in x.items()}
    with pytest.warns(UserWarning, match=names):
        means, deviations = model.transform(hidden, n=5, return_std=True)
    known = model.transform({n: v[kept] for n, v in hidden.items()}, n=5, return_std=True)
    for values, of in ((means, known[0]), (deviations, known[1])):
        np.testing.assert_array_equal(values[kept], of)
        assert np.isnan(values[~kept]).all()


@pytest.mark.bad_input
def test_what_cannot_be_filled_is_one_sentence(model, rows, present):
    complete = {n: x[TEST] for n, x in rows.items()}
    with pytest.raises(UsageError, match="all modalities are given, without a gap"):
        model.impute(complete)
    with pytest.raises(UsageError, match="modality 'c' is both given and to be imputed"):
        model.impute({**marked(rows, present), "c": complete["c"]}, targets=["c"])
    nothing = np.full((3, 4), np.nan)
    hidden = np.ma.masked_invalid(nothing)
    for call in (model.impute, model.transform):
        with pytest.raises(UsageError, match="^none of 3 rows has a: give rows that do$"):
            call({"a": nothing if call == model.impute else hidden})
    with pytest.raises(UsageError, match="what is given is a list: expected a dict from modality"):
        model.impute([1.0])
    short = {"epochs": 1}
    plain = JNF(SPECS, latent_dim=2, joint=short, flows=short, posterior="gaussian").fit(
        {n: x[:64] for n, x in rows.items()}, seed=0
    )
    with pytest.raises(
        UsageError, match=r"of modality 'a' has absent .* train a model with modali"
    ):
        plain.impute(marked(rows, present))


def test_single_values_are_hidden_only_from_encoders_that_take_gaps():
    rng = np.random.default_rng(0)
    rows = {n: rng.normal(size=(40, 3)).astype(np.float32) for n in "ab"}
    gaps = {"b": rng.random((40, 3)) < 0.8}
    model = MVAE([Modality(n, (3,)) for n in "ab"], 2, joint={"epochs": 1})
    model.fit(rows, present=gaps, seed=0)
    found = model.calibrate_gaps({**rows, "present/b": gaps["b"]}, n=5)
    assert {*found.margins} == {"a+b->b", "a->b", "b->a"}
