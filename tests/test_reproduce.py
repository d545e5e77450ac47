"""`dasp reproduce`: every result kept, interrupted and resumed to the same table, whatever fails named."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dasp
from dasp import cli, experiments
from dasp.errors import OutputFileError
from dasp.experiments import report, run
from dasp.experiments.files import slug
from dasp.experiments.problem import Method, Outcome, Problem, Unsupported
from dasp.experiments.run import Log, measure_all
from dasp.experiments.truth import exact_truth

TIMES = ("seconds", "processor_seconds", "first_seconds")


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    inputs, targets = torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    exact = exact_truth(model, inputs, targets, cache=tmp_path_factory.mktemp("cache"), name="small")
    return Problem("small", "Small, 6 players", model, inputs, targets, None, exact.values, exact.error, "none")


class Methods:
    """Four methods of a problem that count how often they run."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.runs: dict[str, int] = {}

    def add(self, family: str, label: str, find: Callable[[], np.ndarray], evaluations: float = 1.0) -> Method:
        def counted() -> Outcome:
            self.runs[label] = self.runs.get(label, 0) + 1
            return Outcome(find(), evaluations)

        return Method(family, label, counted)

    def all(self) -> list[Method]:
        shape = self.problem.truth.shape
        explainers = [dasp.PermutationSampling(permutations=count) for count in (2, 8)]
        found = [
            self.add("dasp.PermutationSampling", f"permutations={one.permutations}", lambda one=one: self.values(one))
            for one in explainers
        ]
        found.append(self.add("guesses", "random", lambda: torch.randn(shape).double().numpy()))
        found.append(self.add("guesses", "numpy's", lambda: np.random.standard_normal(shape)))
        return found

    def values(self, method: dasp.Estimator) -> np.ndarray:
        result = dasp.Explainer(self.problem.model, 0.0, method=method)(self.problem.inputs)
        return result.per_player[:, 0].double().numpy()


def measured(problem: Problem, methods: list[Method], folder: Path, **options: Any) -> run.Measured:
    return measure_all(problem, methods, folder, Log(folder / "run.log"), quick=True, progress=False, **options)


def without_times(rows: list[dict[str, Any]]) -> str:
    return json.dumps([{name: value for name, value in row.items() if name not in TIMES} for row in rows])


def raising(error: BaseException) -> Callable[[], Outcome]:
    def fail() -> Outcome:
        raise error

    return fail


def test_rows_are_measured_against_the_truth(problem: Problem, tmp_path: Path) -> None:
    methods = Methods(problem)
    exact = methods.add("dasp.Exact", "exact", lambda: methods.values(dasp.Exact()), evaluations=64)
    off = methods.add("off", "off", lambda: problem.truth * 1.25)
    first, second = measured(problem, [exact, off], tmp_path).rows
    assert first["error"] < 1e-5
    assert (first["evaluations"], first["spearman"]) == (64, 1)
    assert second["errors"] == pytest.approx([0.25] * 4)
    assert (second["error"], second["error_std"]) == (pytest.approx(0.25), pytest.approx(0))
    expected = 0.25 * np.sqrt((problem.truth**2).mean(axis=1))
    assert second["rmses"] == pytest.approx(expected.tolist())
    assert second["rmse_std"] == pytest.approx(expected.std())
    with np.load(tmp_path / second["file"]) as stored:
        np.testing.assert_array_equal(stored["values"], problem.truth * 1.25)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_interrupted_between_methods_gives_the_same_table(after: int, problem: Problem, tmp_path: Path) -> None:
    whole = measured(problem, Methods(problem).all(), tmp_path / "whole")
    methods = Methods(problem)
    chosen = methods.all()
    stopped = [*chosen[:after], replace(chosen[after], run=raising(KeyboardInterrupt())), *chosen[after + 1 :]]
    with pytest.raises(KeyboardInterrupt):
        measured(problem, stopped, tmp_path / "parts")
    before = dict(methods.runs)
    resumed = measured(problem, chosen, tmp_path / "parts")
    assert without_times(resumed.rows) == without_times(whole.rows)
    assert all(methods.runs[label] == count for label, count in before.items())  # what was finished did not run again
    assert len(before) == after
    again = measured(problem, chosen, tmp_path / "parts")
    assert again.rows == resumed.rows  # times too: nothing ran


