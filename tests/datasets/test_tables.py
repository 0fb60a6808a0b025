"""Tables as people have them: what is guessed is right, is said, and can be overruled."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import ReadOptions, Wanted, import_data
from mvflow_datasets.importing.layout import guess_layout
from mvflow_datasets.importing.references import Reference
from mvflow_datasets.importing.tables import read_column, read_table

ROWS = 40


def values(seed=0, columns=2):
    return np.random.default_rng(seed).normal(size=(ROWS, columns)).round(4)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return Reference(path)


def table_text(header, x, separator=","):
    rows = [separator.join(map(repr, row)) for row in x.tolist()]
    return "\n".join([*([header] if header else []), *rows, ""])


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("a,b", ","),
        ("a\tb", "\t"),
        ("a|b", "|"),
        ("a b", " "),
        ('"len, cm";b', ";"),
        ('"length\n(cm)",b', ","),
        ('"a|b",c', ","),
    ],
)
def test_separators_are_found_whatever_the_suffix(tmp_path, header, separator):
    x = values()
    raw = read_table(write(tmp_path / "x.csv", table_text(header, x, separator)))
    np.testing.assert_array_equal(raw.values, x)
    assert any("separated by" in guess for guess in raw.guesses)


@pytest.mark.parametrize("header", ["0,1,2", "400,410,420", "1_1,1_2,1_3", "1,x,3"])
def test_a_header_of_numbers_is_a_header(tmp_path, header):
    x = values(columns=3)
    raw = read_table(write(tmp_path / "x.csv", table_text(header, x)))
    assert raw.columns == tuple(header.split(","))
    np.testing.assert_array_equal(raw.values, x)
    assert any("line 1 names the columns" in guess for guess in raw.guesses)


def test_a_header_that_counts_over_whole_numbers_and_repeats_a_name(tmp_path):
    x = np.random.default_rng(0).integers(7, size=(ROWS, 8))
    raw = read_table(write(tmp_path / "x.csv", table_text("0,1,2,3,4,5,6,0", x)))
    assert raw.columns == (*"0123456", "0.1")
    np.testing.assert_array_equal(raw.values, x)
    assert "two columns named '0'" in raw.warnings[0]


@pytest.mark.parametrize("whole", [True, False])
def test_rows_without_a_header_are_rows(tmp_path, whole):
    x = np.random.default_rng(1).integers(9, size=(ROWS, 6)) if whole else values(columns=6)
    at = write(tmp_path / "x.csv", table_text("", x))
    raw = read_table(at)
    np.testing.assert_array_equal(raw.values, x)
    assert any("is data" in guess for guess in raw.guesses)
    np.testing.assert_array_equal(read_table(at, (), ReadOptions(header=1)).values, x[1:])


def test_options_overrule_every_guess(tmp_path):
    text = "made on Monday\n7;8\n1;-\n3;4\n5;6\n"
    at = write(tmp_path / "x.csv", text)
    options = ReadOptions(header=2, separator=";", index="7", na_tokens=("?",))
    with pytest.raises(MvflowError, match="line 3, column '8' is '-': expected numbers"):
        read_table(at, (), options)
    with pytest.raises(MvflowError, match=r"line 3, column '8' is missing \('-'\)"):
        read_table(at, (), ReadOptions(2, ";", "7", ("-",)))
    raw = read_table(write(tmp_path / "x.csv", text.replace("-", "2")), (), options)
    assert raw.columns == ("8",)
    assert raw.keys.tolist() == ["1", "3", "5"]
    assert raw.values.tolist() == [[2], [4], [6]]
    assert not raw.guesses
    with pytest.raises(MvflowError, match="--index: .*unknown column '9'"):
        read_table(at, (), ReadOptions(2, ";", "9"))


def test_decimal_commas(tmp_path):
    x = values()
    text = table_text("a;b", x, ";").replace(".", ",")
    raw = read_table(write(tmp_path / "x.csv", text))
    np.testing.assert_array_equal(raw.values, x)
    assert any("decimal commas" in guess for guess in raw.guesses)


def test_row_names_of_pandas_and_of_r(tmp_path):
    frame = pd.DataFrame(values(), [f"s{i}" for i in range(ROWS)], ["a", "b"])
    for text in (frame.to_csv(), "a,b\n" + frame.to_csv(header=False)):
        raw = read_table(write(tmp_path / "x.csv", text))
        assert raw.columns == ("a", "b")
        assert raw.keys.tolist() == frame.index.tolist()
        np.testing.assert_array_equal(raw.values, frame.to_numpy())


def test_names_with_commas_and_colons(tmp_path):
    path = tmp_path / "x.csv"
    write(path, table_text('chr1:100-200,"a, b",c', values(columns=3)))
    assert read_table(Reference.parse(f"{path}:chr1:100-200")).columns == ("chr1:100-200",)
    assert read_table(Reference.parse(f'{path}:c,"a, b"')).columns == ("c", "a, b")
    genes = [f"ENSG{i:011d}" for i in range(40)]
    write(path, table_text(",".join(genes), values(columns=40)))
    chosen = genes[5:35]
    assert read_table(Reference.parse(f"{path}:{','.join(chosen)}")).columns == tuple(chosen)


def test_what_looks_like_a_label_or_an_index_is_pointed_out_and_kept(tmp_path):
    x = np.c_[np.arange(ROWS), values(), np.arange(ROWS) % 3, np.arange(ROWS) % 2]
    raw = read_table(write(tmp_path / "x.csv", table_text("n,a,b,c,class", x)))
    assert raw.columns == ("n", "a", "b", "c", "class")
    said = " ".join(raw.warnings)
    assert "column 'n' counts the rows" in said
    assert "column 'class' has 2 different values and looks like a label" in said
    assert "column 'c'" not in said


def test_a_sorted_last_column_looks_like_a_label_among_whole_numbers(tmp_path):
    x = np.random.default_rng(0).integers(7, size=(ROWS, 4))
    x[:, 3] = np.repeat(np.arange(4), ROWS // 4)
    raw = read_table(write(tmp_path / "x.csv", table_text("a,b,c,d", x)))
    assert [w for w in raw.warnings if "looks like a label" in w][0].count("column 'd'") == 1
    shuffled = np.random.default_rng(0).permutation(x)
    raw = read_table(write(tmp_path / "x.csv", table_text("a,b,c,d", shuffled)))
    assert not raw.warnings


def test_texts_stay_as_they_are_written(tmp_path):
    kinds = np.array(["01", "1", "1_1", "11"])[np.arange(ROWS) % 4]
    at = write(tmp_path / "x.csv", "kind,x\n" + "\n".join(f"{k},2" for k in kinds))
    assert read_column(Reference(at.path, "kind")).values.tolist() == kinds.tolist()
    np.save(tmp_path / "x.npy", values())
    wanted = Wanted({"x": str(tmp_path / "x.npy")}, labels=f"{at.path}:kind")
    import_data(tmp_path / "out.h5", wanted)
    with Store.open(tmp_path / "out.h5") as store:
        assert sorted(store.class_names.values()) == ["01", "1", "11", "1_1"]


@pytest.mark.parametrize("missing", ["nan", "", "NA", "<NA>"])
@pytest.mark.parametrize("fact", ["labels", "groups", "keys"])
@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet", ".h5ad"])
def test_missing_texts_are_missing_from_every_reader(tmp_path, missing, fact, suffix):
    x, place = tmp_path / "x.npy", tmp_path / f"l{suffix}"
    np.save(x, values())
    texts = np.array([missing if i == 7 else f"{'BT'[i % 2]}" for i in range(ROWS)])
    frame = pd.DataFrame({"l": texts, "o": 1.0}, [f"c{i}" for i in range(ROWS)])
    if suffix == ".npy":
        np.save(place, texts)
    elif suffix == ".csv":
        frame.to_csv(place)
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
        frame.to_parquet(place)
    else:
        anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
        anndata.AnnData(np.zeros((ROWS, 1)), obs=frame).write_h5ad(place)
    reference = f"{place}:l" if suffix != ".npy" else str(place)
    wanted = {fact: {"x": reference} if fact == "keys" else reference}
    with pytest.raises(MvflowError, match="is missing"):
        import_data(tmp_path / "out.h5", Wanted({"x": str(x)}, **wanted))


def test_a_named_index_of_parquet_names_rows(tmp_path):
    pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
    frame = pd.DataFrame({"u": values()[:, 0]}, pd.Index(np.arange(ROWS)[::-1] + 7, name="id"))
    frame.to_parquet(tmp_path / "x.parquet")
    raw = read_table(Reference(tmp_path / "x.parquet"))
    assert raw.columns == ("u",)
    assert raw.keys.tolist() == [str(i) for i in frame.index]


def test_rows_with_more_cells_are_refused_far_behind_the_sample(tmp_path):
    lines = table_text("a,b", np.ones((500, 2))).splitlines()
    lines[300] += ",7"
    lines.insert(100, "")
    at = write(tmp_path / "x.csv", "\n".join(lines))
    for part in ("", "a"):
        with pytest.raises(MvflowError, match="line 302 has 3 cells: expected 2"):
            read_table(Reference(at.path, part))


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1)
plain_names = names.filter(lambda n: n.strip() == n and n not in {"Unnamed: 0"})


@given(
    st.lists(plain_names, min_size=2, max_size=5, unique=True),
    st.sampled_from([",", ";", "\t", "|"]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_what_pandas_writes_is_read_as_it_was(tmp_path_factory, columns, separator, seed):
    frame = pd.DataFrame(values(seed, len(columns)), columns=columns)
    text = io.StringIO()
    frame.to_csv(text, sep=separator, index=False)
    path = tmp_path_factory.mktemp("t") / "x.csv"
    at = write(path, text.getvalue())
    assert guess_layout(path, ReadOptions()).separator == separator
    raw = read_table(at)
    assert raw.columns == tuple(columns)
    np.testing.assert_array_equal(raw.values, frame.to_numpy())
