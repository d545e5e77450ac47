"""What a model gave at pairs of coalitions: looked up before it is asked again, and kept in a file where that is wanted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DataFileError, OutputFileError
from ..fingerprint import of_tensors, of_weights
from ..game import SAME, Game
from ..whole import replacing

AT_ONCE = 8192
"""Pairs, of all rows together, that an interrupt may lose."""
EVERY = 10.0
"""Seconds from one time that the file is written to the next."""
SPOT = 8
"""Coalitions of a file that are evaluated again before the others are believed."""


class Pairs:
    """v(S) - v(complement) of some rows at pairs of coalitions of n players; NaN where it was not evaluated.

    Attributes:
        members: one coalition of each pair, the one with the first player, (M, n) bool, on the CPU.
        known: (R, T, M) float64, on the CPU.
        used: whether a pair was asked for, (R, M) bool, on the CPU.
    """

    def __init__(self, members: Tensor, known: Tensor) -> None:
        self.members, self.known = members, known
        self.used = torch.zeros(len(known), len(members), dtype=torch.bool, device="cpu")
        self._places = {key: place for place, key in enumerate(_keys(members))}

    def at(
        self,
        members: Tensor,
        rows: Tensor,
        evaluate: Callable[[Tensor], Tensor],
        kept: Callable[[bool], None] | None,
        at_once: int = AT_ONCE,
    ) -> Tensor:
        """Differences of some rows at coalitions (A, n), (rows, T, A), on the device of the coalitions.

        Args:
            members: the coalitions.
            rows: which rows.
            evaluate: differences of these rows at coalitions (A, n), (rows, T, A).
            kept: called after every few evaluations, and with True after the last, whether all went well or not.
            at_once: pairs, of all rows together, from one such call to the next.
        """
        flipped = ~members[:, :1]
        first = (members ^ flipped).cpu()
        keys = _keys(first)
        fresh = {key: place for place, key in enumerate(keys) if key not in self._places}
        if fresh:
            self._places |= {key: len(self.members) + k for k, key in enumerate(fresh)}
            self.members = torch.cat((self.members, first[list(fresh.values())]))
            more = torch.full((*self.known.shape[:2], len(fresh)), torch.nan, dtype=torch.float64, device="cpu")
            self.known = torch.cat((self.known, more), 2)
            self.used = torch.nn.functional.pad(self.used, (0, len(fresh)))
        index = torch.tensor([self._places[key] for key in keys], dtype=torch.long, device="cpu")
        own = rows.cpu()
        wanted = index.unique()
        self.used[own.unsqueeze(1), wanted] = True
        missing = wanted[self.known[own][:, 0, wanted].isnan().any(0)]
        try:
            for some in missing.split(max(1, at_once // len(own)) if kept else max(1, len(missing))):
                values = evaluate(self.members[some].to(members.device)).cpu()
                for place, row in enumerate(own.tolist()):
                    self.known[row, :, some] = values[place]
                if kept:
                    kept(False)
        finally:
            if kept and len(missing):
                kept(True)
        found = self.known[own][:, :, index].to(members.device)
        return torch.where(flipped[:, 0], -found, found)

    def spot(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A few coalitions (A, n) out of those that all of some rows were evaluated at, and what is known, (rows, T, A)."""
        there = (~self.known[rows, 0].isnan()).all(0).nonzero()[:, 0]
        some = there[torch.linspace(0, max(0, len(there) - 1), min(SPOT, len(there)), device="cpu").round().long()]
        return self.members[some], self.known[rows][:, :, some]

    def evaluated(self, row: int) -> int:
        """How many pairs a row rests on, those of a file among them."""
        return int(self.used[row].sum())


