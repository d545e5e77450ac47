"""Reading rows and baselines, and writing tables without ever leaving half a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dasp import tables
from dasp.checks import checked_names
from dasp.errors import DataFileError, InputError, MissingExtraError, OutputFileError
from dasp.tables import TableWriter, read_baseline, read_rows, tensor_of, unique_names

CSV = "age,dose,weight\n30,0.5,70\n41, 1.5 ,82.25\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_csv_is_read_by_name_and_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", CSV), columns=["weight", "age"])
    assert rows.names == ("weight", "age")
    np.testing.assert_array_equal(rows.data, [[70, 30], [82.25, 41]])


def test_a_real_table_reads_as_another_reader_reads_it(paper_data: Path) -> None:
    path = paper_data / "parkinsons_updrs.csv"
    rows = read_rows(path)
    assert (len(rows), rows.shape, (rows.names or ())[6]) == (5875, (22,), "Jitter(%)")
    np.testing.assert_array_equal(rows.data, np.loadtxt(path, delimiter=",", skiprows=1))


def test_every_column_is_taken_when_none_is_named(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", CSV))
    assert rows.names == ("age", "dose", "weight")
    np.testing.assert_array_equal(rows.data, [[30, 0.5, 70], [41, 1.5, 82.25]])


def test_csv_npy_and_parquet_agree(tmp_path: Path) -> None:
    csv = read_rows(write(tmp_path / "rows.csv", CSV))
    np.save(tmp_path / "rows.npy", csv.data)
    pq.write_table(pa.table(dict(zip(csv.names or (), csv.data.T, strict=True))), tmp_path / "rows.parquet")
    np.testing.assert_array_equal(read_rows(tmp_path / "rows.npy").data, csv.data)
    parquet = read_rows(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(parquet.data, csv.data)
    assert parquet.names == csv.names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x7\n", r"row 2, column 'b' is 'x7', which is not a number"),
        ("a,b\n1,2\n3,\n", r"row 2, column 'b' is empty"),
        ("a,b\n1,nan\n3,4\n", r"row 1, column 'b' is nan"),
        ("a,b\n1,2\n-inf,4\n", r"row 2, column 'a' is -inf"),
        ("a\n1\n\n3\n", r"row 2, column 'a' is empty"),
        ("a,b\n1,2\n3\n", r"not a table"),
        ("a,a\n1,2\n", r"column 'a' occurs twice"),
        ("1,2\n3,4\n", r"first line holds only numbers"),
        ("a,b\n", r"holds no rows"),
        ("", r"not a table"),
    ],
)
def test_a_bad_csv_is_named_with_its_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        read_rows(write(tmp_path / "rows.csv", text))


def test_many_columns_are_looked_through_once(tmp_path: Path) -> None:
    """Every name was compared with every other, in each file of a folder: 1.7 seconds for 8,000 columns."""
    names = [f"feature {number}" for number in range(50_000)]
    started = time.process_time()
    assert tables.pick_columns(tmp_path / "rows.parquet", names, names) == tuple(names)
    assert checked_names(names) == tuple(names)
    assert time.process_time() - started < 5
    assert tables.repeated("abcdefdc") == "d"


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no column 'height'; it has age, dose, weight"):
        read_rows(write(tmp_path / "rows.csv", CSV), columns=["age", "height"])


def test_text_outside_the_chosen_columns_does_no_harm(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", "id,x\nalice,1\nbob,2\n"), columns=["x"])
    np.testing.assert_array_equal(rows.data, [[1], [2]])


def test_lines_within_cells_of_other_columns_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a block of what is parsed at a time ends within such a cell."""
    monkeypatch.setattr(tables, "_BLOCK", 256)
    lines = [f'{row},"first line\nsecond, line {row}",{row / 2}' for row in range(200)]
    rows = read_rows(write(tmp_path / "rows.csv", "\n".join(['x,"a\nnote",y', *lines])), columns=["y", "x"])
    np.testing.assert_array_equal(rows.data, [[row / 2, row] for row in range(200)])


