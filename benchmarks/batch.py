"""Whole data sets: rows a second against workers, what each step of a part takes, and an estimate for 100 million rows.

    python benchmarks/batch.py [--rows 49152] [--workers 1 2] [--ray] [--folder out/batch]

The network is the Parkinson one, 18-128-64-1, with random weights and rows: neither changes the time. Every run has a start
(processes that import torch, a graph that is captured): rows a second are those of the last three quarters of its parts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.flop_counter import FlopCounterMode

import dasp
from dasp.batch.folder import Folder, Part
from dasp.batch.front import _plan
from dasp.batch.local import made, put
from dasp.batch.worker import Worker

PART_ROWS, LARGER, WRITES = 2048, 32, 10
METHODS = {"Propagation()": (dasp.Propagation(), 1), "Propagation(rank=0)": (dasp.Propagation(rank=0), 10)}
"""And how many times the rows it is given, for runs of a similar length."""
GPUS, GPU_FLOPS, MANY = 32, 1e12, 100_000_000


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    relu = torch.nn.ReLU()
    return torch.nn.Sequential(torch.nn.Linear(18, 128), relu, torch.nn.Linear(128, 64), relu, torch.nn.Linear(64, 1))


def rate(explainer: dasp.Explainer, source: Path, out: Path, **options: Any) -> float:
    """Rows a second of the last three quarters of the parts."""
    shutil.rmtree(out, ignore_errors=True)
    finish, times = Part.finish, []

    def timed(self: Part, *arguments: Any) -> None:
        finish(self, *arguments)
        times.append(time.perf_counter())

    Part.finish = timed  # type: ignore[method-assign]
    try:
        dasp.batch.explain(explainer, source, out, part_rows=PART_ROWS, progress=False, **options)
    finally:
        Part.finish = finish  # type: ignore[method-assign]
    first = len(times) // 4
    return (len(times) - 1 - first) * PART_ROWS / (times[-1] - times[first])


def steps(explainer: dasp.Explainer, source: Path, out: Path, batch: int) -> dict[str, float]:
    """Seconds a row for reading here, and for writing parts of 65,536 rows here; and bytes a row."""
    shutil.rmtree(out, ignore_errors=True)
    rows = dasp.batch.open_source(source)
    start = time.perf_counter()
    for first in range(0, len(rows), PART_ROWS):
        rows.read(first, min(first + PART_ROWS, len(rows)))
    reading = (time.perf_counter() - start) / len(rows)
    plan = _plan(explainer, rows, torch.float32, None, "stop", batch, None, PART_ROWS, None, "cpu")
    data, counts, aside = made(Worker(plan, explainer), 0)
    folder = Folder(out, plan.run)
    start = time.perf_counter()
    for _ in range(WRITES):
        put(folder, (data * LARGER, counts, aside))
    writing = (time.perf_counter() - start) / WRITES / PART_ROWS / LARGER
    folder.close()
    return {"reading": reading, "writing": writing, "bytes": len(data) / PART_ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24 * PART_ROWS)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--ray", action="store_true", help="also on Ray, started on this machine")
    parser.add_argument("--folder", type=Path, default=Path("out/batch"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    out = options.folder / "values"
    source = options.folder / "rows.parquet"
    engines = ["local", *(["ray"] if options.ray else [])]
    for label, (method, times) in METHODS.items():
        rows = np.random.default_rng(0).standard_normal((times * options.rows, 18)).astype(np.float32)
        pq.write_table(pa.table({f"c{place}": column for place, column in enumerate(rows.T)}), source, row_group_size=2**16)
        explainer = dasp.Explainer(network(), 0.0, method=method)
        for engine in engines:
            for workers in options.workers:
                found = rate(explainer, source, out, engine=engine, workers=workers, batch=options.batch)
                print(f"{label}, {engine}, {workers} worker(s), batch {options.batch}: {found:,.0f} rows/s", flush=True)
        estimate(label, explainer, source, out, options.batch)


def estimate(label: str, explainer: dasp.Explainer, source: Path, out: Path, batch: int) -> None:
    """On paper: each step for 100 million rows by itself; they overlap, so that the longest one is what it takes."""
    x = torch.randn(batch, 18)
    with FlopCounterMode(display=False) as counter:
        explainer(x)
    flops = counter.get_total_flops() / batch
    found = steps(explainer, source, out, batch)
    explaining = MANY * flops / GPUS / GPU_FLOPS
    sustained = f"if each sustains {GPU_FLOPS / 1e12:g} TFLOP/s"
    print(f"{label}: {flops / 1e6:.2f} MFLOP a row. {MANY:,} rows on {GPUS} GPUs, {sustained}:")
    print(f"  explaining {explaining:.0f} s; reading {MANY * found['reading'] / GPUS:.0f} s on as many CPU cores; ", end="")
    print(f"writing {MANY * found['bytes'] / 1e9:.1f} GB from one process {MANY * found['writing']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
