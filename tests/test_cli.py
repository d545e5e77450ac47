"""The command line, from files to files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import dasp
from dasp.cli import main

Capture = pytest.CaptureFixture[str]


class Net(torch.nn.Module):
    """Three features, two outputs; the products make the values differ from weight times input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * x[:, 1] + x[:, 2], 3 * x[:, 0] - x[:, 1] * x[:, 2]], dim=1) * self.scale

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))


ROWS = np.array([[1.0, 2.0, 3.0], [2.0, -1.0, 0.5], [0.0, 4.0, 1.0]])
# Zero baseline, hand-computed: a product is shared evenly by its two factors.
FIRST = 2 * np.stack([ROWS[:, 0] * ROWS[:, 1] / 2, ROWS[:, 0] * ROWS[:, 1] / 2, ROWS[:, 2]], axis=1)
SECOND = 2 * np.stack([3 * ROWS[:, 0], -ROWS[:, 1] * ROWS[:, 2] / 2, -ROWS[:, 1] * ROWS[:, 2] / 2], axis=1)


def save(model: torch.nn.Module, example: torch.Tensor, path: Path) -> Path:
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Net(), torch.zeros(2, 3), tmp_path_factory.mktemp("net") / "net.pt2")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS))
    return path


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def explain(net: Path, rows: Path, *more: Any, out: Path | None = None, baseline: Any = "zeros") -> tuple[int, Any]:
    out = rows.parent / "out.parquet" if out is None else out
    method = () if "--method" in more else ("--method", "exact")
    code = run("explain", net, rows, "--baseline", baseline, "--out", out, *method, *more)
    return code, pq.read_table(out) if code == 0 else None


def values(table: Any, names: Sequence[str] = "abc") -> Any:
    return np.stack([table.column(name).to_numpy() for name in names], axis=1)


def test_values_are_those_computed_by_hand(net: Path, rows: Path) -> None:
    code, table = explain(net, rows, "--target", 0)
    assert code == 0
    assert table.column_names == ["sample", "target", "a", "b", "c", "base_value", "output", "gap"]
    np.testing.assert_allclose(values(table), FIRST, atol=1e-6)
    np.testing.assert_allclose(table.column("output"), FIRST.sum(1), atol=1e-6)
    np.testing.assert_array_equal(table.column("base_value"), np.zeros(3))
    np.testing.assert_allclose(table.column("gap"), np.zeros(3), atol=1e-6)
    assert table.column("sample").to_pylist() == [0, 1, 2]
    assert table.column("target").to_pylist() == [0, 0, 0]


def test_chunks_change_nothing(net: Path, rows: Path) -> None:
    whole = explain(net, rows, "--target", 1)[1]
    parts = explain(net, rows, "--target", 1, "--chunk", 2)[1]
    assert parts.column("sample").to_pylist() == [0, 1, 2]
    np.testing.assert_allclose(values(parts), values(whole), rtol=1e-6)


