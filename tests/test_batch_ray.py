"""The Ray engine: the same files as the local one, to the last bit, though a worker is lost. Skipped where Ray is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import dasp
from dasp.batch import folder

ray = pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with as many CPUs as two workers need."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A saved network, and 700 rows with bad ones among them, in two files."""
    place = tmp_path_factory.mktemp("ray")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    batch = torch.export.Dim.AUTO
    torch.export.save(torch.export.export(net, (torch.zeros(2, 6),), dynamic_shapes=({0: batch},)), place / "net.pt2")
    rows = np.random.default_rng(0).standard_normal((700, 6))
    rows[::45, 2] = np.nan
    names = "abcdef"
    for name, part in (("a", rows[:300]), ("b", rows[300:])):
        text = "\n".join(",".join(map(repr, map(float, row))) for row in part)
        (place / f"{name}.csv").write_text(",".join(names) + "\n" + text + "\n")
    source = [place / "a.csv", place / "b.csv"]
    explainer = dasp.Explainer(place / "net.pt2", 0.0, method=dasp.Propagation())
    options = {"target": "argmax", "batch": 16, "part_rows": 48, "on_error": "set-aside", "progress": False}
    dasp.batch.explain(explainer, source, place / "local", **options)
    return {"place": place, "arguments": (explainer, source), "options": options}


def content(out: Path) -> dict[str, bytes]:
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name != folder.LOCK)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def workers_of(process: int) -> list[int]:
    """Processes that Ray runs actors in, among the grandchildren of a process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
    return [one for one, name in names.items() if "MapWorker" in name and parents.get(parents[one]) == process]


def test_the_same_files_as_the_local_engine_though_a_worker_is_lost(
    cluster: None, work: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, killed = folder.Part.finish, []  # type: ignore[var-annotated]

    def finished(self: folder.Part, *arguments: Any) -> None:
        finish(self, *arguments)
        if not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(folder.Part, "finish", finished)
    out = work["place"] / "ray"
    summary = dasp.batch.explain(*work["arguments"], out, engine="ray", workers=2, **work["options"])
    assert len(killed) == 1
    assert (summary.rows, summary.set_aside, summary.parts) == (684, 16, 15)
    assert content(out) == content(work["place"] / "local")
    assert pq.read_table(out).num_rows == 684


def test_what_the_local_engine_began_ray_goes_on_with(cluster: None, work: dict[str, Any]) -> None:
    out = work["place"] / "begun"
    dasp.batch.explain(*work["arguments"], out, **work["options"])
    for part in (3, 7):
        (out / f"part-{part:05d}.parquet").unlink()
    summary = dasp.batch.explain(*work["arguments"], out, engine="ray", **work["options"])
    assert summary.resumed == 13
    assert content(out) == content(work["place"] / "local")


def test_errors_come_back_as_they_are(cluster: None, work: dict[str, Any]) -> None:
    options = work["options"] | {"on_error": "stop"}
    with pytest.raises(dasp.DataFileError, match=r"a.csv: row 1: column 'c' is nan"):
        dasp.batch.explain(*work["arguments"], work["place"] / "stopped", engine="ray", **options)


def test_the_command_reaches_a_cluster_by_its_address(cluster: None, work: dict[str, Any]) -> None:
    out, source = work["place"] / "command", work["place"] / "table"
    source.mkdir()
    for name in ("a.csv", "b.csv"):
        (source / name).write_bytes((work["place"] / name).read_bytes())
    command = [sys.executable, "-m", "dasp.cli", "explain", "net.pt2", "table", "--baseline", "zeros", "--target", "argmax"]
    command += ["--out", "command/", "--batch", "16", "--part-rows", "48", "--on-error", "set-aside", "--engine", "ray"]
    command += ["--address", ray.get_runtime_context().gcs_address]
    here = os.environ | {"PYTHONPATH": str(Path(dasp.__file__).parents[1])}
    found = subprocess.run(command, cwd=work["place"], env=here, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "684 rows in 15 part(s), 16 rows set aside" in found.stderr
    np.testing.assert_array_equal(numbers(out), numbers(work["place"] / "local"))


def numbers(out: Path) -> Any:
    return np.stack([column.to_numpy() for column in pq.read_table(out).columns])


def test_a_module_is_sent_too(cluster: None, work: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    given = (dasp.Explainer(net, 0.0, method=dasp.Exact()), work["arguments"][1])
    dasp.batch.explain(*given, work["place"] / "one", **work["options"])
    dasp.batch.explain(*given, work["place"] / "two", engine="ray", workers=2, **work["options"])
    assert content(work["place"] / "one") == content(work["place"] / "two")
