"""What whole data sets say: the file of a row in a list of files, what to do about names of rows, and nothing about no rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

import dasp
from dasp.batch import open_source

MODEL = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def explained(source: object, out: Path) -> dasp.batch.Summary:
    return dasp.batch.explain(MODEL, source, out, on_error="set-aside", progress=False)  # type: ignore[arg-type]


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"a,b\n{text}")
    return path


def test_rows_of_a_list_of_files_are_called_by_their_file(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.csv", "1,2\n,4\n"), written(tmp_path / "b.csv", "5,x\n7,8\n")
    assert explained([first, second], tmp_path / "out").set_aside == 2
    (found,) = (tmp_path / "out" / "_set-aside").glob("*.parquet")
    assert pq.read_table(found, columns=["file", "row"]).to_pylist() == [
        {"file": "a.csv", "row": 2},
        {"file": "b.csv", "row": 1},
    ]
    with pytest.raises(dasp.DataFileError, match=r"^a.csv: row 2: column 'a' is empty"):
        dasp.batch.explain(MODEL, [first, second], tmp_path / "stopped", progress=False)


def test_files_of_one_name_are_called_as_they_were_given(tmp_path: Path) -> None:
    files = [written(tmp_path / folder / "a.csv", "1,2\n") for folder in ("x", "y")]
    source = open_source(files)
    assert [source.place(row) for row in (0, 1)] == [f"{file}: row 1" for file in files]
    assert [open_source(tmp_path).place(row) for row in (0, 1)] == ["x/a.csv: row 1", "y/a.csv: row 1"]


def test_no_rows_have_no_gap(tmp_path: Path) -> None:
    summary = explained(written(tmp_path / "a.csv", "x,y\n"), tmp_path / "out")
    assert (summary.rows, summary.set_aside) == (0, 1)
    assert "completeness" not in str(summary)


def test_a_mean_over_bad_rows_says_how_to_leave_them_out(tmp_path: Path) -> None:
    with pytest.raises(dasp.DataFileError, match=r"row 1: column 'a' is empty, so .* --on-error set-aside"):
        dasp.batch.mean(written(tmp_path / "a.csv", ",1\n2,3\n"))


def test_names_of_rows_are_to_be_left_out_by_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "a": [1.0], "b": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(dasp.DataFileError, match=r"column 'id' holds string, not numbers\. Name the columns to take"):
        open_source(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("id,a,b\nx,1,2\n")
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(dasp.DataFileError, match=r"'id'.*Name the columns to take"):
            dasp.tables.read_rows(tmp_path / name)
