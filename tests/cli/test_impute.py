"""`mvflow impute`: files in, a filled table out, with names, units and honest intervals."""

import json

import numpy as np
import pandas as pd
import pytest

from mvflow_datasets import Store

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
    lines = " ".join(found.out.split())
    with Store.open(tables / "own.h5") as store:
        held_out = len(store["test"])
    assert f"held out, as one in {held_out + 1} of good rows is, too" in lines
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


# Gaps


@pytest.fixture(scope="module")
def gaps(tables):
    """A run on tables with gaps, of which one lacks people; new rows with gaps of their own."""
    from mvflow_cli.main import run

    rng = np.random.default_rng(1)
    for name in ("blood", "body"):
        whole = pd.concat(
            [pd.read_csv(tables / f"{k}{name}.csv", index_col=0) for k in ("", "new-")]
        )
        whole[rng.random(whole.shape) < 0.2] = np.nan
        some = whole[30:200] if name == "body" else whole[:200]
        some.to_csv(tables / f"gaps-{name}.csv")
        new = whole[205:] if name == "body" else whole[200:]
        new[new.notna().any(axis=1)].to_csv(tables / f"new-gaps-{name}.csv")
    store, path = tables / "gaps.h5", tables / "gaps"
    pairs = [f"--modality={name}={tables / f'gaps-{name}.csv'}" for name in ("blood", "body")]
    options = ["--missing", "values", "--join", "outer"]
    assert run(["data", "import", str(store), *pairs, *options]) == 0
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    assert run(["new", str(path), "--store", str(store), "--quick", *words]) == 0
    assert run(["train", str(path)]) == 0
    return path


def test_gaps_are_filled_in_the_units_of_the_files_and_all_else_stays(mvflow, gaps, tables):
    out, files = tables / "whole.csv", {}
    given = []
    for name in ("blood", "body"):
        path = tables / f"new-gaps-{name}.csv"
        files[name] = pd.read_csv(path, index_col=0)
        given += ["--given", f"{name}={path}"]
    found = mvflow("impute", gaps, *given, "--out", out, "--n", 20)
    assert found.code == 0, found
    filled = pd.read_csv(out, index_col=0)
    rows = list(dict.fromkeys([*files["blood"].index, *files["body"].index]))
    assert filled.index.tolist() == rows
    for name, file in files.items():
        file = file.reindex(rows)
        for column in file.columns:
            values, here = filled[f"{name}:{column}"], file[column].notna()
            assert (values[here] == file[column][here]).all()  # to the last bit
            ends = filled[[f"{name}:{column} [5 %]", f"{name}:{column} [95 %]"]]
            assert (ends.notna().all(axis=1) == ~here).all()
            assert values.notna().all()
        absent = int(file.isna().to_numpy().sum())
        assert f"{name}: {absent} values are absent, in" in found.out
    parquet = tables / "whole.parquet"
    one = mvflow(
        "impute", gaps, *given, "--targets", "body", "--out", parquet, "--n", 20, "--json"
    )
    assert json.loads(one.out)["filled"] == {
        "body": int(files["body"].reindex(rows).isna().sum().sum())
    }


def test_rows_of_which_nothing_is_given_stay_empty_and_are_named(mvflow, gaps, tables, tmp_path):
    """As in Python, where they are NaN; the others are as they would be without them."""
    new = pd.read_csv(tables / "new-gaps-blood.csv", index_col=0)
    files = {"some": new.copy(), "kept": new.drop(new.index[[2, 5]])}
    files["some"].iloc[[2, 5]] = np.nan
    out = {}
    for name, frame in files.items():
        frame.to_csv(tmp_path / f"{name}.csv")
        given, to = f"blood={tmp_path / name}.csv", tmp_path / f"{name}-filled.csv"
        done = mvflow("impute", gaps, "--given", given, "--out", to, "--n", 5)
        assert done.code == 0, done
        out[name] = pd.read_csv(to, index_col=0)
        lacking = ", ".join(repr(n) for n in new.index[[2, 5]])
        note = f"2 of {len(new)} rows lack blood and stay empty: {lacking}"
        assert (note in done.out) == (name == "some")
    assert out["some"].index.tolist() == new.index.tolist()
    empty = out["some"].loc[new.index[[2, 5]]]
    assert empty.drop(columns="unlike training").isna().all(axis=None)
    assert not empty["unlike training"].any()
    pd.testing.assert_frame_equal(out["some"].drop(empty.index), out["kept"])