class Kept:
    """The pairs of every group of rows, by their number of players, and the file that they are kept in."""

    def __init__(self, path: Path | None, about: dict[str, str], ends: dict[str, Tensor], groups: dict[int, Pairs]) -> None:
        self.path, self.about, self.ends, self.groups = path, about, ends, groups
        self._written = time.monotonic()

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None, game: Game, seed: int) -> Kept:
        """What the file holds, nothing if there is none.

        Raises:
            DataFileError: it is no such file, or it belongs to other rows, another model, or another seed.
        """
        about = {"dasp_pairs": json.dumps({"format": 2, "seed": seed, "rows": _fingerprint(game)})}
        ends = {"base_values": game.base_values.detach().cpu(), "outputs": game.outputs.detach().cpu()}
        if path is None:
            return cls(None, about, ends, {})
        file = Path(path)
        if file.is_dir() or not file.parent.is_dir():
            why = "a folder" if file.is_dir() else f"in {file.parent}, which is no folder"
            raise OutputFileError(f"keep: {file} is {why}. Name a file in a folder that is there.")
        if not file.exists():
            return cls(file, about, ends, {})
        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise DataFileError(f"keep: cannot read {file}: {error}") from error
        same = metadata == about and all(
            tensors[name].shape == end.shape and bool(((tensors[name] - end).abs() <= game.tolerance.cpu()).all())
            for name, end in ends.items()
        )
        if not same:
            raise DataFileError(_foreign(file))
        sizes = [int(name.split(".")[1]) for name in tensors if name.startswith("members.")]
        return cls(file, about, ends, {n: Pairs(tensors[f"members.{n}"], tensors[f"known.{n}"]) for n in sizes})

    def of(self, n: int, every: int, some: Tensor, targets: int) -> tuple[Pairs, Tensor]:
        """The pairs of `some` of the rows with n players, and which of these pairs' rows they are.

        Without a file pairs are forgotten with the rows they belong to.
        """
        rows = len(some) if self.path is None else every
        none = Pairs(
            torch.zeros(0, n, dtype=torch.bool, device="cpu"), torch.zeros(rows, targets, 0, dtype=torch.float64, device="cpu")
        )
        if self.path is None:
            return none, torch.arange(rows, device="cpu")
        return self.groups.setdefault(n, none), some.cpu()

    def check(self, pairs: Pairs, own: Tensor, evaluate: Callable[[Tensor], Tensor], tolerance: Tensor) -> None:
        """Evaluate a few coalitions of the file again, as a model's code may have changed where its weights have not.

        Raises:
            DataFileError: the model gives something else now.
        """
        members, known = pairs.spot(own)
        if self.path is not None and len(members):
            rounding = 2 * tolerance.cpu().unsqueeze(1) + SAME * known.abs().amax(2, keepdim=True)
            if not bool(((evaluate(members).cpu() - known).abs() <= rounding).all()):
                raise DataFileError(_foreign(self.path))

    def write(self, now: bool) -> None:
        """Write the file, whole or not at all; unless it must be now, not more often than every 10 seconds.

        Raises:
            OutputFileError: it cannot be written.
        """
        if self.path is None or not (now or time.monotonic() - self._written > EVERY):
            return
        self._written = time.monotonic()
        tensors = dict(self.ends)
        for n, pairs in self.groups.items():
            tensors |= {f"members.{n}": pairs.members.contiguous(), f"known.{n}": pairs.known.contiguous()}
        try:
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, metadata=self.about)
        except (OSError, SafetensorError) as error:
            raise OutputFileError(f"keep: cannot write {self.path}: {error}") from error


def storable(n: int, memory: int) -> int:
    """Pairs of n players of which the coalitions, several copies alive at once, take so many bytes."""
    return memory // (16 * n)


def _foreign(file: Path) -> str:
    return (
        f"keep: {file} belongs to another model, other rows, players or targets, or another seed. Give another name, or remove "
        "the file."
    )


def _keys(members: Tensor) -> list[bytes]:
    weights = 1 << torch.arange(8, device="cpu")
    padded = torch.nn.functional.pad(members.to(torch.uint8), (0, -members.shape[1] % 8))
    packed = (padded.unflatten(1, (-1, 8)) * weights).sum(-1).to(torch.uint8).numpy()
    return [row.tobytes() for row in packed]


def _fingerprint(game: Game) -> str:
    """Of all that says what a coalition is worth, but for the code of the model."""
    extra = [part for part in game.extra if isinstance(part, Tensor)]
    parts = (*game.inputs, *game.baselines, *game.players.labels, game.targets.index, *extra)
    model, others = of_weights(game.model), [part for part in game.extra if not isinstance(part, Tensor)]
    return of_tensors((f"{model} {others!r}", part) for part in parts)