def test_argmax_picks_each_rows_largest_output(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", "argmax")[1]
    larger = FIRST.sum(1) < SECOND.sum(1)
    assert larger.tolist() == [False, True, False]
    assert table.column("target").to_pylist() == larger.astype(int).tolist()
    np.testing.assert_allclose(values(table), np.where(larger[:, None], SECOND, FIRST), atol=1e-5)


def test_several_targets_follow_one_another(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", 0, "--target", 1)[1]
    assert table.column("sample").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert table.column("target").to_pylist() == [0, 1] * 3
    np.testing.assert_allclose(values(table)[1::2], SECOND, atol=1e-5)


def test_the_mean_and_a_file_as_baseline(net: Path, rows: Path) -> None:
    mean = explain(net, rows, "--target", 0, baseline="mean")[1]
    # Mean row 1, 5/3, 3/2: the output there is 2 (5/3 + 3/2).
    np.testing.assert_allclose(mean.column("base_value"), np.full(3, 19 / 3), rtol=1e-5)
    file = rows.parent / "base.csv"
    file.write_text("c,b,a\n1,0,0\n")
    table = explain(net, rows, "--target", 0, baseline=file)[1]
    np.testing.assert_allclose(table.column("base_value"), np.full(3, 2.0), rtol=1e-6)


def test_columns_are_picked_and_ordered(net: Path, rows: Path) -> None:
    wide = rows.parent / "wide.csv"
    lines = ["name,c,b,a"] + [f"x,{row[2]},{row[1]},{row[0]}" for row in ROWS]
    wide.write_text("\n".join(lines))
    table = explain(net, wide, "--target", 0, "--columns", "a,b,c")[1]
    np.testing.assert_allclose(values(table), FIRST, atol=1e-6)


def test_settings_are_in_the_metadata(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", 0, "--method", "permutation", "--permutations", 8, "--seed", 3)[1]
    about = json.loads(table.schema.metadata[b"dasp"])
    assert about["method"] == "PermutationSampling"
    assert (about["settings"]["permutations"], about["settings"]["seed"]) == (8, 3)
    assert (about["baseline"], about["target"], about["dtype"]) == ("zeros", ["0"], "float32")


def test_sampling_writes_its_standard_errors(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", 0, "--method", "permutation", "--permutations", 8)[1]
    assert {"a_se", "b_se", "c_se"} <= set(table.column_names)
    # An antithetic pair shares every product of two features evenly: no error at all.
    np.testing.assert_allclose(values(table), FIRST, atol=1e-5)
    np.testing.assert_allclose(table.column("a_se"), np.zeros(3), atol=1e-5)


def test_audit_adds_the_measured_error(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", 0, "--audit", 100)[1]
    assert (np.array(table.column("audit_error")) < 1e-3).all()
    assert (np.array(table.column("audit_high")) >= np.array(table.column("audit_low"))).all()
    assert set(table.column("audit_evaluations").to_pylist()) <= {8}


def test_the_summary_says_how_far_the_audits_intervals_reach(net: Path, rows: Path, tmp_path: Path, capsys: Capture) -> None:
    background = tmp_path / "background.npy"  # 8 coalitions of 100 rows are more than 500: the audit is a sample
    np.save(background, np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32))
    table = explain(net, rows, "--target", 0, "--audit", 500, baseline=background)[1]
    high = np.array(table.column("audit_high"))
    assert high.max() > 0.01
    said = capsys.readouterr()
    assert f"its 95 % intervals end at {np.median(high):.1%} (median), {high.max():.1%} (largest)" in said.out + said.err


def test_double_precision_is_computed_in_double(net: Path, rows: Path) -> None:
    table = explain(net, rows, "--target", 0, "--dtype", "float64")[1]
    assert str(table.schema.field("a").type) == "double"
    np.testing.assert_allclose(values(table), FIRST, atol=1e-13)


def test_a_last_chunk_of_one_row_changes_nothing(net: Path, rows: Path) -> None:
    for more in ((), ("--dtype", "float64")):
        table = explain(net, rows, "--target", "argmax", "--chunk", 2, *more)[1]
        assert table.column("target").to_pylist() == [0, 1, 0]
        np.testing.assert_allclose(values(table)[[0, 2]], FIRST[[0, 2]], atol=1e-5)


def test_propagation_takes_its_options(net: Path, rows: Path) -> None:
    options = ["--method", "propagation", "--nodes", 3, "--rule", "legendre", "--rank", "full", "--mixture", 1]
    table = explain(net, rows, "--target", 0, *options)[1]
    settings = json.loads(table.schema.metadata[b"dasp"])["settings"]
    assert [settings[name] for name in ("nodes", "rule", "rank", "mixture")] == [3, "legendre", "full", 1]
    # Sums and products of two are exact, and a polynomial of degree 1 in q needs no more than one node.
    np.testing.assert_allclose(values(table), FIRST, atol=1e-5)


def test_whole_numbers_are_not_rounded(tmp_path: Path, capsys: Capture) -> None:
    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x).squeeze(-1).sum(1)

    model = Lookup()
    net = save(model, torch.zeros(2, 3, dtype=torch.int64), tmp_path / "net.pt2")
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,c\n1,2,3\n")
    weights = model.table.weight.detach().squeeze(1)
    table = explain(net, rows, "--players", "tokens")[1]
    np.testing.assert_allclose(values(table, ("token_0", "token_1", "token_2"))[0], weights[1:] - weights[0], atol=1e-6)
    rows.write_text("a,b,c\n1,2,3.5\n")
    assert explain(net, rows, "--players", "tokens")[0] == 2
    assert "whole numbers" in capsys.readouterr().err


def test_images_and_their_players_have_names(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).mean(1) * 8

    net = save(Mean(), torch.zeros(2, 1, 2, 4), tmp_path / "mean.pt2")
    rows = tmp_path / "rows.npy"
    np.save(rows, np.arange(8.0).reshape(1, 1, 2, 4))
    table = explain(net, rows)[1]
    assert table.column_names[2:10] == [f"p_{row}_{column}" for row in range(2) for column in range(4)]
    np.testing.assert_allclose(table.column("p_1_2"), [6.0], rtol=1e-6)
    patches = explain(net, rows, "--players", "grid:2x2")[1]
    assert patches.column_names[2:4] == ["patch_0_0", "patch_0_1"]
    np.testing.assert_allclose(patches.column("patch_0_1"), [2 + 3 + 6 + 7], rtol=1e-6)
    np.save(tmp_path / "mask.npy", np.array([[5, 5, 5, 5], [7, 7, 7, 7]]))
    masked = explain(net, rows, "--players", tmp_path / "mask.npy")[1]
    np.testing.assert_allclose(masked.column("player_7"), [22.0], rtol=1e-6)


def test_a_table_without_names_numbers_its_players(net: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    table = explain(net, tmp_path / "rows.npy", "--target", 0)[1]
    np.testing.assert_allclose(values(table, ("p0", "p1", "p2")), FIRST, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "a,b,height"], "no column 'height'"),
        (["--target", "2"], "target"),
        (["--target", "best"], "--target 'best'"),
        (["--target", "argmax", "--target", "1"], "cannot be combined"),
        ([], "target"),
        (["--players", "grid:2"], "--players 'grid:2'"),
        (["--players", "grid:2x2", "--target", "0"], "patches need two axes"),
        (["--players", "nothing.npy"], "nothing.npy"),
        (["--nodes", "4"], "--nodes is an option of --method propagation"),
        (["--target", "0", "--audit", "3"], "too few"),
        (["--columns", "a,b,c,c", "--target", "0"], "column 'c' is asked for twice"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(
    net: Path, rows: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    code, _ = explain(net, rows, *arguments)
    error = capsys.readouterr().err
    assert code == 2
    said = [line for line in error.splitlines() if not line.startswith("  on the command line: ")]
    assert said[-1].startswith("error: ")
    assert message in said[-1]
    assert "Traceback" not in error
    assert sorted(os.listdir(rows.parent)) == ["rows.csv"]


TARGET = "--target N|N,M|argmax (output to explain, N,M of several axes; repeat it for several)"


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ([], TARGET),
        (["--target", "0,1"], TARGET),
        (["--target", "0", "--audit", "3"], "--audit N (measure every row's error with N evaluations)"),
        (["--target", "0", "--method", "gradients", "--samples", "2"], "--samples N (gradients: how many, in pairs)"),
        (["--target", "0", "--method", "refine", "--semivalue", "banzhaf"],
         "--method propagation or --method exact or --method permutation; "
         "--semivalue banzhaf|beta:A,B (other weights than Shapley's)"),
        (["--target", "0,x"], None),
    ],
)  # fmt: skip
def test_advice_is_given_in_options(net: Path, rows: Path, capsys: Capture, arguments: list[str], flags: str | None) -> None:
    assert explain(net, rows, *arguments)[0] == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"  on the command line: {flags}" if flags else "repeat --target" in line


@pytest.mark.parametrize("content", ["a,b,c\n1,2,x\n", "a,b,c\n1,2,nan\n"])
def test_a_bad_cell_is_named(net: Path, rows: Path, capsys: Capture, content: str) -> None:
    rows.write_text(content)
    code, _ = explain(net, rows, "--target", 0)
    assert code == 2
    assert "row 1, column 'c'" in capsys.readouterr().err


def test_a_column_with_the_name_of_a_result_is_refused(net: Path, rows: Path, capsys: Capture) -> None:
    rows.write_text("a,output,c\n1,2,3\n")
    assert explain(net, rows, "--target", 0)[0] == 2
    assert "'output' is the name of a result column" in capsys.readouterr().err


def test_a_corrupt_or_foreign_model_is_refused(rows: Path, capsys: Capture) -> None:
    for content in (b"", b"PK\x03\x04 torn", b"not a zip"):
        broken = rows.parent / "broken.pt2"
        broken.write_bytes(content)
        assert explain(broken, rows)[0] == 2
        assert "broken.pt2" in capsys.readouterr().err
    torch.save({"weight": torch.ones(2)}, rows.parent / "state.pt2")
    assert explain(rows.parent / "state.pt2", rows)[0] == 2
    assert "error: " in capsys.readouterr().err


def test_an_unwritable_output_is_found_before_any_work(net: Path, rows: Path, capsys: Capture) -> None:
    code, _ = explain(net, rows, "--target", 0, out=rows.parent / "no" / "out.parquet")
    assert code == 2
    assert "does not exist" in capsys.readouterr().err
    # The output is looked at even before the model, which is missing here.
    code, _ = explain(rows.parent / "missing.pt2", rows, out=rows.parent / "no" / "out.parquet")
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["model", "rows", "baseline", "players"])
@pytest.mark.parametrize("way", ["itself", "dotted", "symlink"])
def test_an_input_is_never_the_output(net: Path, rows: Path, capsys: Capture, role: str, way: str) -> None:
    folder = rows.parent
    given: dict[str, Any] = {"model": net, "rows": rows, "baseline": "zeros", "players": "channels"}
    given[role] = folder / "precious.parquet"
    given[role].write_bytes(b"precious")
    out = str(given[role])
    if way == "dotted":
        out = f"{folder}/./precious.parquet"
    elif way == "symlink":
        out = str(folder / "link.parquet")
        os.symlink(given[role], out)
    before = sorted(os.listdir(folder))
    options = ["--baseline", given["baseline"], "--players", given["players"]]
    assert run("explain", given["model"], given["rows"], "--out", out, *options) == 2
    assert "would be lost" in capsys.readouterr().err
    assert given[role].read_bytes() == b"precious"
    assert sorted(os.listdir(folder)) == before


def test_only_parquet_is_written(net: Path, rows: Path, capsys: Capture) -> None:
    for name in ("o.csv", "o", "parquet"):
        assert explain(net, rows, "--target", 0, out=rows.parent / name)[0] == 2
        assert "ends in .parquet" in capsys.readouterr().err
    assert os.listdir(rows.parent) == ["rows.csv"]


@pytest.mark.parametrize(
    ("header", "more", "count"),
    [("a,b", [], 2), ("a,b,c,d", [], 4), ("a,b,c,d", ["--columns", "d,a"], 2)],
)
def test_the_number_of_columns_is_compared_with_the_model(
    net: Path, rows: Path, capsys: Capture, header: str, more: list[str], count: int
) -> None:
    width = len(header.split(","))
    rows.write_text(header + "\n" + (",".join("1" * width) + "\n") * 20)
    assert explain(net, rows, "--target", 0, *more)[0] == 2
    error = capsys.readouterr().err
    names = (more[1] if more else header).replace(",", ", ")
    assert f"rows.csv: {count} columns ({names}), but {net} takes 3 numbers a row" in error
    assert "--columns" in error


def test_the_shape_of_rows_is_compared_with_the_model(net: Path, rows: Path, capsys: Capture) -> None:
    np.save(rows.parent / "rows.npy", np.zeros((20, 4, 2)))
    assert explain(net, rows.parent / "rows.npy", "--target", 0)[0] == 2
    assert f"a row has shape (4, 2), but {net} takes rows of shape (3,)" in capsys.readouterr().err
    image = save(torch.nn.Flatten(), torch.zeros(2, 1, 3), rows.parent / "image.pt2")
    assert explain(image, rows, "--target", 0)[0] == 2
    assert "takes rows of shape (1, 3). Save such rows as .npy" in capsys.readouterr().err


def test_models_of_several_arguments_are_left_to_python(tmp_path: Path, rows: Path, capsys: Capture) -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: Any) -> torch.Tensor:
            return (x * y).sum(1)

    batch = {0: torch.export.Dim.AUTO}
    example = torch.ones(2, 3)
    for second, shapes, said in ((example, (batch, batch), "takes 2 inputs"), (2, (batch, None), "takes y")):
        program = torch.export.export(Two(), (example, second), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "two.pt2")
        assert explain(tmp_path / "two.pt2", rows)[0] == 2
        assert said in capsys.readouterr().err


def test_numbers_beyond_the_models_precision_are_named(net: Path, rows: Path, capsys: Capture) -> None:
    content = "a,b,c\n1,2,3\n1,2,1e39\n"
    rows.write_text(content)
    assert explain(net, rows, "--target", 0, "--chunk", 1)[0] == 2
    error = capsys.readouterr().err
    assert f"{rows}: row 2, column 'c' is 1e+39, too large for float32" in error
    assert "--dtype float64" in error
    # The largest number that fits, and in double precision the other: c alone is in the first output, times 2.
    rows.write_text(content.replace("1e39", "1e30"))
    np.testing.assert_allclose(explain(net, rows, "--target", 0)[1].column("c")[1].as_py(), 2e30, rtol=1e-6)
    rows.write_text(content)
    table = explain(net, rows, "--target", 0, "--dtype", "float64")[1]
    np.testing.assert_allclose(table.column("c")[1].as_py(), 2e39, rtol=1e-12)
    base = rows.parent / "base.csv"
    base.write_text("a,b,c\n0,-1e39,0\n")
    assert explain(net, rows, "--target", 0, "--columns", "a,b", baseline=base)[0] == 2
    capsys.readouterr()
    rows.write_text("a,b,c\n1,2,3\n")
    assert explain(net, rows, "--target", 0, baseline=base)[0] == 2
    assert "base.csv: column 'b' is -1e+39, too large for float32" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [">f8", ">f4", ">i2", "longdouble", "float16"])