def test_a_column_may_name_the_rows_as_a_first_one_without_a_name_does(
    mvflow, gaps, tables, tmp_path
):
    """--index of all files, and of one: the same file comes out, rows paired by their names."""
    named, plain = [], []
    for name in ("blood", "body"):
        frame = pd.read_csv(tables / f"new-gaps-{name}.csv", index_col=0)
        named.append(f"--given={name}={tables / f'new-gaps-{name}.csv'}")
        frame.rename_axis("person").to_csv(tmp_path / f"{name}.csv")
        plain.append(f"--given={name}={tmp_path / name}.csv")
    texts = []
    for given in (
        named,
        [*plain, "--index", "person"],
        [*plain, *(f"--index={n}=person" for n in ("blood", "body"))],
    ):
        out = tmp_path / f"{len(texts)}.csv"
        done = mvflow("impute", gaps, *given, "--out", out, "--n", 5)
        assert done.code == 0, done
        texts.append(out.read_text())
        assert "rows are numbered" not in done.out
    assert texts[0] == texts[1] == texts[2]
    done = mvflow("impute", gaps, plain[0], "--out", tmp_path / "numbered.csv", "--n", 5)
    assert "without person; rows are numbered (--index 'person' names them)" in done.out


@pytest.mark.slow
def test_intervals_of_gaps_are_calibrated_once_the_run_is_evaluated(mvflow, gaps, tables):
    given = ("--given", f"blood={tables / 'new-gaps-blood.csv'}", "--out", tables / "wide.csv")
    raw = mvflow("impute", gaps, *given)
    assert raw.code == 0, raw
    before = pd.read_csv(tables / "wide.csv", index_col=0)
    assert mvflow("evaluate", gaps).code == 0
    wide = mvflow("impute", gaps, *given, "--force")
    assert "calibrated on held-out rows" in wide.out
    assert mvflow("evaluate", gaps, "--folds", "2").code == 0  # measures no single values
    again = mvflow("impute", gaps, *given[:-1], tables / "again.csv")
    assert "calibrated on held-out rows" in again.out
    after = pd.read_csv(tables / "wide.csv", index_col=0)
    gap = before["blood:iron [5 %]"].notna()
    assert gap.any()
    assert (after["blood:iron [5 %]"].notna() == gap).all()
    moved = (after["blood:iron [5 %]"] - before["blood:iron [5 %]"])[gap]
    # one margin for the column, in rows that have blood alone; in units of iron
    np.testing.assert_allclose(moved, moved.iloc[0], rtol=1e-3)


@pytest.mark.bad_input
def test_gaps_that_cannot_be_filled_are_one_sentence(refused, run, gaps, tables):
    given = ("--given", f"blood={tables / 'new-gaps-blood.csv'}")
    out = tables / "never.csv"
    error = refused("impute", gaps, *given, "--missing", "refuse", "--out", out, code=1)
    assert "is missing" in error
    assert "--missing values" in error
    error = refused("impute", run, *given, "--out", out, code=2)
    assert "train a model with modalities.blood.encoder.kind='gaps'" in error
    whole = [f"--given={n}={tables / f'new-{n}.csv'}" for n in ("blood", "body")]
    error = refused("impute", gaps, *whole, "--out", out, code=2)
    assert "without a gap: there is nothing to fill in" in error
    error = refused("impute", gaps, *whole, "--targets", "body", "--out", out, code=2)
    assert "modality 'body' is given and has no gap" in error
    assert not out.exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_column_that_named_the_rows_of_the_store_names_them_again(
    mvflow, tables, tmp_path, kind
):
    """Where a file has it, and nothing else is said."""
    from mvflow.runs import RunDirectory
    from mvflow_cli.observed import read_observed

    def written(name, source, **columns):
        frame = pd.read_csv(tables / f"{source}.csv", index_col=0).rename_axis("person")
        path = tmp_path / f"{name}.{kind}"
        frame = frame.reset_index().rename(columns=columns)
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
        return path, frame

    store, run = tmp_path / "own.h5", tmp_path / "run"
    pairs = [f"--modality={n}={written(n, n)[0]}" for n in ("blood", "body")]
    assert mvflow("data", "import", store, *pairs, "--index", "person").code == 0
    assert mvflow("new", run, "--store", store, "--recipe", "auto", "--quick").code == 0
    opened = RunDirectory.open(run)
    new, frame = written("new", "new-blood")
    seen = read_observed(opened, opened.config(), [f"blood={new}"], None, None)
    assert seen.row_names == tuple(frame.person)
    values = frame[["iron", "salt", "fat"]].to_numpy()
    np.testing.assert_allclose(seen.originals["blood"], values, rtol=1e-6)
    numbered = read_observed(
        opened, opened.config(), [f"blood={new}"], None, None, index=["none"], missing="values"
    )
    assert numbered.row_names is None
    other, _ = written("other", "new-blood", person="someone")
    assert read_observed(opened, opened.config(), [f"blood={other}"], None, None).row_names is None
