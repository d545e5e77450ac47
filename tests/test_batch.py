"""Whole data sets: the same values however they are read, killed and resumed; bad rows aside; memory that does not grow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.batch import delimited, folder, front, parquet
from dasp.batch.opening import open_source
from dasp.batch.source import Chunk
from dasp.cli import main

Capture = pytest.CaptureFixture[str]
FEATURES = 18


class Voices(nn.Module):
    """A network on raw voice measurements, which it brings to one scale itself."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("middle", rows.mean(0))
        self.register_buffer("scale", rows.std(0))
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(FEATURES, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.middle) / self.scale)


@pytest.fixture(scope="module")
def voices(paper_data: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Names and values of the features of 120 recordings, as the file has them."""
    table = pa.csv.read_csv(paper_data / "parkinsons_updrs.csv")
    names = [name for name in table.column_names if name not in ("subject#", "test_time", "motor_UPDRS", "total_UPDRS")]
    columns = [table.column(name).to_numpy() for name in names]
    return names, np.stack(columns, axis=1).astype(np.float64)[::48][:120]


@pytest.fixture(scope="module")
def model(voices: tuple[list[str], np.ndarray[Any, Any]]) -> Voices:
    return Voices(torch.tensor(voices[1]).float())


@pytest.fixture
def rows(voices: tuple[list[str], np.ndarray[Any, Any]], tmp_path: Path) -> Path:
    return write_csv(tmp_path / "rows.csv", *voices)


def write_csv(path: Path, names: list[str], values: Any) -> Path:
    lines = [",".join(names), *(",".join(map(repr, map(float, row))) for row in values)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(path: Path, names: list[str], values: Any, **options: Any) -> Path:
    pq.write_table(pa.table(dict(zip(names, np.asarray(values).T, strict=True))), path, **options)
    return path


def run(model: Any, source: Any, out: Path, **options: Any) -> dasp.batch.Summary:
    given = {"target": 0, "baseline": "mean", "batch": 16, "part_rows": 32, "progress": False} | options
    if isinstance(model, dasp.Explainer):
        given.pop("baseline")
    return dasp.batch.explain(model, source, out, **given)


def quick(model: nn.Module, rows: Any, **options: Any) -> dasp.Explainer:
    return dasp.Explainer(model, torch.tensor(rows).float().mean(0), method=dasp.Propagation(rank=0, **options))


def content(out: Path) -> dict[str, bytes]:
    """Every file of an output, but the lock."""
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name != folder.LOCK)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def read(out: Path, skip: int = 2) -> tuple[Any, Any]:
    """Samples, and the columns from there on, (rows, columns)."""
    table = pq.read_table(out)
    return table.column("sample").to_numpy(), np.stack([c.to_numpy() for c in table.columns[skip:]], axis=1)


def aside(out: Path) -> dict[int, str]:
    found = pq.read_table(out / folder.ASIDE).to_pylist() if (out / folder.ASIDE).exists() else []
    return {row["sample"]: row["reason"] for row in found}


def test_values_are_those_of_the_explainer(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    summary = run(model, rows, tmp_path / "out")
    assert (summary.rows, summary.set_aside, summary.parts, summary.resumed) == (120, 0, 4, 0)
    x = torch.tensor(voices[1]).float()
    expected = dasp.Explainer(model, torch.tensor(voices[1].mean(0)).float())(x, 0)
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["sample", "target", *voices[0], "base_value", "output", "gap"]
    assert table.column("sample").to_pylist() == list(range(120))
    found = np.stack([table.column(name).to_numpy() for name in voices[0]], axis=1)
    np.testing.assert_allclose(found, expected.values.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.column("output"), expected.output.numpy(), rtol=1e-5)
    about = json.loads(pq.read_metadata(tmp_path / "out" / "part-00003.parquet").metadata[b"dasp"])
    assert about["part"] == {"part": 3, "first": 96, "rows": 24, "set_aside": 0} | {
        name: about["part"][name] for name in ("wide_gaps", "largest_gap", "missed")
    }
    assert (about["run"]["batch"], about["run"]["rows"], about["settings"]["method"]) == (16, 120, "Propagation")
    assert summary.largest_gap == pytest.approx(float(np.abs(table.column("gap")).max()))


def test_files_are_the_same_whatever_the_chunks(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    explainer = quick(model, voices[1])
    run(explainer, rows, tmp_path / "out", target="argmax")
    for chunk in (1, 7, 50, 4096):
        run(explainer, rows, tmp_path / str(chunk), target="argmax", chunk=chunk)
        assert content(tmp_path / str(chunk)) == content(tmp_path / "out")


def test_values_are_the_same_whatever_the_parts(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    explainer = quick(model, voices[1])
    samples, whole = read_after(explainer, rows, tmp_path / "whole", part_rows=4096)
    for size in (7, 30, 64):
        where, values = read_after(explainer, rows, tmp_path / str(size), part_rows=size)
        np.testing.assert_array_equal(where, samples)
        np.testing.assert_array_equal(values, whole)


def read_after(model: Any, source: Any, out: Path, **options: Any) -> tuple[Any, Any]:
    run(model, source, out, **options)
    return read(out)


def test_another_batch_changes_last_digits_at_most(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    explainer = quick(model, voices[1])
    _, one = read_after(explainer, rows, tmp_path / "one", batch=64)
    _, two = read_after(explainer, rows, tmp_path / "two", batch=5)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-5)


def test_every_kind_of_file_gives_the_same_values(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    names, values = voices
    explainer = quick(model, values)
    _, expected = read_after(explainer, rows, tmp_path / "out")
    several = tmp_path / "several"
    several.mkdir()
    np.save(tmp_path / "rows.npy", values)
    sources: list[Any] = [tmp_path / "rows.npy", write_parquet(tmp_path / "rows.parquet", names, values, row_group_size=70)]
    sources += [several, [several / "a.parquet", several / "b.parquet"]]
    write_parquet(several / "a.parquet", names, values[:51], row_group_size=20)
    write_parquet(several / "b.parquet", names, values[51:])
    (several / "_notes.csv").write_text("passed over")
    for number, source in enumerate(sources):
        _, found = read_after(explainer, source, tmp_path / f"out{number}")
        np.testing.assert_array_equal(found, expected)


def test_columns_are_picked_and_ordered(model: Voices, voices: Any, tmp_path: Path) -> None:
    names, values = voices
    write_csv(tmp_path / "rows.csv", names, values[:30])
    wide = write_csv(tmp_path / "wide.csv", ["id", *names[::-1]], np.hstack([values[:30, :1], values[:30, ::-1]]))
    _, expected = read_after(model, tmp_path / "rows.csv", tmp_path / "a")
    _, found = read_after(model, wide, tmp_path / "b", columns=names)
    np.testing.assert_array_equal(found, expected)


def test_targets_audits_and_backgrounds(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    x = torch.tensor(voices[1]).float()
    background = x[:30:3]
    explainer = dasp.Explainer(model, background, method=dasp.PermutationSampling(permutations=4))
    run(explainer, rows, tmp_path / "out", target=[0, 2], audit=500)
    table = pq.read_table(tmp_path / "out")
    assert table.column("sample").to_pylist() == [row for row in range(120) for _ in range(2)]
    assert table.column("target").to_pylist() == [0, 2] * 120
    assert {"audit_error", "audit_low", "audit_high", f"{voices[0][0]}_se"} <= set(table.column_names)
    np.testing.assert_allclose(table.column("base_value")[0].as_py(), float(model(background)[:, 0].detach().mean()), rtol=1e-4)
    run(model, rows, tmp_path / "argmax", target="argmax", baseline=x[0].numpy())
    chosen = pq.read_table(tmp_path / "argmax").column("target").to_numpy()
    np.testing.assert_array_equal(chosen, model(x).argmax(1).numpy())
    assert len(set(chosen)) > 1


# --- killed


KILLS = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
import numpy as np
import pandas  # once for all, for pyarrow imports it
import torch
from tqdm import tqdm
sys.path.insert(0, sys.argv[1])
from test_batch import Voices, quick, run

torch.set_num_threads(1)
# The lock of tqdm is shared by forked processes: one that is killed while it holds it would stop all that follow.
tqdm.set_lock(threading.RLock())
folder, values = Path(sys.argv[2]), np.load(sys.argv[3])
explainer = quick(Voices(torch.tensor(values).float()), values)
explainer(torch.tensor(values[:16]).float(), 0)  # the graph is captured once, for all that are killed


def start(name, before=lambda: None):
    # Only children touch pyarrow, whose allocator starts a thread: a process with threads must not fork.
    child = os.fork()
    if not child:
        before()
        run(explainer, folder / "rows.parquet", folder / name, part_rows=16, on_error="set-aside")
        os._exit(0)
    return child


def after(child, name):
    return os.waitpid(child, 0)[1], len(list((folder / name).glob("*.parquet")))


def dying(step):
    # Before or after the n-th call that reaches the disk.
    calls = [0]

    def patched(real):
        def stepped(*given):
            calls[0] += 1
            last = calls[0] == step // 2 + 1
            if last and step % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*given)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return stepped

    for name in ("replace", "fsync", "open"):
        setattr(os, name, patched(getattr(os, name)))


started = time.perf_counter()
assert after(start("whole"), "whole")[0] == 0
took = time.perf_counter() - started  # the twenty get about two thirds of that, however fast the machine is
chance, random_kills, step_kills = random.Random(5), [], []
for _ in range(20):
    child = start("random")
    time.sleep(chance.uniform(0.01, took / 15))
    os.kill(child, signal.SIGKILL)
    random_kills.append(after(child, "random"))
for step in range(24):
    step_kills.append(after(start("steps", lambda: dying(step)), "steps"))
for name in ("random", "steps"):
    assert after(start(name), name)[0] == 0
print(json.dumps([random_kills, step_kills]))
"""


@pytest.fixture(scope="module")
def ruins(voices: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[list[int]]]]:
    """Outputs of 960 rows, some of them bad: one made at once, two killed; and how each ended with how many parts."""
    names, values = voices
    place = tmp_path_factory.mktemp("killed")
    many = np.concatenate([values * (1 + k / 100) for k in range(8)])
    many[::40, 3] = np.nan
    np.save(place / "values.npy", values)
    write_parquet(place / "rows.parquet", names, many, row_group_size=200)
    command = [sys.executable, "-c", KILLS, str(Path(__file__).parent), str(place), str(place / "values.npy")]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=alone, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr
    return place, json.loads(found.stdout.splitlines()[-1])