def test_what_is_kept_belongs_to_its_settings(problem: Problem, tmp_path: Path) -> None:
    methods = Methods(problem)
    chosen = methods.all()
    measured(problem, chosen, tmp_path)
    runs = dict(methods.runs)
    torch.manual_seed(1)
    changes = [
        {"model": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))},
        {"inputs": problem.inputs + 1},
        {"targets": problem.targets + 1},
        {"players": torch.arange(6)},
    ]
    for change in changes:
        measured(replace(problem, **change), chosen[-1:], tmp_path)
        assert methods.runs["numpy's"] > runs["numpy's"], change
        runs = dict(methods.runs)
    other = replace(problem, truth=problem.truth * 2)
    rows = measured(problem, chosen[:-1], tmp_path).rows
    again = measured(other, chosen[:-1], tmp_path).rows
    assert methods.runs == runs  # a better truth needs no new attributions, but gives new errors
    assert all(one["error"] != two["error"] for one, two in zip(rows, again, strict=True))
    measured(problem, chosen[:1], tmp_path, fresh=True)
    assert methods.runs["permutations=2"] > runs["permutations=2"]


def test_only_runs_some_and_loses_no_others(problem: Problem, tmp_path: Path) -> None:
    methods = Methods(problem)
    chosen = methods.all()
    assert [row["label"] for row in measured(problem, chosen, tmp_path, only="GUESS").rows] == ["random", "numpy's"]
    assert set(methods.runs) == {"random", "numpy's"}
    labels = [row["label"] for row in measured(problem, chosen, tmp_path, only="permutations=8").rows]
    assert labels == ["permutations=8", "random", "numpy's"]
    assert "permutations=2" not in methods.runs


def test_a_method_that_cannot_or_fails_has_a_row_that_says_so(problem: Problem, tmp_path: Path) -> None:
    methods = Methods(problem)
    chosen = [
        Method("a", "cannot", raising(Unsupported("no rule for pooling"))),
        Method("a", "fails", raising(RuntimeError("first line\nsecond line"))),
        methods.add("a", "is NaN", lambda: problem.truth * np.nan),
        methods.add("a", "is short", lambda: problem.truth[:, 1:]),
        methods.add("a", "works", lambda: problem.truth * 2),
    ]
    found = measured(problem, chosen, tmp_path)
    assert found.failed == ["fails", "is NaN", "is short"]
    reasons = [row.get("unsupported") or row.get("failed") for row in found.rows]
    assert reasons == [
        "no rule for pooling",
        "RuntimeError: first line",
        "ValueError: gave 24 values that are NaN or infinite",
        "ValueError: gave values of shape (4, 5), expected (4, 6)",
        None,
    ]
    assert found.rows[-1]["error"] == pytest.approx(1)
    log = (tmp_path / "run.log").read_text()
    assert "small: cannot: UNSUPPORTED: no rule for pooling" in log
    assert "small: fails: FAILED: RuntimeError: first line" in log
    # What failed is tried again, what is not supported is known.
    chosen[1] = methods.add("a", "fails", lambda: problem.truth)
    assert measured(problem, chosen, tmp_path).failed == ["is NaN", "is short"]