def test_every_kind_of_number_is_taken(net: Path, tmp_path: Path, kind: str) -> None:
    stored = np.round(ROWS).astype(kind)
    np.save(tmp_path / "rows.npy", stored)
    np.save(tmp_path / "base.npy", stored[0] * 0)
    np.save(tmp_path / "mask.npy", np.array([4, 2, 9], dtype=">i4"))
    arguments = ("--target", 0, "--players", tmp_path / "mask.npy")
    table = explain(net, tmp_path / "rows.npy", *arguments, baseline=tmp_path / "base.npy")[1]
    a, b, c = np.round(ROWS).T
    expected = 2 * np.stack([a * b / 2, a * b / 2, c])
    found = [table.column(f"player_{number}") for number in (4, 2, 9)]
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["float64", "bool", "U1"])
def test_a_mask_of_other_than_whole_numbers_says_how_to_save_one(
    net: Path, rows: Path, capsys: Capture, kind: str
) -> None:
    np.save(rows.parent / "mask.npy", np.array([0, 1, 1]).astype(kind))
    assert explain(net, rows, "--target", 0, "--players", rows.parent / "mask.npy")[0] == 2
    assert 'numpy.save("mask.npy", mask.astype("int64"))' in capsys.readouterr().err


def test_an_interrupt_between_chunks_leaves_the_old_file(
    net: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = rows.parent / "out.parquet"
    out.write_text("before")
    whole = dasp.Explainer.__call__
    calls: list[int] = []

    def interrupted(self: dasp.Explainer, *arguments: Any, **options: Any) -> dasp.Attribution:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(dasp.Explainer, "__call__", interrupted)
    assert explain(net, rows, "--target", 0, "--chunk", 1, out=out)[0] == 130
    assert "interrupted" in capsys.readouterr().err
    assert out.read_text() == "before"
    assert sorted(os.listdir(rows.parent)) == ["out.parquet", "rows.csv"]


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(
    ("kind", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM"),
                               (signal.SIGHUP, 129, "SIGHUP")],
)  # fmt: skip
def test_a_signal_leaves_no_half_file(net: Path, rows: Path, kind: signal.Signals, code: int, said: str) -> None:
    out = rows.parent / "out.parquet"
    endless = ["--method", "permutation", "--permutations", "100000000", "--target", "0", "--baseline", "zeros"]
    command = [sys.executable, "-m", "dasp.cli", "explain", str(net), str(rows), "--out", str(out), *endless, "--progress"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.read(1), "the progress bar shows that the rows are being explained"
        assert len(os.listdir(rows.parent)) == 2, "the temporary file should stand beside the rows"
        time.sleep(0.5)
        process.send_signal(kind)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert f"{said}: nothing was written" in error
    assert "Traceback" not in error
    assert os.listdir(rows.parent) == ["rows.csv"]


def test_progress_can_be_asked_for(net: Path, rows: Path, capsys: Capture) -> None:
    explain(net, rows, "--target", 0, "--progress")
    assert "3/3" in capsys.readouterr().err
    explain(net, rows, "--target", 0, "--no-progress")
    assert "3/3" not in capsys.readouterr().err


def test_explain_without_a_rule_names_the_other_methods(tmp_path: Path, capsys: Capture) -> None:
    class Sorted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).cumsum(1).sort(dim=1).values

    save(Sorted(), torch.zeros(2, 3), tmp_path / "net.pt2")
    np.save(tmp_path / "rows.npy", ROWS)
    assert explain(tmp_path / "net.pt2", tmp_path / "rows.npy", "--target", 0, "--method", "propagation")[0] == 2
    error = capsys.readouterr().err
    assert "aten.sort.default" in error
    assert error.splitlines()[-1].strip() == "on the command line: --method permutation or --method exact"


def test_usage_errors_are_those_of_any_command(capsys: Capture) -> None:
    assert run("explain") == 2
    assert "Usage" in capsys.readouterr().err
    assert run("--help") == 0
    assert "explain" in capsys.readouterr().out


def test_refine_says_how_every_row_ended(net: Path, rows: Path) -> None:
    data = ("--target", 0, "--method", "refine", "--tolerance", 0.05)
    table = explain(net, rows, *data)[1]
    assert set(table.column("ended").to_pylist()) <= {"tolerance", "exact"}
    assert max(table.column("measured_bound").to_pylist()) <= 0.05
    assert min(table.column("row_evaluations").to_pylist()) > 0
    settings = json.loads(table.schema.metadata[b"dasp"])["settings"]
    assert settings["tolerance"] == 0.05
    assert "ended" not in settings


def test_refine_says_that_rows_are_above_the_tolerance(tmp_path: Path, capsys: Capture) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(14, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)).double()
    x = 2 * torch.randn(5, 14, dtype=torch.float64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, tmp_path / "model.pt2")
    np.save(tmp_path / "rows.npy", x.numpy())
    command = ["explain", tmp_path / "model.pt2", tmp_path / "rows.npy", "--baseline", "zeros", "--method", "refine"]
    for out in ("values.parquet", "values/"):
        assert run(*command, "--tolerance", 1e-6, "--budget", 100, "--out", f"{tmp_path}/{out}") == 0
        assert "5 row(s) ABOVE THE TOLERANCE" in capsys.readouterr().err
    assert run(*command, "--tolerance", 0.5, "--out", f"{tmp_path}/loose.parquet") == 0
    assert "TOLERANCE" not in capsys.readouterr().err