def test_a_parquet_with_text_or_gaps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": ["a", "b"]}), path)
    with pytest.raises(DataFileError, match="column 'x' holds string"):
        read_rows(path)
    pq.write_table(pa.table({"x": [1.0, None]}), path)
    with pytest.raises(DataFileError, match="row 2, column 'x' is empty"):
        read_rows(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataFileError, match="not a readable parquet file"):
        read_rows(path)


def test_bad_npy_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    path.write_bytes(b"not numpy")
    with pytest.raises(DataFileError, match=r"not a \.npy array"):
        read_rows(path)
    np.save(path, np.array(["a", "b"]))
    with pytest.raises(DataFileError, match="must be numbers"):
        read_rows(path)
    np.save(path, np.zeros((0, 3)))
    with pytest.raises(DataFileError, match="holds no rows"):
        read_rows(path)
    values = np.zeros((5, 2, 2), dtype=np.float32)
    values[3, 1, 0] = np.inf
    np.save(path, values)
    with pytest.raises(DataFileError, match=r"row 4, position \(1, 0\) is inf"):
        read_rows(path)
    np.save(path, np.zeros((2, 2)))
    with pytest.raises(DataFileError, match="no column names"):
        read_rows(path, columns=["a"])


def test_a_single_number_is_not_called_empty(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.float64(3))
    with pytest.raises(DataFileError, match="holds a single number"):
        read_rows(tmp_path / "rows.npy")


