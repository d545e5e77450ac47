"""A data set of 20,000 rows at equal error: dasp here and on Ray, captum's sampling and shap's permutations.

    python benchmarks/rows.py [--rows 20000] [--sample 500] [--ray] [--folder out/rows] [--data FOLDER]

The Parkinson network, its held-out rows repeated with a little noise. The error is that of 50 rows against enumeration; the
others get as many evaluations as bring them to the error of dasp's default. Each reads the rows from a parquet file and writes
its values to one, in a process of its own, on one thread. Those that would take long get `--sample` rows, and their rate.
Memory is that of the process and all its children together (proportional set size), the largest seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import dasp
import frontier

JUDGED, CHUNK, SEED = 50, 1000, 0
FIRST = {"captum": 64, "shap": 1000}
"""What the others are judged by first: permutations, and evaluations a row; their error falls with the root of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("out/rows"))
    parser.add_argument("--data", type=Path, default=None, help="the folder of the paper's data; else they are downloaded")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a contender in a process of its own
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        run(json.loads(options.only), options.folder, options.data)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    problem = frontier.network("parkinson", JUDGED, options.folder, options.data)
    rows, truth = problem.inputs.numpy(), np.asarray(problem.truth)
    noise = np.random.default_rng(SEED).normal(scale=0.05, size=(options.rows, rows.shape[1]))
    many = (np.resize(rows, noise.shape) + noise * rows.std(0)).astype(rows.dtype)
    write(options.folder / "rows.parquet", many)
    write(options.folder / "sample.parquet", many[: options.sample])

    def error(values: np.ndarray) -> float:
        return float((np.linalg.norm(values - truth, axis=1) / np.linalg.norm(truth, axis=1)).mean())

    wanted = error(dasp.Explainer(problem.model, 0.0)(problem.inputs).values.double().numpy())
    print(f"error of dasp's default on {JUDGED} rows: {wanted:.3f}")
    contenders: list[dict[str, Any]] = [{"name": "dasp, 1 worker", "workers": 1}, {"name": "dasp, 2 workers", "workers": 2}]
    if options.ray:
        contenders.append({"name": "dasp on Ray, 2 workers", "workers": 2, "engine": "ray"})
    for name, explain in PEERS.items():
        amount = FIRST[name]
        for _ in range(2):
            found = error(explain(problem.model, problem.inputs, amount))
            amount = max(2, round(amount * (found / wanted) ** 2))
        found = error(explain(problem.model, problem.inputs, amount))
        unit = "permutations" if name == "captum" else "evaluations"
        contenders.append({"name": f"{name}, {amount:,} {unit}", "peer": name, "amount": amount, "error": found})
    for one in contenders:
        source = "sample.parquet" if "peer" in one else "rows.parquet"
        seconds, count, peak = beside({**one, "source": source}, options.folder, options.data)
        print(
            f"{one['name']}: error {one.get('error', wanted):.3f}, {count / seconds:,.1f} rows/s on {count:,} rows, "
            f"{options.rows / (count / seconds):,.0f} s for {options.rows:,}, {peak / 2**20:,.0f} MiB",
            flush=True,
        )


def write(path: Path, values: np.ndarray) -> None:
    pq.write_table(pa.table({f"c{place}": column for place, column in enumerate(values.T)}), path)


def captum_sampling(model: torch.nn.Module, x: torch.Tensor, permutations: int) -> np.ndarray:
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(SEED)
    with torch.no_grad():
        found = ShapleyValueSampling(lambda rows: model(rows)[:, 0]).attribute(x, baselines=0, n_samples=permutations)
    return found.double().numpy()


def shap_permutation(model: torch.nn.Module, x: torch.Tensor, evaluations: int) -> np.ndarray:
    import shap

    def f(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.as_tensor(rows, dtype=x.dtype))[:, 0].numpy()

    method = shap.PermutationExplainer(f, np.zeros((1, x.shape[1])), seed=SEED)
    return np.asarray(method(x.numpy(), max_evals=evaluations, batch_size=1024, silent=True).values)


PEERS: dict[str, Callable[[torch.nn.Module, torch.Tensor, int], np.ndarray]] = {
    "captum": captum_sampling, "shap": shap_permutation,
}  # fmt: skip


def run(one: dict[str, Any], folder: Path, data: Path | None) -> None:
    """Explain the rows of a file into another; what starts once is not timed."""
    model = frontier.network("parkinson", JUDGED, folder, data).model
    source, out = folder / one["source"], folder / "values"
    shutil.rmtree(out, ignore_errors=True)
    if "peer" not in one:
        explainer = dasp.Explainer(model, 0.0)
        start = time.perf_counter()
        how = {"workers": one["workers"], "engine": one.get("engine", "local")}
        dasp.batch.explain(explainer, source, out, batch=1024, part_rows=2048, progress=False, **how)
    else:
        start = time.perf_counter()
        parts = []
        for batch in pq.ParquetFile(source).iter_batches(CHUNK):
            x = torch.as_tensor(np.stack([column.to_numpy() for column in batch.columns], 1))
            parts.append(PEERS[one["peer"]](model, x, one["amount"]))
        write(folder / "values.parquet", np.concatenate(parts))
    print(json.dumps({"seconds": time.perf_counter() - start, "rows": pq.read_metadata(source).num_rows}))


def beside(one: dict[str, Any], folder: Path, data: Path | None) -> tuple[float, int, int]:
    """Seconds, rows and the peak of memory of a contender in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--only", json.dumps(one)]
    command += [] if data is None else ["--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks = [0]

    def watch() -> None:
        while process.poll() is None:
            peaks.append(sum(map(memory_of, descendants(process.pid))))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = json.loads(process.communicate()[0].splitlines()[-1])
    watcher.join()
    return said["seconds"], said["rows"], max(peaks)


def descendants(pid: int) -> set[int]:
    parents = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
