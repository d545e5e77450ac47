"""What several tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BESIDE_THE_CLONE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def paper_data() -> Path:
    """Folder with the data sets of the paper: DASP_DATA, else ../shared/data beside the clone."""
    folder = Path(os.environ.get("DASP_DATA", BESIDE_THE_CLONE))
    if not folder.is_dir():
        pytest.skip(f"needs the paper's data sets, and {folder} does not exist; set DASP_DATA (see CONTRIBUTING.md)")
    return folder


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Programs started here get SIGINT and SIGHUP, also where the tests were started by nohup or in the background."""
    kinds = [kind for kind in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(kind) is signal.SIG_IGN]
    for kind in kinds:
        signal.signal(kind, lambda *_: None)  # a handler is not inherited, and ignoring is
    yield
    for kind in kinds:
        signal.signal(kind, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """Weights of a network that a test builds do not hang on which tests ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is run in one piece, and the longest ones first: last they would keep one core waiting."""
    first = ("test_site.py", "test_keras.py", "test_huggingface.py", "test_lengths.py", "test_rules.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))


def pytest_collection_finish() -> None:
    """What is loaded by now stays, and captures make much that lives long: looking for garbage took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.fixture(scope="session", autouse=True)
def _operations_looked_up_once() -> Iterator[None]:
    """torch looks all its operations up for every capture, a quarter of the time of a small one; here when there are new."""
    from torch._export import utils

    look_up = getattr(utils, "_materialize_cpp_cia_ops", None)
    if look_up is None:  # another version of torch
        yield
        return
    known: list[str] = []

    def look_up_new() -> None:
        now = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if now != known:
            look_up()
            known[:] = now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_materialize_cpp_cia_ops", look_up_new)
        yield


@pytest.fixture
def closed_figures() -> Iterator[None]:
    """Figures of a test do not stay open behind it."""
    from matplotlib import pyplot

    yield
    pyplot.close("all")