@pytest.mark.parametrize("text", ["größe,b\n1,2\n", "a,b\n1,ä\n"])
def test_text_in_another_encoding_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataFileError, match=r"UTF-?8"):
        read_rows(path)


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [3.0, 1e-3]])
    np.save(tmp_path / "rows.npy", values.astype(">f8"))
    rows = read_rows(tmp_path / "rows.npy")
    part = rows.chunk(0, 2)
    assert part.dtype.isnative
    np.testing.assert_array_equal(part, values)
    np.testing.assert_array_equal(rows.mean(), values.mean(0))
    np.save(tmp_path / "base.npy", values[1].astype(">f8"))
    base = read_baseline(str(tmp_path / "base.npy"), rows)
    assert isinstance(base, np.ndarray)
    assert base.dtype.isnative
    np.testing.assert_array_equal(base, values[1])


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e39, torch.float32, r"\(0, 1\) is 1e\+39, too large for float32"),
        (-7e4, torch.float16, r"\(0, 1\) is -70000, too large for float16"),
        (2.0**63, torch.int64, "9.22337e\\+18, not among the whole numbers"),
        (-129, torch.int8, r"-129, not among the whole numbers that the model takes \(int8, -128 to 127\)"),
        (0.5, torch.int64, "0.5, not among the whole numbers"),
        (2, torch.bool, "2, not among the whole numbers"),
    ],
)
def test_numbers_a_dtype_does_not_hold(value: float, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        tensor_of(np.array([[1.0, value], [value, 0.0]]), dtype, str)


def test_numbers_at_the_edge_of_a_dtype() -> None:
    edge = np.array([[-(2**63), 2**62]])
    assert tensor_of(edge, torch.int64, str).tolist() == [[-(2**63), 2**62]]
    assert tensor_of(np.array([2.0**53 - 1]), torch.int64, str).tolist() == [2**53 - 1]
    with pytest.raises(DataFileError, match=r"exact in a table \(below 2\^53\)"):
        tensor_of(np.array([2.0**62]), torch.int64, str)
    assert tensor_of(np.array([-128, 127]), torch.int8, str).tolist() == [-128, 127]
    largest = torch.finfo(torch.float32).max
    assert tensor_of(np.array([largest]), torch.float32, str).tolist() == [largest]


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no such file"):
        read_rows(tmp_path / "rows.csv")
    with pytest.raises(DataFileError, match="cannot tell the format"):
        read_rows(tmp_path / "rows.xlsx")


def test_baselines(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", CSV), columns=["weight", "age"])
    assert read_baseline("zeros", rows) == 0.0
    np.testing.assert_allclose(read_baseline("mean", rows), [76.125, 35.5], rtol=1e-15)
    one = write(tmp_path / "base.csv", "age,weight\n20,60\n")
    np.testing.assert_array_equal(read_baseline(str(one), rows), [60, 20])
    np.save(tmp_path / "base.npy", np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(read_baseline(str(tmp_path / "base.npy"), rows), [1, 2])


def test_several_rows_are_a_background(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", CSV), columns=["weight", "age"])
    np.testing.assert_array_equal(read_baseline(str(tmp_path / "rows.csv"), rows), [[70, 30], [82.25, 41]])
    np.save(tmp_path / "base.npy", np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(read_baseline(str(tmp_path / "base.npy"), rows), [[0, 1], [2, 3], [4, 5]])


def test_bad_baselines(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", CSV))
    with pytest.raises(DataFileError, match="give zeros, mean"):
        read_baseline("ones", rows)
    array = tmp_path / "rows.npy"
    np.save(array, np.zeros((2, 4)))
    with pytest.raises(DataFileError, match=r"this file holds 2 of shape \(3,\)"):
        read_baseline(str(tmp_path / "rows.csv"), read_rows(array))
    np.save(tmp_path / "base.npy", np.zeros(4))
    with pytest.raises(DataFileError, match=r"shape \(4,\), but one row .* shape \(3,\)"):
        read_baseline(str(tmp_path / "base.npy"), rows)
    np.save(tmp_path / "base.npy", np.array([0.0, np.nan, 0.0]))
    with pytest.raises(DataFileError, match="finite"):
        read_baseline(str(tmp_path / "base.npy"), rows)


def test_chunks_are_appended_and_metadata_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with TableWriter(path) as writer:
        writer.write({"row": np.arange(2), "x": np.array([0.5, 1.5])}, metadata={"dasp": "settings"})
        writer.write({"row": np.arange(2, 3), "x": np.array([2.5])}, metadata={"dasp": "settings"})
    table = pq.read_table(path)
    assert table.to_pydict() == {"row": [0, 1, 2], "x": [0.5, 1.5, 2.5]}
    assert table.schema.metadata[b"dasp"] == b"settings"
    assert os.listdir(tmp_path) == ["out.parquet"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_what_was_there_before(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = write(tmp_path / "out.parquet", "before")
    with pytest.raises(interruption), TableWriter(path) as writer:
        writer.write({"x": np.arange(3)}, metadata={})
        raise interruption
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_the_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "out.parquet") as writer:
        writer.write({"x": np.arange(3)}, metadata={})
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "out.parquet").stat().st_mode == usual.stat().st_mode


def test_an_unwritable_output_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match="does not exist"):
        TableWriter(tmp_path / "nowhere" / "out.parquet")
    with pytest.raises(OutputFileError, match=r"is a folder; name a \.parquet file, or end it in a slash"):
        TableWriter(tmp_path)
    with pytest.raises(OutputFileError, match=r"only parquet is written; .*or in a slash to write parts"):
        TableWriter(tmp_path / "values")
    write(tmp_path / "file", "")
    with pytest.raises(OutputFileError, match="does not exist"):
        TableWriter(tmp_path / "file" / "out.parquet")
    with pytest.raises(OutputFileError, match="cannot be written there"):
        TableWriter(tmp_path / ("long" * 70 + ".parquet"))


def test_files_that_are_read_are_never_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", "rows")
    os.link(path, tmp_path / "hard.parquet")
    for out in (path, tmp_path / "hard.parquet"):
        with pytest.raises(OutputFileError, match="would be lost"):
            TableWriter(out, spare=["zeros", None, path])
    assert sorted(os.listdir(tmp_path)) == ["hard.parquet", "rows.parquet"]
    with pytest.raises(OutputFileError, match=r"ends in \.parquet"):
        TableWriter(tmp_path / "out.csv")


def test_names_that_would_clash_are_refused() -> None:
    assert unique_names(["a", "b"], ["row"], "rows.csv") == ("a", "b")
    with pytest.raises(InputError, match="'b' occurs twice"):
        unique_names(["b", "a", "b"], ["row"], "rows.csv")
    with pytest.raises(InputError, match="'row' is the name of a result column"):
        unique_names(["row"], ["row"], "rows.csv")


def test_a_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("dasp.tables.importlib.import_module", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'dasp\[table\]'"):
        read_rows(write(tmp_path / "rows.csv", CSV))