@pytest.mark.parametrize("method", [("gradients", "--samples", 16), ("regression", "--budget", 64)])
def test_other_estimators_on_the_command_line(net: Path, rows: Path, method: tuple[object, ...]) -> None:
    table = explain(net, rows, "--target", 0, "--method", *method)[1]
    assert any(name.endswith("_se") for name in table.column_names)


def test_several_rows_in_a_file_are_a_background(net: Path, rows: Path, capsys: Capture) -> None:
    base = rows.parent / "base.csv"
    base.write_text("a,b,c\n1,0,0\n0,1,2\n")
    table = explain(net, rows, "--target", 0, baseline=base)[1]
    # Outputs at the two rows: 0 and 2 x 2; against one row, phi_a = 2 (x_a - b_a)(x_b + b_b) / 2.
    np.testing.assert_allclose(table.column("base_value"), np.full(3, 2.0), rtol=1e-6)
    a, b = ROWS[:, 0], ROWS[:, 1]
    np.testing.assert_allclose(table.column("a"), ((a - 1) * b + a * (b + 1)) / 2, atol=1e-5)
    base.write_text("a,b,c\n1,0,0\n0,1e39,2\n")
    assert explain(net, rows, "--target", 0, baseline=base)[0] == 2
    assert "base.csv: row 2, column 'b' is 1e+39, too large for float32" in capsys.readouterr().err


def test_semivalues_on_the_command_line(net: Path, rows: Path, capsys: Capture) -> None:
    asked = {"banzhaf": dasp.Banzhaf(), "banzhaf:0.2": dasp.Banzhaf(0.2), "beta:4,1": dasp.BetaShapley(4, 1)}
    for spec, semivalue in asked.items():
        table = explain(net, rows, "--target", 0, "--semivalue", spec)[1]
        by_hand = dasp.Explainer(Net(), 0.0, method=dasp.Exact(), semivalue=semivalue)
        np.testing.assert_allclose(values(table), by_hand(torch.tensor(ROWS).float(), 0).values.numpy(), atol=1e-6)
        assert json.loads(table.schema.metadata[b"dasp"])["settings"]["semivalue"]["name"] == type(semivalue).__name__
    for spec in ("shapley", "beta", "beta:1", "banzhaf:x", "beta:1,y", "banzhaf:2", "banzhaf:0.1,0.2"):
        assert explain(net, rows, "--target", 0, "--semivalue", spec)[0] == 2
        assert "error: " in capsys.readouterr().err
