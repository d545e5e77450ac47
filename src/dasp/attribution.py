"""The result of an explanation: values, what they add up to, and everything that was chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import DaspError, DataFileError, InputError, MissingExtraError, OutputFileError
from .game import Players
from .handover import column, explanation, shapley_values
from .notebook import as_html
from .whole import replacing

if TYPE_CHECKING:
    import pandas
    import shap
    import shapiq

    from .audit import Audit

FORMAT = 1
RESERVED = ("sample", "target", "base_value", "output", "gap")


class Auditor(Protocol):
    """Measures the error of values (B, T, n); the explainer binds `dasp.audit.audit` to the game it played."""

    def __call__(
        self, values: Tensor, *, evaluations: int, seed: int, confidence: float, per_player: bool, progress: bool
    ) -> Audit:
        """Audit (B, T, n)."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Shapley values of a batch of B rows.

    Attributes:
        values: (B, *shape) when every element is a player, a tuple of these when the inputs were a tuple; (B, n) when
            players were given. Several targets add an axis T after the rows.
        base_value: the output at the baseline, or its mean over the background, (B,) or (B, T).
        output: the output at the input, (B,) or (B, T).
        gap: completeness gap (sum of values - (output - base_value)) / sum of |values|, signed; 0 when both are 0,
            infinite when only the values are. (B,) or (B, T). Only Shapley values must add up: for another semivalue (named
            in the settings) it is no error.
        standard_errors: as `values`, or None where the method has none.
        inputs: the inputs, a tuple of (B, *shape).
        baselines: the baselines, a tuple of (1 or B, *shape); or the background, a tuple of (J, *shape).
        players: who owns which element.
        target: the target as it was asked, in types JSON can hold.
        targets: int64 (1 or B, T, k), the target as indices into the k output axes.
        feature_names: one name per player, or None.
        method: the estimator's class name.
        settings: every option of the method, defaults and choices included.
        evaluations: network evaluations per row. One whose gradient is taken, by vertex gradients or for the directions of a
            rank, counts once; benchmarks and `dasp reproduce` count it twice, for the way back.
        propagations: propagated passes per row.
        seconds: wall time by part, "total" among them.
        as_tuple: whether the inputs came as a tuple, so that `as_input` gives one.
        tokens: of texts, what each player of each row is, B tuples of n strings; else None.
        background: whether the baselines are the rows of a background.
    """

    values: Tensor | tuple[Tensor, ...]
    base_value: Tensor
    output: Tensor
    gap: Tensor
    standard_errors: Tensor | tuple[Tensor, ...] | None
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    players: Players
    target: Any
    targets: Tensor
    feature_names: tuple[str, ...] | None
    method: str
    settings: dict[str, Any]
    evaluations: float
    propagations: float
    seconds: dict[str, float]
    as_tuple: bool = False
    auditor: Auditor | None = field(default=None, repr=False)
    tokens: tuple[tuple[str, ...], ...] | None = None
    background: bool = False

    def __repr__(self) -> str:
        gap = float(self.gap.abs().max())
        against = f"background={len(self.baselines[0])} rows, " if self.background else ""
        return (
            f"Attribution({self.method}, rows={len(self.base_value)}, players={self.players.count}, "
            f"targets={self.targets.shape[1]}, {against}largest gap={gap:.2g}, evaluations={self.evaluations:g}, "
            f"propagations={self.propagations:g})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: what was explained and how, and the largest values of the first rows."""
        return as_html(self)

    @property
    def several(self) -> bool:
        """Whether several targets were asked, so that tensors carry a targets axis after the rows."""
        return self.base_value.ndim == 2

    @property
    def per_player(self) -> Tensor:
        """The values as (B, T, n), whatever was asked."""
        return self._flat(self.values)

    @property
    def player_names(self) -> tuple[str, ...]:
        """One name per player: the feature names, the players' own, or the element's index in its input."""
        return player_names(self.players, self.feature_names)

    def as_input(self) -> Tensor | tuple[Tensor, ...]:
        """The values in the inputs' shapes; each element carries its player's whole value, as in captum."""
        if not self.players.grouped:
            return self.values
        assert isinstance(self.values, Tensor)
        spread = self.players.spread(self.values)
        return spread if self.as_tuple else spread[0]

    def audit(
        self, evaluations: int = 2000, *, seed: int = 0, confidence: float = 0.95, per_player: bool = False,
        progress: bool = False,
    ) -> Audit:  # fmt: skip
        """Measure the error of these values without knowing the truth; see `dasp.audit.audit`.

        Raises:
            InputError: the attribution was loaded from a file, so there is no model to evaluate; or the model's weights
                or the inputs were changed since.
            CostError: too few evaluations for an interval; the message says how many are needed.
        """
        if self.auditor is None:
            raise InputError(
                "audit: this attribution came from a file and carries no model. Explain again, then audit, "
                "or audit before saving."
            )
        found: Audit = self.auditor(
            self.per_player, evaluations=evaluations, seed=seed, confidence=confidence, per_player=per_player,
            progress=progress,
        )  # fmt: skip
        return replace(found, audited=self.per_player.detach())

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame: one row for each sample and target, one column for each player.

        Columns: sample, target, the players by name, base_value, output, gap. Half precision becomes float32.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("to_frame needs pandas: pip install 'dasp[table]'.") from None
        rows, count, n = self.per_player.shape
        index = self.targets.expand(rows, -1, -1).reshape(rows * count, -1).tolist()
        left = pandas.DataFrame(
            {
                "sample": [row for row in range(rows) for _ in range(count)],
                "target": [i[0] if len(i) == 1 else str(tuple(i)) if i else "" for i in index],
            }
        )
        values = column(self.per_player.reshape(rows * count, n))
        middle = pandas.DataFrame(values, columns=list(self.player_names))
        ends = {"base_value": self.base_value, "output": self.output, "gap": self.gap}
        right = pandas.DataFrame({name: column(end.reshape(-1)) for name, end in ends.items()})
        return pandas.concat([left, middle, right], axis=1)

    def to_shap(
        self, audit: Audit | None = None, *, layout: str = "players", output_names: Sequence[str] | str | None = None
    ) -> shap.Explanation:
        """A `shap.Explanation`, for shap's plots (Lundberg and Lee, 2017, https://arxiv.org/abs/1705.07874).

        Args:
            audit: `self.audit(per_player=True)`, whose intervals become `lower_bounds` and `upper_bounds`. shap draws them as
                bars around a value, so that they are drawn out to it where it lies outside.
            layout: "players": values (B, n), for waterfall, beeswarm, bar, force, heatmap, scatter, decision and, where the
                players are tokens, text. "image": (B, height, width, channels), for `shap.plots.image`. "input": in the
                input's own shape. In the last two a player's value is shared equally among its elements, so that they add up.
            output_names: a name for each of several targets, the indices by default; the name of a single one.

        Returns:
            Numpy arrays throughout; `base_values` (B,). Several targets are a last axis of the values and of `base_values`, so
            `explanation[..., 0]` is the first. `data` holds the inputs or the tokens, None where players are groups;
            `error_std` the standard errors. Values that do not add up are not mended: shap's plots write base value + sum of
            values where they speak of the output, which is off by the `gap`.

        Raises:
            MissingExtraError: shap is not installed.
            InputError: the audit has no intervals for players or is of other values, the names are too few or many, or the
                layout does not fit the inputs.
        """
        return explanation(self, audit, layout, output_names)

    def to_shapiq(self, row: int = 0, *, target_index: int = 0) -> shapiq.InteractionValues:
        """The values of one row and target as `shapiq.InteractionValues` of order 1 ("SV", or "BV" for Banzhaf values).

        For pairs too see `Interactions.to_shapiq`.

        Raises:
            MissingExtraError: shapiq is not installed.
            InputError: no such row or target, or a semivalue that shapiq has no index for.
        """
        made: shapiq.InteractionValues = shapley_values(self, row, target_index)
        return made

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything but the model to one safetensors file, whose metadata hold the settings as JSON.

        ".safetensors" is added to a path without it. The file appears whole or not at all.

        Returns:
            The path that was written.

        Raises:
            OutputFileError: the path cannot be written.
        """
        path = _with_suffix(path, OutputFileError)
        tensors = {"base_value": self.base_value, "output": self.output, "gap": self.gap, "targets": self.targets}
        several = {"values": self.values, "inputs": self.inputs, "baselines": self.baselines}
        if self.standard_errors is not None:
            several["standard_errors"] = self.standard_errors
        several["labels"] = self.players.labels
        for name, group in several.items():
            for i, tensor in enumerate(group if isinstance(group, tuple) else (group,)):
                tensors[f"{name}.{i}"] = tensor
        about = {
            "format": FORMAT,
            "split": isinstance(self.values, tuple),
            "as_tuple": self.as_tuple,
            "count": self.players.count,
            "grouped": self.players.grouped,
            "names": self.players.names,
            "target": self.target,
            "feature_names": self.feature_names,
            "method": self.method,
            "settings": self.settings,
            "evaluations": self.evaluations,
            "propagations": self.propagations,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "background": self.background,
        }
        # Cloned, for safetensors refuses tensors that share memory.
        plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        try:
            with replacing(path) as temporary:
                save_file(plain, temporary, metadata={"dasp": json.dumps(about)})
        except (OSError, SafetensorError) as error:
            raise OutputFileError(f"cannot write the attribution to {path}: {error}") from error
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read what `save` wrote; tensors are on the CPU, and `audit` is not possible.

        Raises:
            DataFileError: the file is missing, corrupt, or not an attribution.
        """
        path = _with_suffix(path, DataFileError)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = file.keys()
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise DataFileError(f"cannot read an attribution from {path}: {error}") from error
        if "dasp" not in metadata:
            raise DataFileError(f"{path} is a safetensors file, but not an attribution saved by dasp.")
        try:
            about = json.loads(metadata["dasp"])
            if about["format"] != FORMAT:
                raise DataFileError(f"{path} has format {about['format']}; this version of dasp reads format {FORMAT}.")
            return cls._of(about, tensors)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, DataFileError):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise DataFileError(
                f"{path} is not a whole attribution saved by dasp ({reason[:200]}). Save it again with "
                "Attribution.save, or explain again."
            ) from error

    @classmethod
    def _of(cls, about: dict[str, Any], tensors: dict[str, Tensor]) -> Attribution:
        """From what a file holds; a built-in error where that is no attribution."""

        def group(name: str) -> tuple[Tensor, ...]:
            return tuple(tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors)))

        def shaped(name: str) -> Tensor | tuple[Tensor, ...]:
            return group(name) if about["split"] else group(name)[0]

        players = Players(group("labels"), int(about["count"]), bool(about["grouped"]), _names(about["names"]))
        loaded = cls(
            values=shaped("values"),
            base_value=tensors["base_value"],
            output=tensors["output"],
            gap=tensors["gap"],
            standard_errors=shaped("standard_errors") if group("standard_errors") else None,
            inputs=group("inputs"),
            baselines=group("baselines"),
            players=players,
            target=about["target"],
            targets=tensors["targets"],
            feature_names=_names(about["feature_names"]),
            method=about["method"],
            settings=about["settings"],
            evaluations=about["evaluations"],
            propagations=about["propagations"],
            seconds=about["seconds"],
            as_tuple=about["as_tuple"],
            tokens=None if about.get("tokens") is None else tuple(tuple(row) for row in about["tokens"]),
            background=bool(about.get("background", False)),
        )
        rows, count = loaded.targets.expand(len(loaded.base_value), -1, -1).shape[:2]
        if loaded.per_player.shape != (rows, count, players.count):
            raise ValueError(f"values of shape {tuple(loaded.per_player.shape)} for {players.count} players")
        if not len(loaded.inputs) == len(loaded.baselines) == len(players.labels) > 0:
            raise ValueError("inputs, baselines and players do not go together")
        ends = (loaded.output, loaded.gap)
        if any(end.shape != loaded.base_value.shape for end in ends) or any(len(x) != rows for x in loaded.inputs):
            raise ValueError(f"outputs, gaps or inputs are not those of {rows} rows")
        lines = [line for line in (players.names, loaded.feature_names, *(loaded.tokens or ())) if line is not None]
        named = all(len(line) == players.count and all(isinstance(name, str) for name in line) for line in lines)
        if not named or (loaded.tokens is not None and len(loaded.tokens) != rows):
            raise ValueError(f"names or tokens are not those of {players.count} players in {rows} rows")
        owners = torch.cat([label.flatten() for label in players.labels])
        if owners.dtype != torch.int64 or bool(((owners < 0) | (owners >= players.count)).any()):
            raise ValueError(f"elements are owned by others than the {players.count} players")
        return loaded

    def _flat(self, values: Tensor | tuple[Tensor, ...]) -> Tensor:
        parts = values if isinstance(values, tuple) else (values,)
        lead = 2 if self.several else 1
        flat = torch.cat([part.reshape(*part.shape[:lead], -1) for part in parts], dim=-1)
        return flat if self.several else flat.unsqueeze(1)


def player_names(players: Players, feature_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """One name per player: the feature names, the players' own, or the element's index in its input."""
    if feature_names is not None:
        return feature_names
    if players.names is not None:
        return players.names
    names = []
    for i, label in enumerate(players.labels):
        stem = "x" if len(players.labels) == 1 else f"x{i}"
        names += [f"{stem}{list(index)}" for index in product(*(range(size) for size in label.shape))]
    return tuple(names)


def _names(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _with_suffix(path: str | os.PathLike[str], error: type[DaspError]) -> Path:
    name = os.fspath(path)
    if not Path(name).name or "\0" in name:
        raise error(f"{name!r} is not the name of a file; give one, as 'values.safetensors'.")
    return Path(name) if name.endswith(".safetensors") else Path(name + ".safetensors")
