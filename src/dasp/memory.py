"""How much memory a computation takes, measured op by op."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors among what an op takes or gives; written out, since the general tree_leaves took most of the time."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that ops create and that are still alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def _seen(self, tensor: Tensor, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known and self._known[key]() is storage:
            return
        size = storage.nbytes() if counted else 0

        def gone(reference: weakref.ref[Any]) -> None:
            self.now -= size
            if self._known.get(key) is reference:
                del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for given in _tensors((*args, *kwargs.values())):
            # What an op reads without an op having made it is an input or a weight: it is there anyway.
            self._seen(given, counted=False)
        result = func(*args, **kwargs)
        for made in _tensors(result):
            self._seen(made, counted=True)
        return result


def peak_bytes(compute: Callable[[], object]) -> int:
    """Run `compute` and return the most bytes of tensors, made by it, that were alive at one time.

    Weights and tensors that existed before are not counted, nor are the workspaces inside an operation.
    """
    live = _Live()
    with live:
        compute()
    return live.peak
