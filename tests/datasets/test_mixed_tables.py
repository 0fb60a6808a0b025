"""A clinical table of numbers, yes and no, classes and grades: in and out as it was."""

import numpy as np
import pandas as pd
import pytest

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, as_frame, import_data, read_modality

ROWS = 200
KINDS = {
    **dict.fromkeys(["age", "weight", "crp", "glucose"], "normal"),
    **dict.fromkeys(["smoker", "fever", "treated"], "bernoulli"),
    **dict.fromkeys(["blood", "site"], "categorical-columns"),
    **dict.fromkeys(["grade", "pain", "stage"], "ordinal"),
}


def clinical(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=rows)
    frame = pd.DataFrame(
        {
            "age": rng.normal(60, 11, rows).round(1),
            "smoker": np.array(["no", "yes"])[rng.integers(2, size=rows)],
            "weight": rng.normal(80, 12, rows).round(2),
            "blood": np.array(["0", "A", "AB", "B"])[rng.integers(4, size=rows)],
            "grade": np.digitize(severity, [-1, 0, 1]) + 1,
            "crp": rng.gamma(1, 20, rows).round(3),
            "fever": (severity > 0.5).astype(int),
            "site": np.array(["Lyon", "Rome", "Ulm"])[rng.integers(3, size=rows)],
            "pain": np.digitize(severity, np.linspace(-1.5, 1.5, 7)),
            "glucose": rng.normal(5.5, 0.8, rows).round(2),
            "treated": rng.integers(2, size=rows).astype(bool),
            "stage": rng.integers(2, 5, rows),
        },
        index=[f"p{i}" for i in range(rows)],
    )
    frame.loc[frame["blood"] == "0", "blood"] = "O"
    return frame


def likelihoods(modality):
    return [
        group["likelihood"]["kind"]
        for group in modality.likelihood["groups"]
        for _ in range(group.get("columns", 1))
    ]


def stored_frame(path):
    """All rows of the store as a table, in the order of the names."""
    with Store.open(path) as store:
        frames = [
            as_frame(s.take(np.arange(len(s)))["c"], s.units["c"], s.row_names)
            for s in map(store.__getitem__, store.splits)
        ]
        return pd.concat(frames), store.modalities[0], store.units["c"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_clinical_table_goes_in_and_out(tmp_path, suffix):
    frame, path = clinical(), tmp_path / f"c{suffix}"
    if suffix == ".csv":
        frame.to_csv(path)
    else:
        pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
        frame.to_parquet(path)
    steps = {"c:crp": "quantile", "c:glucose": "none"}
    done = import_data(tmp_path / "s.h5", Wanted({"c": str(path)}, transforms=steps))
    back, modality, units = stored_frame(tmp_path / "s.h5")
    assert dict(zip(units.names, likelihoods(modality), strict=True)) == KINDS
    assert "4 normal" in done.understood[0]
    assert any("column 'blood': categorical (A, AB, B, O)" in line for line in done.understood)
    back = back.loc[frame.index]
    assert list(back.columns) == list(frame.columns)
    for name, kind in KINDS.items():
        if kind == "normal":
            np.testing.assert_allclose(back[name], frame[name], rtol=1e-5, atol=1e-4)
        elif name in {"smoker", "blood", "site", "treated"}:
            assert back[name].tolist() == frame[name].astype(str).tolist()
        else:
            assert back[name].tolist() == frame[name].tolist()


def test_new_rows_have_the_codes_of_the_old_ones(tmp_path):
    clinical().to_csv(tmp_path / "c.csv")
    import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}))
    _, modality, units = stored_frame(tmp_path / "s.h5")
    new = clinical(1, 30)
    new.loc[new["site"] == "Lyon", "site"] = "Ulm"  # a class fewer must not move the others
    new[[*reversed(new.columns)]].to_csv(tmp_path / "new.csv")
    read = read_modality(tmp_path / "new.csv", modality, units)
    back = as_frame(read.values, units, read.row_names)
    assert back["site"].tolist() == new["site"].tolist()
    assert back["grade"].tolist() == new["grade"].tolist()
    np.testing.assert_allclose(back["age"], new["age"], rtol=1e-5)
    new.assign(site="Oslo").to_csv(tmp_path / "new.csv")
    with pytest.raises(MvflowError, match="column 'site': unknown class 'Oslo'"):
        read_modality(tmp_path / "new.csv", modality, units)


def test_kinds_of_columns_can_be_overruled(tmp_path):
    clinical().to_csv(tmp_path / "c.csv")
    chosen = {"c:pain": "poisson", "c:site": "ordinal", "c:fever": "categorical", "c": "student-t"}
    import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}, likelihoods=chosen))
    back, modality, units = stored_frame(tmp_path / "s.h5")
    kinds = dict(zip(units.names, likelihoods(modality), strict=True))
    assert kinds["pain"] == "poisson"
    assert kinds["site"] == "ordinal"
    assert kinds["fever"] == "categorical-columns"
    assert kinds["age"] == "student-t"
    assert back.loc[clinical().index, "pain"].tolist() == clinical()["pain"].tolist()


def test_a_table_of_numbers_is_mixed_where_columns_are_named(tmp_path):
    clinical()[["age", "grade", "pain"]].to_csv(tmp_path / "c.csv")
    import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}))
    assert stored_frame(tmp_path / "s.h5")[1].kind == "normal"
    wanted = Wanted({"c": f"{tmp_path}/c.csv"}, likelihoods={"c:grade": "ordinal"})
    import_data(tmp_path / "s.h5", wanted)
    assert likelihoods(stored_frame(tmp_path / "s.h5")[1])[1] == "ordinal"


REFUSED = {
    "unknown column 'pein'": {"likelihoods": {"c:pein": "poisson"}},
    "column 'blood' holds texts: a poisson": {"likelihoods": {"c:blood": "poisson"}},
    "column 'age': a ordinal likelihood needs 2 to 100": {"likelihoods": {"c:age": "ordinal"}},
    "column 'site' is categorical: log1p is for": {"transforms": {"c:site": "log1p"}},
    "unknown likelihood 'gauss'": {"likelihoods": {"c:age": "gauss"}},
}


@pytest.mark.bad_input
@pytest.mark.parametrize("what", REFUSED)
def test_choices_that_do_not_fit_are_one_sentence(tmp_path, what):
    clinical().to_csv(tmp_path / "c.csv")
    with pytest.raises(MvflowError, match=what) as caught:
        import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}, **REFUSED[what]))
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_columns_of_names_and_of_odd_texts_are_refused(tmp_path):
    frame = clinical()
    frame.assign(name=[f"n{i}" for i in range(ROWS)]).to_csv(tmp_path / "c.csv")
    with pytest.raises(MvflowError, match="line 2, column 'name' is 'n0': expected numbers"):
        import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}))
    frame["age"] = frame["age"].astype(str)
    frame.iloc[6, 0] = "old"
    frame.to_csv(tmp_path / "c.csv")
    with pytest.raises(MvflowError, match="line 8, column 'age' is 'old': expected numbers"):
        import_data(tmp_path / "s.h5", Wanted({"c": f"{tmp_path}/c.csv"}))