def test_a_full_disk_loses_nothing_that_was_kept(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = Methods(problem)
    chosen = methods.all()
    first = measured(problem, chosen[:1], tmp_path)

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputFileError, match="No space left on device"):
            measured(problem, chosen, tmp_path)
        with pytest.raises(OutputFileError, match=r"result\.json"):
            report.write(report.result(problem, first.rows, {}), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["run.log"]
    assert [path.name for path in (tmp_path / "methods").iterdir()] == [f"{slug('permutations=2')}.npz"]
    assert measured(problem, chosen, tmp_path).rows[0] == first.rows[0]


def test_a_damaged_result_is_measured_again(problem: Problem, tmp_path: Path) -> None:
    methods = Methods(problem)
    chosen = methods.all()[:1]
    whole = measured(problem, chosen, tmp_path)
    path = tmp_path / whole.rows[0]["file"]
    path.write_bytes(path.read_bytes()[:100])
    assert without_times(measured(problem, chosen, tmp_path).rows) == without_times(whole.rows)


QUICK = ("--quick", "--inputs", "2", "--no-progress")


def stand_in(chosen: Callable[..., list[Method]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line run these methods, and draw no figures."""
    figures = {"draw": lambda folder, result: [], "keep": lambda *given, **options: []}
    parts = {"methods": {"chosen": chosen}, "figures": figures}
    for name, content in parts.items():
        module = types.ModuleType(f"dasp.experiments.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if "." not in name:
            monkeypatch.setattr(experiments, name, module, raising=False)


def moments(problem: Problem, *, quick: bool) -> list[Method]:
    assert quick
    return Methods(problem).all()


@pytest.fixture(scope="module")
def trained(paper_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network and the truth that a quick run of Parkinson needs."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(lambda problem, *, quick: [], patch)
        assert command(patch, "parkinson", *QUICK, "--data", str(paper_data), "--out", str(out)) == 0
    return out


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dasp", "reproduce", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["reproduce", *arguments])
    return int(stopped.value.code or 0)


def test_one_command_writes_table_json_and_log(
    trained: Path, paper_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(moments, monkeypatch)
    threads = torch.get_num_threads()
    assert command(monkeypatch, "parkinson", *QUICK, "--data", str(paper_data), "--out", str(trained)) == 0
    assert torch.get_num_threads() == threads
    folder = trained / "parkinson-quick-2-inputs"
    found = json.loads((folder / "result.json").read_text())
    assert (found["name"], found["inputs"], found["players"], found["truth_error"]) == ("parkinson", 2, 18, [0, 0])
    assert found["names"][:2] == ["age", "sex"]
    assert [row["label"] for row in found["rows"]] == ["permutations=2", "permutations=8", "random", "numpy's"]
    assert found["rows"][1]["error"] < 0.5 < found["rows"][2]["error"]
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "Times faster" in (folder / "speed.md").read_text()
    assert len(json.loads((folder / "speed.json").read_text())) == 2
    with np.load(folder / "problem.npz") as stored:
        assert stored["truth"].shape == stored["inputs"].shape == (2, 18)
    log = (trained / "run.log").read_text()
    expected = ("started: dasp reproduce parkinson", f"torch {torch.__version__}", "seed=0", "parkinson: random: ", "finished")
    assert all(part in log for part in expected)


def test_only_with_a_name_that_no_method_has(
    trained: Path, paper_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(moments, monkeypatch)
    given = ("parkinson", *QUICK, "--data", str(paper_data), "--out", str(trained), "--only", "chess")
    assert command(monkeypatch, *given) == 2
    assert "--only chess: parkinson has no method of this name" in capsys.readouterr().err


def test_a_failure_is_exit_code_1_and_the_rest_goes_on(
    trained: Path, paper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chosen(problem: Problem, *, quick: bool) -> list[Method]:
        return [Method("a", "fails", raising(RuntimeError("why"))), *Methods(problem).all()[-1:]]

    out = shutil.copytree(trained, tmp_path / "out")
    stand_in(chosen, monkeypatch)
    monkeypatch.setenv("DASP_DATA", str(paper_data))
    assert command(monkeypatch, "parkinson", *QUICK, "--out", str(out)) == 1
    assert "failed: parkinson: fails" in capsys.readouterr().err
    found = json.loads((out / "parkinson-quick-2-inputs" / "result.json").read_text())
    assert [row.get("failed") for row in found["rows"]] == ["RuntimeError: why", None]


def test_a_figure_that_cannot_be_drawn_loses_no_table(
    trained: Path, paper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(folder: Path, result: Any) -> list[Path]:
        raise dasp.MissingExtraError("figures need matplotlib: pip install 'dasp[paper]'.")

    out = shutil.copytree(trained, tmp_path / "out")
    stand_in(moments, monkeypatch)
    monkeypatch.setattr(sys.modules["dasp.experiments.figures"], "draw", draw)
    assert command(monkeypatch, "parkinson", *QUICK, "--data", str(paper_data), "--out", str(out)) == 1
    assert "pip install 'dasp[paper]'" in capsys.readouterr().err
    assert (out / "parkinson-quick-2-inputs" / "table.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parkinson", "--data", "{tmp}/nowhere"), "no such folder"),
        (("parkinson", "--data", "{tmp}"), "parkinsons_updrs.csv or parkinsons_updrs.data is not in"),
        (("mnist", "--data", "{tmp}"), "t10k-images-idx3-ubyte.gz is not in"),
        (("parkinson", "--inputs", "881"), "give 1 to 880"),
        (("chess",), "'chess' is not one of 'parkinson', 'dna', 'mnist', 'all'"),
        ((), "Missing argument"),
        (("dna", "--players", "words"), "'words' is not one of"),
        (("parkinson", "--inputs", "0"), "0 is not in the range"),
        (("parkinson", "--seed", str(2**63)), "is not in the range"),
        (("parkinson", "--threads", "99999999999"), "is not in the range"),
        (("parkinson", "--out", "{tmp}/file/out"), "cannot be written"),
    ],
)
def test_bad_arguments_are_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    paper_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DASP_DATA", str(paper_data))
    given = ["--out", str(tmp_path / "out"), *(one.format(tmp=tmp_path) for one in arguments)]  # the last --out counts
    assert command(monkeypatch, *given) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("partial-*"))


# Interrupted by a signal, in a process of its own; the methods are those of a moment, one of which waits.

PROGRAM = """
    import sys, time, types
    import numpy as np
    import dasp.experiments
    from dasp import cli
    from dasp.experiments import truth
    from dasp.experiments.problem import Method, Outcome

    waiting = sys.argv.pop(1)

    def wait(where):
        if where == waiting:
            print("waiting", flush=True)
            time.sleep(60)

    def methods(problem, *, quick):
        def method(label):
            def run():
                wait(label)
                return Outcome(np.random.standard_normal(problem.truth.shape) + problem.truth, 1.0)
            return Method("guesses", label, run)
        return [method(label) for label in ("one", "two", "three")]

    kept = truth.write_arrays
    written = []

    def write_arrays(path, arrays):
        kept(path, arrays)
        written.append(path)
        if len(written) == 1:
            wait("truth")

    truth.write_arrays = write_arrays
    for name, content in {"methods": {"chosen": methods}, "figures": {}}.items():
        module = types.ModuleType(f"dasp.experiments.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
        setattr(dasp.experiments, name, module)
    dasp.experiments.figures.draw = lambda folder, result: []
    dasp.experiments.figures.keep = lambda *given, **options: []
    cli.main()
"""


def reproduced(waiting: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command, which is sent SIGINT where it waits."""
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), waiting, "reproduce", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if waiting != "never":
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=100)[1]
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("waiting", ["truth", pytest.param("two", marks=pytest.mark.long)])
def test_interrupted_by_a_signal_and_resumed(waiting: str, trained: Path, paper_data: Path, tmp_path: Path) -> None:
    arguments = ["parkinson", *QUICK, "--data", str(paper_data), "--out"]
    whole, parts = (shutil.copytree(trained, tmp_path / name) for name in ("whole", "parts"))
    for path in [*whole.glob("cache/truth-*"), *parts.glob("cache/truth-*")]:
        path.unlink()  # the network is trained already; all else is made anew
    assert reproduced("never", *arguments, str(whole))[0] == 0
    folder = "parkinson-quick-2-inputs"
    (parts / folder / "result.json").unlink(missing_ok=True)
    code, errors = reproduced(waiting, *arguments, str(parts))
    assert code == 130
    assert f"interrupted: what is finished is kept in {parts}" in errors
    assert "Traceback" not in errors
    assert not list(parts.rglob("partial-*"))
    assert not (parts / folder / "result.json").exists()
    assert "stopped: interrupted" in (parts / "run.log").read_text()
    assert reproduced("never", *arguments, str(parts))[0] == 0
    found, expected = (json.loads((out / folder / "result.json").read_text()) for out in (parts, whole))
    assert without_times(found.pop("rows")) == without_times(expected.pop("rows"))
    assert found == expected
    for name, key in (("problem.npz", "truth"), (f"methods/{slug('three')}.npz", "values")):
        first, second = (np.load(out / folder / name)[key] for out in (parts, whole))
        assert (first == second).all()
