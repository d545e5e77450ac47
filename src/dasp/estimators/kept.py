"""What a model gave at pairs of coalitions: looked up before it is asked again, and kept in a file where that is wanted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..attribution import write_whole
from ..errors import DataFileError, OutputFileError
from ..game import Game

AT_ONCE = 4096


class Pairs:
    """v(S) - v(complement) of some rows at pairs of coalitions of n players; NaN where it was not evaluated.

    Attributes:
        members: one coalition of each pair, the one with the first player, (M, n) bool, on the CPU.
        known: (R, T, M) float64, on the CPU.
    """

    def __init__(self, members: Tensor, known: Tensor) -> None:
        self.members, self.known = members, known
        self._places = {key: place for place, key in enumerate(_keys(members))}

    def at(self, members: Tensor, rows: Tensor, evaluate: Callable[[Tensor], Tensor], done: Callable[[], None]) -> Tensor:
        """Differences of some rows at coalitions (A, n), (rows, T, A), on the device of the coalitions.

        Args:
            members: the coalitions.
            rows: which rows.
            evaluate: differences of these rows at coalitions (A, n), (rows, T, A).
            done: called after every few evaluations.
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
        index = torch.tensor([self._places[key] for key in keys], device="cpu")
        own = rows.cpu()
        wanted = index.unique()
        missing = wanted[self.known[own][:, 0, wanted].isnan().any(0)]
        for some in missing.split(AT_ONCE):
            values = evaluate(self.members[some].to(members.device)).cpu()
            for place, row in enumerate(own.tolist()):
                self.known[row, :, some] = values[place]
            done()
        found = self.known[own][:, :, index].to(members.device)
        return torch.where(flipped[:, 0], -found, found)

    def evaluated(self, row: int) -> int:
        """How many pairs the model was asked for in a row."""
        return int((~self.known[row, 0].isnan()).sum())


class Kept:
    """The pairs of every group of rows, by their number of players, and the file that they are kept in."""

    def __init__(self, path: Path | None, about: dict[str, str], ends: dict[str, Tensor], groups: dict[int, Pairs]) -> None:
        self.path, self.about, self.ends, self.groups = path, about, ends, groups

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None, game: Game, seed: int) -> Kept:
        """What the file holds, nothing if there is none.

        Raises:
            DataFileError: it is no such file, or it belongs to other rows, another model, or another seed.
        """
        about = {"dasp_pairs": json.dumps({"format": 1, "seed": seed, "rows": _fingerprint(game)})}
        ends = {"base_values": game.base_values.detach().cpu(), "outputs": game.outputs.detach().cpu()}
        if path is None:
            return cls(None, about, ends, {})
        file = Path(path)
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
            raise DataFileError(
                f"keep: {file} belongs to another model, other rows, players or targets, or another seed. Give another name, "
                "or remove the file."
            )
        sizes = [int(name.split(".")[1]) for name in tensors if name.startswith("members.")]
        return cls(file, about, ends, {n: Pairs(tensors[f"members.{n}"], tensors[f"known.{n}"]) for n in sizes})

    def of(self, n: int, rows: int, targets: int) -> Pairs:
        """The pairs of the rows with n players."""
        none = torch.zeros(0, n, dtype=torch.bool, device="cpu")
        return self.groups.setdefault(n, Pairs(none, torch.zeros(rows, targets, 0, dtype=torch.float64, device="cpu")))

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputFileError: it cannot be written.
        """
        if self.path is None:
            return
        tensors = dict(self.ends)
        for n, pairs in self.groups.items():
            tensors |= {f"members.{n}": pairs.members.contiguous(), f"known.{n}": pairs.known.contiguous()}
        try:
            write_whole(self.path, tensors, self.about)
        except (OSError, SafetensorError) as error:
            raise OutputFileError(f"keep: cannot write {self.path}: {error}") from error


def _keys(members: Tensor) -> list[bytes]:
    weights = 1 << torch.arange(8, device="cpu")
    padded = torch.nn.functional.pad(members.to(torch.uint8), (0, -members.shape[1] % 8))
    packed = (padded.unflatten(1, (-1, 8)) * weights).sum(-1).to(torch.uint8).numpy()
    return [row.tobytes() for row in packed]


def _fingerprint(game: Game) -> str:
    digest = hashlib.sha256()
    for tensor in (*game.inputs, *game.baselines, *game.players.labels, game.targets.index):
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
