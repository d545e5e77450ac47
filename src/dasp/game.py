"""The game that is played: players, and the value v(S) of a coalition.

v_b(S) = f_target(baseline_b + z_S * (x_b - baseline_b)), one game for each row b of a batch, where z_S is 1 on the
elements of the players in S (Shapley 1953; Owen 1972 for the multilinear extension that the estimators use).

Shapes: B rows of a batch, n players, T targets, M coalitions, R chosen rows, `shape_i` the shape of input i without
its batch axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .errors import CoalitionError, InputError
from .memory import peak_bytes
from .model import Model
from .partition import Players as Players
from .semivalues import Weighting
from .targets import Targets

# On a CPU a forward pass is fastest while its activations stay near the cache, and freshly mapped pages cost more than
# batching saves (LeNet: 30 us an evaluation at 16 MiB, 60 us at 64 MiB). An accelerator takes all the bound allows.
CPU_BYTES = 16 * 2**20
LARGEST_CHUNK = 65536
OVERHEAD = 1e5  # of an evaluation beside its products, in operations

# How far one value may differ between two forward passes: some epsilons of its size, and a part of what it tells.
ROUNDING = 64
LARGEST_ROUNDING = 0.1  # for half precision, where 64 epsilons are everything
SAME = 1e-3
SAME_ON_CUDA = 2e-2  # convolutions and products may be in TF32, and by other kernels for other numbers of rows


def take_rows(extra: tuple[Any, ...], rows: Tensor, batch: int) -> tuple[Any, ...]:
    """Further arguments for some rows of a batch: tensors whose first axis is the batch are indexed, others kept."""
    return tuple(e[rows] if goes_along(e, batch) else e for e in extra)


def goes_along(extra: Any, batch: int) -> bool:
    """Whether a further argument has one entry for each row."""
    return isinstance(extra, Tensor) and extra.ndim > 0 and extra.shape[0] == batch


def evaluate_rows(model: Model, inputs: tuple[Tensor, ...], extra: tuple[Any, ...], rows: Tensor, batch: int) -> Tensor:
    """The model on inputs (M, *shape_i) that stand for `rows` (M,) of a batch, with the further arguments of these rows.

    Raises:
        InputError: the model fails; the message names the further arguments that were taken to go along with the rows.
    """
    try:
        return model.evaluate(*inputs, *take_rows(extra, rows, batch))
    except InputError as error:
        note = _along_note(extra, batch)
        if not note:
            raise
        raise InputError(f"{error}{note}") from error


def _along_note(extra: tuple[Any, ...], batch: int) -> str:
    along = [i for i, e in enumerate(extra) if goes_along(e, batch)]
    if not along:
        return ""
    named = " and ".join(f"additional_forward_args[{i}] of shape {tuple(extra[i].shape)}" for i in along)
    return (
        f" Note that {named} went along with the rows, having as many entries on the first axis as there are rows "
        f"({batch}). A tensor that is the same for every row must be kept in the model instead (a buffer of a module that "
        "wraps it)."
    )


@dataclass(frozen=True, eq=False)
class Game:
    """One batch of games, one for each row: v_b(S) = f_target(x_b on the players in S, baseline elsewhere).

    Attributes:
        model: evaluates f.
        inputs: (B, *shape_i), one tensor per input.
        baselines: (1 or B, *shape_i).
        extra: further arguments of the model; a tensor whose first axis has length B goes along with its row, anything
            else is passed as it is.
        players: who owns which element.
        targets: which outputs are explained.
        memory: bytes that one chunk of evaluations may take.
        semivalue: weights of the marginal contributions; None: Shapley's.
    """

    model: Model
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    players: Players
    targets: Targets
    memory: int
    semivalue: Weighting | None = None

    def of_rows(self, rows: Tensor) -> Game:
        """The games of some rows (R,) alone."""
        return replace(
            self,
            inputs=tuple(x[rows] for x in self.inputs),
            baselines=tuple(b if len(b) == 1 else b[rows] for b in self.baselines),
            extra=take_rows(self.extra, rows, self.batch),
            targets=self.targets.of_rows(rows),
        )

    @property
    def rows_each(self) -> int:
        """Evaluations of the network that one value takes; more than one against a background."""
        return 1

    @property
    def batch(self) -> int:
        """The number of rows B."""
        return self.inputs[0].shape[0]

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.inputs[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the model, or of the first floating input, or torch's default."""
        if self.model.dtype is not None:
            return self.model.dtype
        return next((x.dtype for x in self.inputs if x.is_floating_point()), torch.get_default_dtype())

    @cached_property
    def base_values(self) -> Tensor:
        """v of the empty coalition, (B, T)."""
        return self._end(False)

    @property
    def first_base_values(self) -> Tensor:
        """The values of `masked` for nobody, (B, T): those of the empty coalition, at the first row of a background."""
        return self.base_values

    @cached_property
    def outputs(self) -> Tensor:
        """v of all players, (B, T): the model's output at the input itself."""
        return self._end(True)

    def gap(self, values: Tensor) -> Tensor:
        """(sum of values (B, T, n) - (output - base value)) / sum of their magnitudes, (B, T); 0 where both are 0."""
        values = values.double()
        missing = values.sum(-1) - (self.outputs.double() - self.base_values.double())
        gap = missing / values.abs().sum(-1)
        return torch.where(missing == 0, 0.0, gap).to(self.dtype)

    def moved(self, rows: Tensor) -> Tensor:
        """Whether a player differs from its baseline anywhere, (rows, 1, n); who does not adds exactly nothing."""
        moved = torch.zeros(len(rows), self.players.count, dtype=torch.long, device=self.device)
        for x, b, label in zip(self.inputs, self.baselines, self.players.labels, strict=True):
            moved = moved.index_add(1, label.flatten(), (x[rows] != b.expand_as(x)[rows]).long().flatten(1))
        return (moved > 0).unsqueeze(1)

    def check_ends(self) -> None:
        """Evaluate both ends now, so that a model that cannot be explained is named before any work.

        Raises:
            InputError: the model gives NaN or infinity at an input or its baseline; its rows depend on each other; or it
                is random.
        """
        for end in (self.base_values, self.outputs):
            assert end.shape == (self.batch, self.targets.count)
        self._check_company()

    def _check_company(self) -> None:
        """Evaluate a row and its baseline in other company than before, and refuse other values."""
        nobody = torch.zeros(self.batch, self.players.count, dtype=torch.bool, device=self.device)
        bases = self.masked(torch.arange(self.batch, device=self.device), nobody)
        away = [(x != b).reshape(self.batch, -1).sum(1) for x, b in zip(self.inputs, bases, strict=True)]
        moved = torch.stack(away).sum(0)
        row = int(moved.argmax())
        if not int(moved[row]):
            return  # every input is its baseline: all values are 0, whatever the model
        other = (row + 1) % self.batch
        # Beside its baseline, the mean of the batch and all like it change; behind another row, what builds up does.
        for rows, present in (((row, row), (True, False)), ((other, row), (True, True))):
            index = torch.tensor(rows, device=self.device)
            coalitions = torch.tensor(present, device=self.device).unsqueeze(1).expand(-1, self.players.count)
            masked = self.masked(index, coalitions)
            found = self._evaluate(masked, index)
            expected = torch.where(coalitions[:, :1], self.outputs[index], self.first_base_values[index])
            far = (found - expected).abs()
            if not bool((far <= self.tolerance).all()):
                again = [(self._evaluate(masked, index) - found).abs() for _ in range(8)]
                random = any(bool((change > self.tolerance).any()) for change in again)
                fault = _company_fault(self.model.name, float(far.max()), random)
                raise InputError(fault + _along_note(self.extra, self.batch))
        self._check_between(row)

    def _check_between(self, row: int) -> None:
        """Refuse a model that is random between the ends alone, as where both are saturated: one coalition, twice in a pass."""
        index = torch.tensor((row, row), device=self.device)
        half = (torch.arange(self.players.count, device=self.device) % 2 == 0).expand(2, -1)
        first, second = self._evaluate(self.masked(index, half), index)
        far = (first - second).abs()
        # Whoever meets a value that is not finite names it; and what is between may be much larger than the ends.
        allowed = self.tolerance + SAME * (first - self.first_base_values[row]).abs()
        if bool((far > allowed).any()):
            raise InputError(_company_fault(self.model.name, float(far.max()), True))

    def check_unchanged(self) -> None:
        """Evaluate both ends again, and refuse a model or inputs that were changed since they were first evaluated.

        Raises:
            InputError: the outputs at an input or its baseline are others now.
        """
        known, fresh = (self.base_values, self.outputs), replace(self)
        for before, now in zip(known, (fresh.base_values, fresh.outputs), strict=True):
            far = (now - before).abs()
            if not bool((far <= self.tolerance).all()):
                raise InputError(
                    f"the model gives other outputs now than when these rows were explained (they differ by up to "
                    f"{float(far.max()):.2g}): its weights, the inputs or the baseline were changed in place since. "
                    "Explain again with the model as it is."
                )

    @cached_property
    def tolerance(self) -> Tensor:
        """How far a value at either end may differ between two passes of a model whose rows are independent, (T,)."""
        base, output = self.base_values.abs(), self.outputs.abs()
        span = (self.outputs - self.base_values).abs().amax(0)
        epsilon = max(torch.finfo(dtype).eps for dtype in (self.dtype, self.outputs.dtype))
        rounding = min(ROUNDING * epsilon, LARGEST_ROUNDING)
        part = max(rounding, SAME_ON_CUDA if self.device.type == "cuda" else SAME)
        return part * span + rounding * torch.maximum(base, output).amax(0)

    @cached_property
    def chunk(self) -> int:
        """How many evaluations go through the model at once under the memory bound; at least 1.

        One evaluation is taken to need the peak of live activations (measured on two rows), half as much again for the
        workspaces of the operations, and the masked inputs.
        """
        two = torch.arange(2, device=self.device) % self.batch
        inputs = tuple(x[two] for x in self.inputs)
        activations = peak_bytes(lambda: evaluate_rows(self.model, inputs, self.extra, two, self.batch)) / 2
        masked = sum(x[0].numel() * (2 * x.element_size() + 1) for x in self.inputs)
        each = 1.5 * activations + masked + 8 * self.players.count + 32 * self.targets.count
        memory = min(self.memory, CPU_BYTES) if self.device.type == "cpu" else self.memory
        return max(1, min(LARGEST_CHUNK, int(memory / each)))

    @cached_property
    def work(self) -> float:
        """Floating-point operations of one evaluation, roughly: of products and convolutions, or two a weight if more."""
        two = torch.arange(2, device=self.device) % self.batch
        counter = FlopCounterMode(display=False)
        with counter:
            evaluate_rows(self.model, tuple(x[two] for x in self.inputs), self.extra, two, self.batch)
        weights = sum(weight.numel() for _, weight in self.model.weights())
        return OVERHEAD + max(counter.get_total_flops() / 2, 2.0 * weights)

    def values(self, rows: Tensor, coalitions: Tensor) -> Tensor:
        """v of one coalition for each listed row: rows (M,) int64, coalitions (M, n) bool, to (M, T).

        Raises:
            InputError: the model gives NaN or infinity at a coalition.
        """
        parts = []
        for start in range(0, len(rows), self.chunk):
            row = rows[start : start + self.chunk]
            coalition = coalitions[start : start + self.chunk]
            values = self._evaluate(self.masked(row, coalition), row)
            self.refuse_non_finite(values, row, coalition)
            parts.append(values)
        if not parts:
            return torch.empty(0, self.targets.count, dtype=self.dtype, device=self.device)
        return torch.cat(parts)

    def alone(self, rows: Tensor, coalitions: Tensor, drawn: Tensor) -> Tensor:
        """`values`; against a background, each with one of its rows, `drawn` (M,), in place of the mean over all."""
        return self.values(rows, coalitions)

    def table(self, coalitions: Tensor, rows: Tensor) -> Tensor:
        """v of every coalition for every listed row: coalitions (M, n) bool, rows (R,) int64, to (R, M, T).

        Cheaper than `values`, as a mask is built once for all rows.

        Raises:
            InputError: the model gives NaN or infinity at a coalition.
        """
        result: Tensor | None = None
        for some, several in self._tiles(len(coalitions), len(rows)):
            coalition, row = coalitions[some], rows[several]
            masked = tuple(
                torch.where(z.unsqueeze(0), x[row].unsqueeze(1), b.expand_as(x)[row].unsqueeze(1)).flatten(0, 1)
                for z, x, b in zip(self.players.spread(coalition), self.inputs, self.baselines, strict=True)
            )
            index = row.repeat_interleave(len(coalition))
            values = self._evaluate(masked, index)
            self.refuse_non_finite(values, index, coalition)
            if result is None:
                result = values.new_empty(len(rows), len(coalitions), self.targets.count)
            result[several, some] = values.reshape(len(row), len(coalition), -1)
        if result is None:
            return torch.empty(len(rows), len(coalitions), self.targets.count, dtype=self.dtype, device=self.device)
        return result

    def _tiles(self, coalitions: int, rows: int) -> Iterator[tuple[slice, slice]]:
        step = min(coalitions, self.chunk)
        for start in range(0, coalitions, max(step, 1)):
            width = min(step, coalitions - start)
            height = max(1, self.chunk // width)
            for first in range(0, rows, height):
                yield slice(start, start + width), slice(first, min(first + height, rows))

    def _end(self, present: bool) -> Tensor:
        coalitions = torch.full((self.batch, self.players.count), present, device=self.device)
        return self.values(torch.arange(self.batch, device=self.device), coalitions)

    def masked(self, rows: Tensor, coalitions: Tensor) -> tuple[Tensor, ...]:
        """The inputs of one coalition (M, n) for each listed row (M,): (M, *shape_i) each."""
        return tuple(
            torch.where(z, x[rows], b.expand_as(x)[rows])
            for z, x, b in zip(self.players.spread(coalitions), self.inputs, self.baselines, strict=True)
        )

    def _evaluate(self, masked: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        count = len(rows)
        if count == 1:
            # A graph with a dynamic batch is specialised by torch.export when it has one row: two rows never are.
            masked, rows = tuple(torch.cat((x, x)) for x in masked), rows.repeat(2)
        outputs = evaluate_rows(self.model, masked, self.extra, rows, self.batch)
        return self.targets.select(outputs, rows)[:count]

    def refuse_non_finite(self, values: Tensor, rows: Tensor, coalitions: Tensor, drawn: Tensor | None = None) -> None:
        """Refuse values (M, T) of coalitions (M, n) for rows (M,) where one is NaN or infinite; `drawn` of a background."""
        bad = (~torch.isfinite(values)).any(1)
        if not bool(bad.any()):
            return
        first = int(bad.nonzero()[0])
        coalition = coalitions[first % len(coalitions)]
        present = coalition.nonzero().flatten().tolist()
        listed = ", ".join(str(i) for i in present[:8]) + (", ..." if len(present) > 8 else "")
        raise CoalitionError(
            f"the model gives {'NaN' if bool(values[first].isnan().any()) else 'infinity'} for row {int(rows[first])} "
            f"with {len(present)} of {self.players.count} players present"
            f"{' (' + listed + ')' if present else ''}, the others at "
            f"{'the baseline' if drawn is None else f'row {int(drawn[first])} of the background'}. "
            "Look at the row, or choose a baseline at which the model is defined. The error has the row, the coalition and the "
            "inputs as attributes.",
            int(rows[first]), coalition.cpu(), self._with_absent(int(rows[first]), coalition, drawn, first),
        )  # fmt: skip

    def _with_absent(self, row: int, coalition: Tensor, drawn: Tensor | None, place: int) -> tuple[Tensor, ...]:
        """What the model was given at a coalition, one row for each input."""
        inputs = []
        for z, x, b in zip(self.players.spread(coalition), self.inputs, self.baselines, strict=True):
            absent = b.expand_as(x)[row] if drawn is None else b[int(drawn[place])]
            inputs.append(torch.where(z, x[row], absent).unsqueeze(0))
        return tuple(inputs)


def _company_fault(name: str, far: float, random: bool) -> str:
    if random:
        return (
            f"the model {name} is random: the same rows gave other outputs when evaluated again (they differ by up to "
            f"{far:.2g}). Switch off dropout and noise in evaluation mode, e.g. dropout(x, training=self.training); call "
            "model.eval() before exporting a program."
        )
    return (
        f"the rows of the model {name} depend on each other: a row gave another output in the company of other rows (they "
        f"differ by up to {far:.2g}). Its values would depend on the batch it is in. Look for a mean, softmax, sum or "
        "normalisation over the batch axis, batch statistics in evaluation mode, or a layer that takes the first axis for "
        "another one (batch_first=False), and change that."
    )
