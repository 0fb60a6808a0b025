"""`mvflow impute`: files in, a filled table out, with names, units and honest intervals."""

import numpy as np
import pandas as pd
import pytest

SETTINGS = (
    "joint.epochs=2",
    "flows.epochs=2",
    "evaluation.rows=30",
    "evaluation.importance_rows=5",
)
SETTINGS += ("evaluation.importance_draws=20", "evaluation.prior_draws=50")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two tables of 200 named people; body follows from blood."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(220, 2))
    names = [f"p{i}" for i in range(220)]
    blood = pd.DataFrame(
        10 + z @ [[1.0, 2.0, 0.5], [0.5, -1.0, 1.0]], names, ["iron", "salt", "fat"]
    )
    body = pd.DataFrame(z * [10.0, 5.0] + [170.0, 70.0], names, ["height", "weight"])
    for name, frame in (("blood", blood), ("body", body)):
        frame[:200].to_csv(folder / f"{name}.csv")
        frame[200:].to_csv(folder / f"new-{name}.csv")
    return folder


@pytest.fixture(scope="module")
def run(tables):
    from mvflow_cli.main import run

    store, path = tables / "own.h5", tables / "run"
    pairs = [f"--modality={name}={tables / name}.csv" for name in ("blood", "body")]
    assert run(["data", "import", str(store), *pairs]) == 0
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    new = ["new", str(path), "--store", str(store), "--recipe", "auto", "--quick", *words]
    assert run(new) == 0
    assert run(["train", str(path)]) == 0
    return path


def test_new_rows_are_filled_with_names_units_and_marks(mvflow, run, tables):
    out = tables / "filled.csv"
    far = pd.read_csv(tables / "new-blood.csv", index_col=0)
    far.loc["p219"] += 1000.0
    far.to_csv(tables / "far.csv")
    given = ("--given", f"blood={tables / 'far.csv'}")
    found = mvflow("impute", run, *given, "--out", out, "--n", 20)
    assert found.code == 0, found
    filled = pd.read_csv(out, index_col=0)
    assert filled.index.tolist() == far.index.tolist()
    assert filled.columns.tolist() == [
        *("height", "height [5 %]", "height [95 %]", "weight", "weight [5 %]", "weight [95 %]"),
        "unlike training",
    ]
    assert 100 < filled["height"][:-1].mean() < 240  # centimetres, not standard deviations
    assert bool(filled.loc["p219", "unlike training"])
    assert "rows are unlike those held out" in found.out
    assert "not calibrated" in found.out


@pytest.mark.slow
def test_intervals_are_calibrated_once_the_run_is_evaluated(mvflow, run, tables):
    out = tables / "a.csv"
    words = (
        "impute",
        run,
        "--given",
        f"blood={tables / 'new-blood.csv'}",
        "--out",
        out,
        "--force",
    )
    raw = mvflow(*words)
    assert raw.code == 0, raw
    before = pd.read_csv(out, index_col=0)
    assert mvflow("evaluate", run).code == 0
    found = mvflow(*words)
    assert "calibrated on held-out rows" in found.out
    after = pd.read_csv(out, index_col=0)
    np.testing.assert_allclose(after["height"], before["height"])
    change = after["height [95 %]"] - before["height [95 %]"]
    assert change.std() < 1e-6 * change.abs().max()  # one margin for each column
    assert change.abs().max() > 0


@pytest.mark.bad_input
def test_files_and_words_that_do_not_fit_are_refused(refused, run, tables, tmp_path):
    out, blood = ("--out", tmp_path / "filled.csv"), f"blood={tables / 'new-blood.csv'}"
    start = ("impute", run, "--given")
    assert "known are .csv" in refused(*start, blood, "--out", tmp_path / "a.xls", code=2)
    assert "expected NAME=FILE" in refused(*start, tables / "new-blood.csv", *out, code=2)
    other = tmp_path / "other.csv"
    other.write_text("iron,salt\n1,2\n")
    assert "lacks" in refused(*start, f"blood={other}", *out, code=1)
    assert "did you mean 'blood'" in refused(
        *start, f"blod={tables / 'new-blood.csv'}", *out, code=2
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv"]
