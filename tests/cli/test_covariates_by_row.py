"""Covariates of the rows of one's own: one value each, from a column of a file, by name."""

import numpy as np
import pandas as pd
import pytest

NAMES = [f"r{i}" for i in range(60)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on two tables and a covariate that shifts the second."""
    from mvflow_cli.main import run

    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    z, batch = rng.normal(size=(60, 2)), np.array([*"AB"] * 30)
    a = z @ rng.normal(size=(2, 3))
    b = z @ rng.normal(size=(2, 2)) + 9 * (batch == "B")[:, None]
    pd.DataFrame(a, NAMES, [*"uvw"]).to_csv(folder / "a.csv")
    pd.DataFrame(b, NAMES, [*"xy"]).to_csv(folder / "b.csv")
    about = pd.DataFrame({"batch": batch, "dose": z[:, 0]}, NAMES)
    about[::-1].to_csv(folder / "about.csv")
    store, files = folder / "s.h5", [f"--modality={n}={folder / n}.csv" for n in "ab"]
    covariate = f"--covariate=batch={folder / 'about.csv'}:batch"
    assert run(["data", "import", str(store), *files, covariate]) == 0
    new = ["new", str(folder / "run"), "--store", str(store), "--set", "joint.epochs=2"]
    assert run([*new, "--quick"]) == 0
    assert run(["train", str(folder / "run")]) == 0
    return folder


def imputed(mvflow, folder, given, covariate, out):
    run = ("impute", folder / "run", "--given", f"a={given}", "--covariate", covariate)
    found = mvflow(*run, "--out", out, "--n", 20)
    assert found.code == 0, found
    return pd.read_csv(out, index_col=0)


def test_values_are_found_by_the_names_of_rows(mvflow, trained, tmp_path):
    """In a file that has them in another order; each row is as if its value were that of all."""
    some = pd.read_csv(trained / "a.csv", index_col=0)[10:20]
    some.to_csv(tmp_path / "some.csv")
    by_row = imputed(
        mvflow,
        trained,
        tmp_path / "some.csv",
        f"batch={trained}/about.csv:batch",
        tmp_path / "o.csv",
    )
    assert [*by_row.index] == NAMES[10:20]
    for level, rows in (("A", slice(0, None, 2)), ("B", slice(1, None, 2))):
        alone = imputed(
            mvflow, trained, tmp_path / "some.csv", f"batch={level}", tmp_path / f"{level}.csv"
        )
        columns = [*"xy"]
        np.testing.assert_allclose(by_row[columns][rows], alone[columns][rows], rtol=1e-4)


def test_a_column_of_the_given_file_itself(mvflow, trained, tmp_path):
    both = pd.read_csv(trained / "a.csv", index_col=0)[:4]
    both["batch"] = [*"ABAB"]
    both.to_csv(tmp_path / "both.csv")
    made = imputed(mvflow, trained, tmp_path / "both.csv", "batch=obs:batch", tmp_path / "o.csv")
    assert made[[*"xy"]].notna().all(axis=None)


@pytest.mark.bad_input
def test_rows_without_a_value_are_named(mvflow, trained, tmp_path):
    about = pd.read_csv(trained / "about.csv", index_col=0)
    about.drop(index="r7").to_csv(tmp_path / "about.csv")
    found = mvflow(
        "impute", trained / "run", "--given", f"a={trained}/a.csv",
        "--covariate", f"batch={tmp_path}/about.csv:batch", "--out", tmp_path / "o.csv",
    )  # fmt: skip
    assert found.code == 1
    assert "about.csv:batch has no value for row 'r7' (1 are missing)" in found.err
