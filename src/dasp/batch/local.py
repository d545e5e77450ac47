"""The local engine: part after part in this process, or in a few beside it."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from ..errors import WorkerError
from ..explainer import Explainer
from .folder import Aside, Counts, Folder
from .shipping import packed, unpacked
from .worker import Plan, Tick, Worker

AHEAD = 2
"""Parts given out for each process, so that none waits for the next."""
LOSSES = 3
"""Times that all processes may be lost while not one part is finished."""

Made = tuple[bytes, Counts, list[Aside]]


def run_here(plan: Plan, explainer: Explainer, folder: Folder, todo: Sequence[int], tick: Tick) -> None:
    """Explain parts one after the other, each written as it is made."""
    worker = Worker(plan, explainer)
    for number in todo:
        with folder.writing(number) as part:
            counts, aside = worker.work(number, part.sink, tick)
            plan.check(number)
            part.finish(counts, aside)


def run_beside(plan: Plan, explainer: Explainer, folder: Folder, todo: Sequence[int], tick: Tick, workers: int) -> None:
    """Explain parts in several processes, which are given the model once each; this one writes.

    Raises:
        WorkerError: processes are lost again and again.
    """
    data, left, losses = packed(explainer), list(todo), 0
    while left:
        before = len(left)
        try:
            _pool(plan, data, folder, left, tick, workers)
        except BrokenProcessPool:
            losses = losses + 1 if len(left) == before else 0
            if losses == LOSSES:
                raise WorkerError(
                    f"worker processes end before they finish a part ({LOSSES} times now): killed, or out of memory. Take "
                    "fewer workers or a smaller batch; and if this is a script, start it under if __name__ == '__main__'."
                ) from None


def _pool(plan: Plan, data: bytes, folder: Folder, left: list[int], tick: Tick, workers: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(plan, data, threads)) as pool:
        running: set[Future[Made]] = set()
        waiting = left[::-1]
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * workers:
                    running.add(pool.submit(_make, waiting.pop()))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for one in finished:
                    counts = put(plan, folder, one.result())
                    left.remove(counts.part)
                    tick(counts.rows + counts.set_aside)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def put(plan: Plan, folder: Folder, made: Made) -> Counts:
    """Write a part that another process made."""
    data, counts, aside = made
    plan.check(counts.part)
    with folder.writing(counts.part) as part:
        part.sink.write(data)
        part.finish(counts, aside)
    return counts


def made(worker: Worker, number: int) -> Made:
    """A part, ready to be sent."""
    sink = io.BytesIO()
    sink.close, close = lambda: None, sink.close  # type: ignore[method-assign]
    counts, aside = worker.work(number, sink, lambda rows: None)
    data = sink.getvalue()
    close()
    return data, counts, aside


_work: Callable[[int], Made]


def _begin(plan: Plan, data: bytes, threads: int) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gave the work hears it, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    worker = Worker(plan, unpacked(data))
    _work = lambda number: made(worker, number)  # noqa: E731


def _make(number: int) -> Made:
    return _work(number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
