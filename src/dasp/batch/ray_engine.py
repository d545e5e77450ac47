"""The Ray engine: Ray Data hands part numbers to actors, which read and explain them; this process writes.

The model and the plan are put into Ray's object store once and reach every worker from there. Workers read the data
themselves, so that it must lie where all of them see it under the same path. Only finished parts travel back, so that the
output may lie on this machine alone, and is written as the local engine writes it. Ray starts lost workers again and repeats
their parts.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ..errors import DaspError, MissingExtraError, WorkerError
from ..explainer import Explainer
from .folder import Folder
from .local import made, put
from .shipping import packed, unpacked
from .worker import Plan, Tick, Worker


def run_on_ray(
    plan: Plan,
    explainer: Explainer,
    folder: Folder,
    todo: Sequence[int],
    tick: Tick,
    workers: int,
    *,
    address: str | None = None,
    gpus: float = 0,
) -> None:
    """Explain parts on a Ray cluster.

    Args:
        plan, explainer, folder, todo, tick: what to do, and where to write it.
        workers: actors, each with one CPU; fewer where the cluster has not as many free.
        address: of a cluster; by default the one this process is in, or one started on this machine.
        gpus: for each worker, a part of one or more; with any, the model is moved to "cuda".

    Raises:
        MissingExtraError: ray is not installed.
        WorkerError: a worker has another version of dasp or torch.
    """
    ray, data = _ray("ray"), _ray("ray.data")
    with _cluster(ray, address):
        shared = ray.put((plan, packed(explainer, ray.cloudpickle.dumps), os.getcwd(), "cuda" if gpus else None))
        numbers = data.from_items([{"part": part} for part in todo], override_num_blocks=max(1, len(todo)))
        parts = numbers.map_batches(
            _Explains,
            fn_constructor_args=([shared],),  # within a list, so that it is fetched by each actor and not copied into it
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
            batch_size=1,
            num_cpus=1,
            num_gpus=gpus,
        )
        parts.context.enable_progress_bars = False
        for row in parts.iter_rows():
            found = pickle.loads(row["made"])
            if isinstance(found, DaspError):
                raise found
            counts = put(plan, folder, found)
            tick(counts.rows + counts.set_aside)


class _Explains:
    """An actor: takes part numbers, gives parts, pickled; or the error of ours that they meet."""

    def __init__(self, shared: list[Any]) -> None:
        self._fault: DaspError | None = None
        plan, explainer, folder, device = _ray("ray").get(shared[0])
        for name, here in (("dasp", version("dasp")), ("torch", torch.__version__)):
            if plan.run[name] != here:
                self._fault = WorkerError(
                    f"a worker has {name} {here}, but this process {plan.run[name]}: their values may differ. Install the "
                    "same on all machines."
                )
        with contextlib.suppress(OSError):
            os.chdir(folder)  # relative paths are those of the process that asked
        if self._fault is None:
            try:
                self._worker = Worker(plan, unpacked(explainer, device))
            except DaspError as error:
                self._fault = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Explain the parts of a batch of numbers."""
        found = np.array([self._made(int(part)) for part in batch["part"]], dtype=object)
        return {"part": batch["part"], "made": found}

    def _made(self, part: int) -> bytes:
        if self._fault is not None:
            return pickle.dumps(self._fault)
        try:
            return pickle.dumps(made(self._worker, part))
        except DaspError as error:
            return pickle.dumps(error)


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A cluster to work on; left as it was found, and shut down if it was started here."""
    loud = logging.getLogger("ray.data")
    level = loud.level
    loud.setLevel(logging.WARNING)
    running = ray.is_initialized()
    if not running:
        local = {"include_dashboard": False} if address is None and not os.environ.get("RAY_ADDRESS") else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **local)
    try:
        yield
    finally:
        loud.setLevel(level)
        if not running:
            ray.shutdown()


def _ray(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("the engine ray needs Ray: pip install 'dasp[ray]'.") from error