def test_killed_twenty_times_nothing_is_lost_and_nothing_comes_twice(ruins: Any) -> None:
    place, (kills, _) = ruins
    assert len(kills) == 20
    assert sum(status == signal.SIGKILL for status, _ in kills) >= 10, kills
    parts = [count for _, count in kills]
    assert parts == sorted(parts), "a part that stands is never lost"
    assert len(set(parts)) >= 5, kills
    assert content(place / "random") == content(place / "whole")
    samples, _ = read(place / "random")
    assert sorted([*samples.tolist(), *aside(place / "random")]) == list(range(960))
    assert sorted(aside(place / "random")) == list(range(0, 960, 40))


def test_killed_at_every_step_that_reaches_the_disk(ruins: Any) -> None:
    place, (_, kills) = ruins
    assert {status for status, _ in kills} == {signal.SIGKILL}
    assert kills[-1][1] > kills[0][1] == 0
    assert content(place / "steps") == content(place / "whole")


def test_an_interrupt_says_how_to_go_on(
    saved: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    original, calls = dasp.Explainer.__call__, [0]

    def interrupted(self: dasp.Explainer, *arguments: Any, **options: Any) -> dasp.Attribution:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(dasp.Explainer, "__call__", interrupted)
    command = ("explain", saved, rows, "--baseline", "mean", "--target", 0, "--out", f"{tmp_path / 'out'}/")
    command = (*command, "--batch", 16, "--part-rows", 64)
    assert dasp_command(*command) == 130
    assert "interrupted: 1 of 2 parts stand whole in" in capsys.readouterr().err
    assert list(content(tmp_path / "out")) == ["part-00000.parquet"]
    assert dasp_command(*command) == 0
    assert "120 rows in 2 part(s), 1 of which were there" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out").column("sample").to_pylist() == list(range(120))


# --- refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": 1}, "whose target is 0 and not 1"),
        ({"batch": 8}, "whose batch is 16 and not 8"),
        ({"part_rows": 64}, "whose part_rows is 32 and not 64"),
        ({"audit": 300}, "whose audit is"),
        ({"baseline": 0.0}, "whose baseline is"),
    ],
)
def test_parts_of_another_run_are_refused(model: Voices, rows: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run(model, rows, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(dasp.OutputFileError, match=said):
        run(model, rows, tmp_path / "out", **change)
    assert content(tmp_path / "out") == before


def test_a_refusal_names_every_setting_that_differs_whole(model: Voices, rows: Path, tmp_path: Path) -> None:
    run(dasp.Explainer(model, 0.0, method=dasp.PermutationSampling(permutations=4, seed=1)), rows, tmp_path / "out")
    method = dasp.PermutationSampling(permutations=8, seed=2)
    with pytest.raises(dasp.OutputFileError) as refusal:
        run(dasp.Explainer(model, 0.0, method=method), rows, tmp_path / "out", target=1)
    assert f"and not {method!r}, and whose target is 0 and not 1. To go on" in str(refusal.value)
    assert "torch" not in str(refusal.value)


METHODS = """
import sys, dasp, torch

def made(scale, kinds=("a", "b")):
    def occlusion(model, inputs, baseline, target):
        rows = [torch.where(torch.arange(18) == i, baseline, inputs) for i in range(18)]
        known = scale if "a" in {"a", "b", "c"} else 0
        return torch.stack([(model(inputs) - model(row))[:, target] * known for row in rows], 1)
    return occlusion

explainer = dasp.Explainer(torch.nn.Linear(18, 3), 0.0, method=dasp.axioms.External(made(float(sys.argv[3]))))
with torch.no_grad():
    explainer.model.source.weight.fill_(1), explainer.model.source.bias.fill_(0)
print(dasp.batch.explain(explainer, sys.argv[1], sys.argv[2], target=0, progress=False).resumed)
"""


def test_a_method_that_is_a_function_is_known_in_another_process(rows: Path, tmp_path: Path) -> None:
    def ran(scale: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", METHODS, str(rows), str(tmp_path / "out"), str(scale)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert [ran(1.0).stdout, ran(1.0).stdout] == ["0\n", "1\n"]
    assert "whose method is External(attribute=__main__.made" in ran(2.0).stderr


def test_a_method_that_no_other_process_would_know_is_refused(model: Voices, rows: Path, tmp_path: Path) -> None:
    class Own:
        def __call__(self, *given: Any) -> Any:
            return given[1]

    with pytest.raises(dasp.InputError, match=r"cannot be known again by a later process.*Own\) a __repr__"):
        run(dasp.Explainer(model, 0.0, method=dasp.axioms.External(Own())), rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_data_and_another_model_are_refused(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    run(model, rows, tmp_path / "out", baseline=0.0)
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(rows.read_bytes())
    assert run(model, moved, tmp_path / "out", baseline=0.0).resumed == 4, "the same data at another place is the same"
    other = voices[1].copy()
    other[50, 4] += 0.001
    with pytest.raises(dasp.OutputFileError, match="whose data is"):
        run(model, write_csv(moved, voices[0], other), tmp_path / "out", baseline=0.0)
    retrained = Voices(torch.tensor(voices[1]).float())
    with torch.no_grad():
        retrained.net[0].bias[3] += 1e-6
    with pytest.raises(dasp.OutputFileError, match="whose model is"):
        run(retrained, rows, tmp_path / "out", baseline=0.0)


def test_a_folder_of_something_else_is_refused(model: Voices, rows: Path, voices: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_parquet(tmp_path / "out" / "mine.parquet", *voices)
    with pytest.raises(dasp.OutputFileError, match=r"mine.parquet: is not a part that dasp wrote"):
        run(model, rows, tmp_path / "out")
    with pytest.raises(dasp.OutputFileError, match="is a file"):
        run(model, rows, tmp_path / "out" / "mine.parquet")
    with pytest.raises(dasp.OutputFileError, match="does not exist"):
        run(model, rows, tmp_path / "no" / "out")
    with pytest.raises(dasp.InputError, match="lies inside"):
        run(model, tmp_path / "out", tmp_path / "out" / "values")


def test_parts_stand_in_order_however_many_they_are(tmp_path: Path) -> None:
    """Readers of a folder go by names."""
    for parts, first in ((100_000, "part-00009.parquet"), (100_001, "part-000009.parquet")):
        some = folder.Folder(tmp_path / str(parts), {}, parts)
        names = [some.part(number).name for number in (9, 10, 99_999, parts - 1)]
        some.close()
        assert names[0] == first
        assert names == sorted(names)


def test_a_second_run_waits_its_turn(model: Voices, rows: Path, tmp_path: Path) -> None:
    first = folder.Folder(tmp_path / "out", {})
    with pytest.raises(dasp.OutputFileError, match="another run is writing there"):
        run(model, rows, tmp_path / "out")
    first.close()
    assert run(model, rows, tmp_path / "out").parts == 4
    assert not (tmp_path / "out" / folder.LOCK).exists()


def test_a_lock_on_a_file_that_the_run_before_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    first = folder.Folder(tmp_path / "out", {})
    flock = fcntl.flock

    def late(lock: Any, how: int) -> None:
        first.close()  # between the opening of the file and its lock
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = folder.Folder(tmp_path / "out", {})
    assert (tmp_path / "out" / folder.LOCK).exists()
    with pytest.raises(dasp.OutputFileError, match="another run is writing there"):
        monkeypatch.setattr(fcntl, "flock", flock)
        folder.Folder(tmp_path / "out", {})
    second.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, "batch: expected a whole number above 0"),
        ({"audit": True}, "audit: expected"),
        ({"engine": "spark"}, "engine: expected 'local' or 'ray'"),
        ({"engine": "ray", "gpus": -1}, "gpus: expected a number from 0 on"),
        ({"on_error": "skip"}, "on_error: expected 'stop' or 'set-aside'"),
        ({"target": "best"}, "'best' is no target"),
        ({"target": torch.zeros(120)}, "one target a row"),
        ({"source": []}, "the list of files is empty"),
        ({"source": "missing.csv"}, "no such file"),
        ({"source": "rows.txt"}, "cannot tell the format"),
        ({"columns": ["age", "height"]}, "no column 'height'"),
    ],
)
def test_wrong_arguments_leave_nothing(model: Voices, rows: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(dasp.DaspError, match=said):
        run(model, change.pop("source", rows), tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_an_explainer_keeps_its_baseline(model: Voices, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(dasp.InputError, match="the explainer has one already"):
        dasp.batch.explain(dasp.Explainer(model), rows, tmp_path / "out", baseline=0.0)
    with pytest.raises(dasp.InputError, match="no PerRow"):
        run(dasp.Explainer(model, dasp.PerRow(torch.zeros(120, FEATURES))), rows, tmp_path / "out")
    with pytest.raises(dasp.InputError, match=r"keep= is a file for one batch .*keep=None"):
        run(dasp.Explainer(model, method=dasp.Refine(keep=tmp_path / "kept")), rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- bad rows


def test_bad_rows_are_set_aside_and_spoil_nothing(model: Voices, rows: Path, tmp_path: Path) -> None:
    _, expected = read_after(model, rows, tmp_path / "good", baseline=0.0)
    lines = rows.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    cells[3][2], cells[17][0], cells[17][1] = "", "nan", "inf"
    cells[64][5], cells[65][5], cells[100][4] = "-inf", " seven ", "1e39"
    cells[110] = ["1", "2"]
    bad = tmp_path / "bad.csv"
    bad.write_bytes("\n".join([lines[0], *map(",".join, cells)]).encode().replace(b" seven ", b"\xff\xfe"))
    summary = run(model, bad, tmp_path / "out", on_error="set-aside", baseline=0.0)
    assert (summary.rows, summary.set_aside) == (114, 6)
    found = aside(tmp_path / "out")
    assert list(found) == [3, 17, 64, 65, 100, 110]
    said = ["column 'Jitter(%)' is empty", "'age' is nan", "'Jitter:PPQ5' is -inf", "which is not a number"]
    said += ["too large for float32", "2 cells, but the header has 18"]
    assert all(part in reason for part, reason in zip(said, found.values(), strict=True)), found
    samples, values = read(tmp_path / "out")
    assert sorted([*samples.tolist(), *found]) == list(range(120))
    np.testing.assert_array_equal(values, expected[samples])


def test_a_bad_row_stops_the_run_which_goes_on_without_it(model: Voices, rows: Path, tmp_path: Path) -> None:
    lines = rows.read_text().splitlines()
    lines[51] = lines[51].replace(",", ",x", 1)
    rows.write_text("\n".join(lines))
    with pytest.raises(dasp.DataFileError, match=r"rows.csv: row 51: column .* is not a number.*setting them aside"):
        run(model, rows, tmp_path / "out", baseline=0.0)
    assert list(content(tmp_path / "out")) == ["part-00000.parquet"]
    summary = run(model, rows, tmp_path / "out", baseline=0.0, on_error="set-aside")
    assert (summary.resumed, summary.rows, summary.set_aside) == (1, 119, 1)
    with pytest.raises(dasp.DataFileError, match="row 51"):
        run(model, rows, tmp_path / "mean")
    assert run(model, rows, tmp_path / "mean", on_error="set-aside").rows == 119


def test_parts_without_a_good_row_are_there_and_empty(model: Voices, voices: Any, tmp_path: Path) -> None:
    values = voices[1][:100].copy()
    values[16:64] = np.nan
    source = write_parquet(tmp_path / "rows.parquet", voices[0], values)
    table = pa.table({name: [None, *column[1:]] for name, column in zip(voices[0], values.T, strict=True)})
    pq.write_table(table, source)
    summary = run(model, source, tmp_path / "out", part_rows=16, baseline=0.0, on_error="set-aside", target="argmax")
    assert (summary.rows, summary.set_aside, summary.parts) == (51, 49, 7)
    assert [pq.read_metadata(tmp_path / "out" / f"part-0000{k}.parquet").num_rows for k in range(4)] == [15, 0, 0, 0]
    assert aside(tmp_path / "out")[0] == f"column {voices[0][0]!r} is empty"
    assert pq.read_table(tmp_path / "out").num_rows == 51


class Logarithm(nn.Module):
    """Not defined below zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] + 1).log() * x[:, 1] + x[:, 2]


def test_rows_that_the_model_cannot_take_are_found_and_set_aside(tmp_path: Path) -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((70, 3))).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    explainer = dasp.Explainer(Logarithm(), 0.0, method=dasp.Exact())
    _, expected = read_after(explainer, tmp_path / "rows.npy", tmp_path / "good", target=None)
    for row in (5, 9, 31, 64):
        x[row, 0] = -2
    np.save(tmp_path / "rows.npy", x)
    with pytest.raises(dasp.DataFileError, match=r"rows.npy: row 6: the model gives NaN or infinity"):
        run(explainer, tmp_path / "rows.npy", tmp_path / "out", target=None)
    run(explainer, tmp_path / "rows.npy", tmp_path / "out", target=None, on_error="set-aside")
    assert list(aside(tmp_path / "out")) == [5, 9, 31, 64]
    samples, values = read(tmp_path / "out")
    kept = np.array([sample for sample in range(70) if sample not in (5, 9, 31, 64)])
    np.testing.assert_array_equal(samples, kept)
    np.testing.assert_array_equal(values, expected[kept])


def test_settings_that_no_row_can_take_are_no_fault_of_the_rows(model: Voices, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(dasp.InputError, match="target"):
        run(model, rows, tmp_path / "out", target=7, on_error="set-aside")
    assert content(tmp_path / "out") == {}


# --- images


class Small(nn.Module):
    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(channels, 3, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 4)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def digits(paper_data: Path) -> Any:
    import gzip

    with gzip.open(paper_data / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(16 + 30 * 784)[16:], dtype=np.uint8).reshape(30, 28, 28)


def test_a_folder_of_images(digits: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, digit in enumerate(digits):
        place = tmp_path / "images" / f"class{number % 2}" / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(digit).save(place)
    explainer = dasp.Explainer(Small(), 0.0, method=dasp.Propagation(rank=0), players=dasp.players.grid(7, 7))
    run(explainer, tmp_path / "images", tmp_path / "good", target="argmax", part_rows=12, batch=6)
    table = pq.read_table(tmp_path / "good")
    order = [*range(0, 30, 2), *range(1, 30, 2)]
    assert table.column("file").to_pylist() == [f"class{number % 2}/{number:03d}.png" for number in order]
    x = torch.tensor(digits[order]).unsqueeze(1) / 255
    expected = explainer(x, Small()(x).argmax(1))
    found = np.stack([table.column(f"patch_{i}_{j}").to_numpy() for i in range(4) for j in range(4)], axis=1)
    np.testing.assert_allclose(found, expected.values.numpy(), rtol=1e-4, atol=1e-5)

    image.fromarray(digits[0][:20]).save(tmp_path / "images" / "class0" / "002.png")
    image.fromarray(np.stack([digits[0]] * 3, axis=2)).save(tmp_path / "images" / "class0" / "004.png")
    (tmp_path / "images" / "class0" / "006.png").write_bytes(b"no picture")
    torn = (tmp_path / "images" / "class0" / "008.png").read_bytes()
    (tmp_path / "images" / "class0" / "008.png").write_bytes(torn[: len(torn) // 2])
    run(explainer, tmp_path / "images", tmp_path / "out", target="argmax", part_rows=12, batch=6, on_error="set-aside")
    reasons = list(aside(tmp_path / "out").values())
    said = ["28 x 20 pixels, but the model takes 28 x 28", "mode RGB", "cannot be read", "cannot be read"]
    assert all(part in reason for part, reason in zip(said, reasons, strict=True)), reasons
    samples, values = read(tmp_path / "out", skip=3)
    np.testing.assert_array_equal(values, read(tmp_path / "good", skip=3)[1][samples])


def test_grey_images_are_taken_for_colour(digits: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    image.fromarray(digits[0]).save(tmp_path / "images" / "a.png")
    image.fromarray(np.stack([digits[0]] * 3, axis=2)).save(tmp_path / "images" / "b.png")
    source = open_source(tmp_path / "images", shape=(3, 28, 28)).read(0, 2)
    assert source.bad == {}
    np.testing.assert_array_equal(source.values[0], source.values[1])
    assert open_source(tmp_path / "images").shape == (1, 28, 28)
    with pytest.raises(dasp.InputError, match=r"the model takes rows of shape \(18,\)"):
        open_source(tmp_path / "images", shape=(18,))
    (tmp_path / "images" / "rows.csv").write_text("a\n1\n")
    with pytest.raises(dasp.DataFileError, match=r"both image and \.csv files"):
        open_source(tmp_path / "images")


def test_an_image_that_was_replaced_by_one_of_the_same_size_is_other_data(digits: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    for number, digit in enumerate(digits[:2]):
        image.fromarray(digit).save(tmp_path / "images" / f"{number}.bmp", "PNG", compress_level=0)
        (tmp_path / "images" / f"{number}.bmp").rename(tmp_path / "images" / f"{number}.png")
    explainer = dasp.Explainer(Small(), 0.0, method=dasp.Propagation(rank=0))
    run(explainer, tmp_path / "images", tmp_path / "out")
    assert run(explainer, tmp_path / "images", tmp_path / "out").resumed == 1
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    with pytest.raises(dasp.OutputFileError, match="data"):
        run(explainer, tmp_path / "images", tmp_path / "out")


def test_a_link_to_nowhere_is_a_bad_row(digits: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    image.fromarray(digits[0]).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").symlink_to("gone.png")
    explainer = dasp.Explainer(Small(), 0.0, method=dasp.Propagation(rank=0))
    with pytest.raises(dasp.DataFileError, match=r"b\.png: cannot be read"):
        run(explainer, tmp_path / "images", tmp_path / "out")
    assert run(explainer, tmp_path / "images", tmp_path / "out", on_error="set-aside").set_aside == 1


# --- reading


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy", "png"])
def test_data_that_change_during_the_run_end_it(kind: str, digits: Any, tmp_path: Path) -> None:
    def write(change: int) -> None:
        values = np.arange(60.0).reshape(20, 3) + change
        if kind == "png":
            image = pytest.importorskip("PIL.Image")
            for number in range(20):
                image.fromarray(np.roll(digits[number], change)).save(tmp_path / "data" / f"{number:02d}.png")
        elif kind == "npy":
            np.save(tmp_path / "data" / "rows.npy", values)
        else:
            {"csv": write_csv, "parquet": write_parquet}[kind](tmp_path / "data" / f"rows.{kind}", ["a", "b", "c"], values)

    class Changes(dasp.Propagation):
        def estimate(self, *given: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == 3:
                write(1)
            return super().estimate(*given, **options)

    (tmp_path / "data").mkdir()
    write(0)
    calls = [0]
    model = Small() if kind == "png" else nn.Linear(3, 2)
    with pytest.raises(dasp.DataFileError, match="was changed after it was opened"):
        run(dasp.Explainer(model, 0.0, method=Changes(rank=0)), tmp_path / "data", tmp_path / "out", part_rows=8, batch=4)
    assert list(content(tmp_path / "out")) == ["part-00000.parquet"]


def test_many_files_are_not_open_at_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(30):
        write_parquet(tmp_path / "data" / f"{number:02d}.parquet", ["a", "b"], np.full((5, 2), number))
    source = open_source(tmp_path / "data")
    before = len(os.listdir("/proc/self/fd"))
    for start in (*range(0, 150, 7), 3, 90, 44):
        source.read(start, min(start + 4, 150))
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert source.read(0, 150).values[:, 0].tolist() == [float(row // 5) for row in range(150)]
    assert len(os.listdir("/proc/self/fd")) == before


def fuzzed(seed: int) -> tuple[str, list[list[str]]]:
    """The text of a table, and its cells."""
    chance = np.random.default_rng(seed)
    end = ("\n", "\r\n", "\r")[seed % 3]
    rows, text = [], f"a,b,c{end}"
    for number in range(int(chance.integers(1, 60))):
        note = chance.choice(["x", '"quoted, with comma"', '"two\nlines"', '"a ""word"""', ""])
        rows.append([str(number), f"{number / 8}"])
        text += f"{number},{note},{number / 8}{end}" + end * int(chance.integers(0, 3) == 0)
    return (text if seed % 4 else text.rstrip("\r\n")), rows


@pytest.mark.parametrize("seed", range(36))
def test_csv_rows_are_found_again_wherever_they_begin(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 1 + 3 * seed)
    monkeypatch.setattr(delimited, "STEP", 1 + seed % 7)
    text, rows = fuzzed(seed)
    (tmp_path / "rows.csv").write_bytes(text.encode())
    source = open_source(tmp_path / "rows.csv", columns=["c", "a"])
    assert len(source) == len(rows)
    expected = np.array([[float(c), float(a)] for a, c in rows])
    for start, stop in ((0, len(rows)), (len(rows) // 3, len(rows) // 2 + 1), (len(rows) - 1, len(rows))):
        chunk = source.read(start, stop)
        assert chunk.bad == {}
        np.testing.assert_array_equal(chunk.values, expected[start:stop])


@pytest.mark.parametrize("cells", ['15"00,3', '"1500,3', '1500,3"'])
@pytest.mark.parametrize("later", [5, '"8 ""x"", y"'])
def test_a_stray_quotation_mark_is_named(cells: str, later: Any, tmp_path: Path) -> None:
    lines = [f'{row},"two\n""lines"""' for row in range(1200)]
    lines[1100], lines[1150] = cells, f"{later},2"
    (tmp_path / "rows.csv").write_text("\n".join(["a,b", *lines]))
    with pytest.raises(dasp.DataFileError, match="line 2202 holds a quotation mark that does not quote a whole cell"):
        open_source(tmp_path / "rows.csv", columns=["a"]).read(0, 1200)


def test_lines_that_end_in_returns_alone_are_lines(tmp_path: Path) -> None:
    """As old Macs and some exports write them; one file takes them in the same way."""
    (tmp_path / "rows.csv").write_bytes(b'a,b,note\r1,2,"x\ry"\r3,oh,z\r\r5,6,z')
    source = open_source(tmp_path / "rows.csv", columns=["b", "a"])
    chunk = source.read(0, 3)
    assert (len(source), chunk.bad) == (3, {1: "column 'b' is 'oh', which is not a number"})
    assert chunk.values[[0, 2]].tolist() == [[2.0, 1.0], [6.0, 5.0]]
    (tmp_path / "rows.csv").write_bytes(b'a,b\r1,2\r3,"4"\r5,6"7\r')
    with pytest.raises(dasp.DataFileError, match="line 4 holds a quotation mark"):
        open_source(tmp_path / "rows.csv")


def test_column_names_may_take_more_than_the_first_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"feature {number}" if number else '"a, ""quoted""\nname"' for number in range(2000)]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "rows.csv").write_bytes(f"{end}{','.join(names)}{end}{','.join(['3'] * 2000)}{end}".encode())
        for head in (1, 9, 2**10, 2**18):
            monkeypatch.setattr(delimited, "HEAD", head)
            source = open_source(tmp_path / "rows.csv")
            assert source.names is not None
            assert (len(source.names), source.names[0], source.names[-1]) == (2000, 'a, "quoted"\nname', "feature 1999")
            assert source.read(0, 1).values.sum() == 6000
    (tmp_path / "rows.csv").write_bytes(b"")
    with pytest.raises(dasp.DataFileError, match=r"not a table|holds no rows"):
        open_source(tmp_path / "rows.csv")


@pytest.mark.parametrize("shape", [f"({10**30},)", "(True,)", f"({2**62}, {2**62})"])
def test_an_array_with_an_impossible_shape_is_refused(shape: str, tmp_path: Path) -> None:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(48))
    with pytest.raises(dasp.DataFileError, match=r"not a \.npy array"):
        open_source(tmp_path / "rows.npy")


def test_an_empty_line_is_a_row_where_there_is_one_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n\n3\n")
    source = open_source(tmp_path / "rows.csv")
    assert (len(source), source.read(0, 3).bad) == (3, {1: "column 'a' is empty"})


def test_parquet_rows_are_found_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "STEP", 5)
    values = np.arange(86.0).reshape(43, 2)
    source = open_source(write_parquet(tmp_path / "rows.parquet", ["a", "b"], values, row_group_size=9))
    chance = np.random.default_rng(0)
    for _ in range(60):
        start = int(chance.integers(0, 43))
        stop = int(chance.integers(start, 44))
        np.testing.assert_array_equal(source.read(start, stop).values.reshape(-1, 2), values[start:stop])


def test_several_files_need_the_same_columns(tmp_path: Path) -> None:
    one = write_parquet(tmp_path / "a.parquet", ["a", "b"], np.zeros((3, 2)))
    two = write_parquet(tmp_path / "b.parquet", ["a", "c"], np.zeros((3, 2)))
    with pytest.raises(dasp.DataFileError, match="All files need the same columns"):
        open_source([one, two])
    assert len(open_source([one, two], columns=["a"])) == 6
    pq.write_table(pa.table({"a": ["text"]}), tmp_path / "c.parquet")
    with pytest.raises(dasp.DataFileError, match="column 'a' holds string, not numbers"):
        open_source(tmp_path / "c.parquet")


def test_the_mean_row_is_that_of_the_good_rows(rows: Path, voices: Any) -> None:
    np.testing.assert_allclose(dasp.batch.mean(rows), voices[1].mean(0), rtol=1e-12)
    source = open_source(rows)
    assert isinstance(source.read(0, 1), Chunk)
    rows.write_text(rows.read_text() + ",".join(["nan"] * FEATURES) + "\n")
    np.testing.assert_allclose(dasp.batch.mean(rows, skip=True), voices[1].mean(0), rtol=1e-12)
    with pytest.raises(dasp.DataFileError, match="row 121"):
        dasp.batch.mean(rows)


# --- on the command line


@pytest.fixture(scope="module")
def saved(model: Voices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "voices.pt2"
    batch = torch.export.Dim.AUTO
    torch.export.save(torch.export.export(model, (torch.zeros(2, FEATURES),), dynamic_shapes=({0: batch},)), path)
    return path


def dasp_command(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_the_command_writes_what_the_function_writes(
    saved: Path, rows: Path, voices: Any, tmp_path: Path, capsys: Capture
) -> None:
    base = write_csv(tmp_path / "base.csv", voices[0], voices[1][:40:4])
    command = ("explain", saved, rows, "--baseline", base, "--target", "argmax", "--out", f"{tmp_path / 'out'}/")
    command = (*command, "--rank", 0, "--batch", 32, "--part-rows", 50, "--chunk", 40, "--progress")
    assert dasp_command(*command) == 0
    error = capsys.readouterr().err
    assert "120 rows in 3 part(s)" in error
    assert "120/120" in error
    assert "row/s" in error
    background = torch.tensor(voices[1][:40:4]).float()
    explainer = dasp.Explainer(saved, background, method=dasp.Propagation(rank=0), feature_names=voices[0])
    run(explainer, rows, tmp_path / "again", target="argmax", batch=32, part_rows=50)
    assert content(tmp_path / "again") == content(tmp_path / "out")


@pytest.mark.parametrize("option", ["--batch", "--part-rows", "--workers"])
def test_options_of_folders_are_refused_for_a_file(
    saved: Path, rows: Path, tmp_path: Path, option: str, capsys: Capture
) -> None:
    assert dasp_command("explain", saved, rows, "--baseline", "zeros", "--out", tmp_path / "o.parquet", option, 2) == 2
    assert f"{option} is for a folder of parts: end the name after --out with a slash" in capsys.readouterr().err
    assert dasp_command("explain", saved, tmp_path, "--baseline", "zeros", "--out", tmp_path / "o.parquet") == 2
    assert "a folder needs a folder" in capsys.readouterr().err


# --- workers and memory


def test_several_processes_write_the_same_and_a_lost_one_is_replaced(
    saved: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing

    explainer = dasp.Explainer(saved, 0.0, method=dasp.Propagation(rank=0))
    options = {"part_rows": 16, "on_error": "set-aside"}
    run(explainer, rows, tmp_path / "one", **options)
    killed: list[int] = []
    finish = folder.Part.finish

    def finished(self: folder.Part, *arguments: Any) -> None:
        finish(self, *arguments)
        if not killed:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    monkeypatch.setattr(folder.Part, "finish", finished)
    run(explainer, rows, tmp_path / "two", workers=2, **options)
    assert len(killed) == 1
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_ray_is_asked_for_where_it_is_missing(
    model: Voices, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(dasp.MissingExtraError, match=r"pip install 'dasp\[ray\]'"):
        run(model, rows, tmp_path / "out", engine="ray")
    with pytest.raises(dasp.InputError, match="address and gpus are for engine='ray'"):
        run(model, rows, tmp_path / "out", gpus=1)


def test_models_that_cannot_be_sent_are_refused(rows: Path, tmp_path: Path) -> None:
    model = Small()
    model.hook = lambda: None  # type: ignore[assignment]
    with pytest.raises(dasp.InputError, match="cannot be sent to another process"):
        front.run_beside(None, dasp.Explainer(model), None, [0], lambda rows: None, 2)  # type: ignore[arg-type]


MEMORY = """
import os, sys
import torch, dasp
torch.set_num_threads(1)

class First(torch.nn.Module):
    def forward(self, x):
        return x[:, 0] * x[:, 1] + x.sum(1)

players = torch.arange(18) // 9
for source in sys.argv[2:]:
    pid = os.fork()
    if not pid:
        explainer = dasp.Explainer(First(), 0.0, method=dasp.Exact(), players=players)
        dasp.batch.explain(explainer, source, os.path.join(sys.argv[1], os.path.basename(source) + ".out"), batch=2048)
        os._exit(0)
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    print(used.ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["parquet", pytest.param("csv", marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((20_000, FEATURES)).astype(np.float32)
    names = [f"c{place}" for place in range(FEATURES)]
    sources = [str(tmp_path / f"{name}.{kind}") for name in ("small", "large")]
    table = pa.table(dict(zip(names, values.T, strict=True)))
    for path, times in zip(sources, (1, 10), strict=True):
        if kind == "csv":
            pa.csv.write_csv(pa.concat_tables([table] * times), path)
        else:
            pq.write_table(pa.concat_tables([table] * times), path, row_group_size=20_000)
    command = [sys.executable, "-c", MEMORY, str(tmp_path), *sources]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    small, large = (int(line) / 1024 for line in found.stdout.split())
    assert large - small < 12, f"{small:.0f} MiB for 20,000 rows and {large:.0f} MiB for 200,000"
    assert pq.read_metadata(tmp_path / f"large.{kind}.out" / "part-00048.parquet").num_rows == 200_000 - 48 * 4096


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_players_whose_columns_would_be_one_are_refused(model: Voices, voices: Any, tmp_path: Path) -> None:
    names = [f"x{place}" for place in range(18)]
    x = voices[1].astype(np.float32)
    for column in ("ended", "measured_bound", "audit_low", "sample"):
        write_parquet(tmp_path / "r.parquet", [*names[:3], column, *names[4:]], x)
        with pytest.raises(dasp.InputError, match=f"'{column}' is the name of a result column"):
            dasp.batch.explain(dasp.Explainer(model, 0.0), tmp_path / "r.parquet", tmp_path / "out", target=0)
    labels = (torch.arange(18) % 2,)
    np.save(tmp_path / "r.npy", x)
    for twice in (("a b", "a,b"), ("gap", "rest")):
        players = dasp.game.Players(labels, 2, True, twice)
        with pytest.raises(dasp.InputError, match=r"players: the feature name"):
            dasp.batch.explain(dasp.Explainer(model, 0.0, players=players), tmp_path / "r.npy", tmp_path / "out", target=0)


def test_a_run_knows_plain_attributes_and_names_of_players(model: Voices, voices: Any, tmp_path: Path) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.inner, self.scale = model, scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * self.scale

    np.save(tmp_path / "r.npy", voices[1].astype(np.float32))
    for name, first, second in (
        ("model", {"model": Scaled(1.0)}, {"model": Scaled(2.0)}),
        ("players", {"names": ("a", "b")}, {"names": ("b", "a")}),
    ):
        out = tmp_path / name
        for options, fails in ((first, False), (second, True)):
            players = dasp.game.Players((torch.arange(18) % 2,), 2, True, options.get("names", ("a", "b")))
            explainer = dasp.Explainer(options.get("model", model), 0.0, method=dasp.Propagation(rank=0), players=players)
            with pytest.raises(dasp.OutputFileError, match=f"whose {name}") if fails else contextlib.nullcontext():
                dasp.batch.explain(explainer, tmp_path / "r.npy", out, target=0, progress=False)


def test_whole_numbers_that_a_table_rounds_are_bad_rows(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Flatten(), torch.nn.Linear(6, 1))
    (tmp_path / "ids.csv").write_text("a,b\n1,2\n9007199254740993,1\n3,4\n")
    explainer = dasp.Explainer(model, torch.zeros(2, dtype=torch.long), players=dasp.players.tokens(), method=dasp.Exact())
    options = {"dtype": torch.int64, "on_error": "set-aside", "target": None}
    found = run(explainer, tmp_path / "ids.csv", tmp_path / "out", **options)
    assert (found.rows, found.set_aside) == (2, 1)
    assert "exact in a table" in aside(tmp_path / "out")[1]


def test_rows_that_cannot_be_read_are_no_fault_of_the_output(
    model: Voices, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dasp.batch.open_source(rows)

    def gone(self: Any, start: int, stop: int) -> Any:
        raise OSError("Corrupt snappy compressed data.")

    monkeypatch.setattr(type(source), "read", gone)
    with pytest.raises(dasp.DataFileError, match=r"rows 1 to .* cannot be read \(Corrupt snappy"):
        run(dasp.Explainer(model, 0.0, method=dasp.Propagation(rank=0)), source, tmp_path / "out")


def test_files_of_the_same_name_in_several_folders_are_told_apart(model: Voices, voices: Any, tmp_path: Path) -> None:
    x = voices[1].astype(np.float32)[:20]
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        bad = x.copy()
        bad[3 if name == "one" else 5, 0] = np.nan
        np.save(tmp_path / "data" / name / "rows.npy", bad)
    explainer = dasp.Explainer(model, 0.0, method=dasp.Propagation(rank=0))
    dasp.batch.explain(explainer, tmp_path / "data", tmp_path / "out", target=0, on_error="set-aside", progress=False)
    files = [row["file"] for row in pq.read_table(tmp_path / "out" / folder.ASIDE).to_pylist()]
    assert files == [str(Path("one") / "rows.npy"), str(Path("two") / "rows.npy")]


def test_no_gap_is_reported_of_values_that_need_not_add_up(model: Voices, voices: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", voices[1].astype(np.float32))
    explainer = dasp.Explainer(model, 0.0, method=dasp.Propagation(rank=0), semivalue=dasp.Banzhaf())
    found = dasp.batch.explain(explainer, tmp_path / "r.npy", tmp_path / "out", target=0, progress=False)
    assert "gap" not in str(found)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_file_that_gets_shorter_while_it_is_read_is_refused(kind: str, model: Voices, voices: Any, tmp_path: Path) -> None:
    x, path = voices[1].astype(np.float32), tmp_path / f"rows.{kind}"

    def put(count: int) -> None:
        if kind == "npy":
            np.save(path, x[:count])
        else:
            write_parquet(path, voices[0], x[:count], row_group_size=16)

    put(120)
    source = open_source(path)
    found = quick(model, voices[1])
    put(70)
    with pytest.raises(dasp.DataFileError, match=r"was changed|cannot be read"):
        run(found, source, tmp_path / "out")
