"""The axioms measured on a user's own explainer, model and rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attribution import Attribution
from ..checks import further
from ..errors import DaspError, InputError, InputTypeError
from ..explainer import Explainer
from ..game import Players, take_rows
from . import wrappers
from .external import External
from .measurement import (
    COMPLETENESS,
    CONTINUITY,
    INVARIANCE,
    LINEARITY,
    NULL_PLAYER,
    SYMMETRY,
    Measurement,
    Report,
    asked_axioms,
    difference,
    incompleteness,
    inequality,
    rounding,
    share,
    step_left,
)

REACH = 0.05
"""How far the line that is searched for a jump goes to both sides of a row, relative to its distance from the baseline."""
POINTS = 9
"""Inputs at once on that line; the search goes on between two neighbours of them."""
LINE_SEED = 0

WHOLE_NUMBERS = "the inputs are whole numbers, which cannot be changed a little. Explain the embeddings to measure this."


def measure(
    explainer: Explainer,
    inputs: Any,
    target: Any = None,
    *,
    axioms: Iterable[str] | None = None,
    additional_forward_args: Any = None,
    progress: bool = False,
) -> Report:
    """Measure by how much the values of an explainer violate each axiom, for its model and these rows.

    Nothing needs to be known of the model: it is put into modules for which the axioms say what the values must be.

    - completeness: the values as they are, against the change of the output.
    - null player: one more input, which the module ignores; or adds to the model's input and takes off again.
    - symmetry: the player that matters most in the mean over rows is shared out between two equal copies of it.
    - linearity: f, the model g that reads its inputs backwards, and 2 f - g, a module of its own.
    - continuity: the largest jump of the values found along a short line through each row; the line's direction is random
      and fixed, its length a tenth of the row's distance from its baseline. 0 says that no jump was met there.
    - implementation invariance: the model behind ReLUs that do nothing, `relu(2 x) / 2 - relu(-x)`, behind two reflections that
      undo each other, and with such ReLUs at its output.

    Violations tell where a method cannot be right, not by how much its values are off: `Attribution.audit` measures that.

    Args:
        explainer: with the model, the baseline, the method and the players. For a method of another package take
            `dasp.Explainer(model, baseline, method=dasp.axioms.External(function))`.
        inputs: (B, *shape) or a tuple of several, as for the explainer. A few rows do: continuity alone explains 36 to 63
            inputs for each.
        target: as for the explainer.
        axioms: those of `dasp.axioms.AXIOMS` to measure; all by default.
        additional_forward_args: as for the explainer.
        progress: show a progress bar.

    Raises:
        InputTypeError, InputError: an argument has the wrong type or value, as for the explainer.
        DaspError: the explainer cannot explain the rows themselves. What it cannot explain of the modules around the model is
            reported as refused.

    >>> import torch, dasp
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> explainer = dasp.Explainer(model, 0.0, method=dasp.Exact())
    >>> report = dasp.axioms.measure(explainer, torch.ones(1, 3), axioms=["completeness", "null player"])
    >>> print(report)
    | axiom | measured on | violation | what it means |
    | --- | --- | --- | --- |
    | completeness | the model itself | 0 | The values add up to the change of the output. |
    | null player | an input that is ignored | 0 | A player that changes nothing gets nothing. |
    | null player | an input that is taken off again | 0 | A player that changes nothing gets nothing. |
    """
    if not isinstance(explainer, Explainer):
        raise InputTypeError(
            f"explainer: expected a dasp.Explainer, got {type(explainer).__name__}. For a function take "
            "dasp.Explainer(model, baseline, method=dasp.axioms.External(function))."
        )
    if explainer.semivalue is not None:
        raise InputError(
            f"explainer: these are the axioms of the Shapley value, and its semivalue is {explainer.semivalue}. Leave "
            "semivalue= out of the explainer that is measured."
        )
    asked = asked_axioms(axioms)
    with torch.inference_mode(False):
        result = explainer(inputs, target, additional_forward_args=additional_forward_args)
        subject = Subject(explainer, result, target, further(additional_forward_args))
        constructions = [made for axiom in asked for made in BY_AXIOM[axiom](subject)]
        rows = []
        for construction in tqdm(constructions, unit="construction", disable=not progress):
            rows.append(_measured(subject, construction))
    return Report(tuple(rows))


@dataclass(frozen=True)
class Construction:
    """What the violation of an axiom is measured on, and how: `measure` gives (B, T)."""

    axiom: str
    title: str
    measure: Callable[[], Tensor]
    whole_numbers: bool = False  # whether it can be made of inputs that are whole numbers


class Subject:
    """A model and its rows, explained already, and the means to explain modules around it.

    B rows, T targets, n players.
    """

    def __init__(self, explainer: Explainer, result: Attribution, target: Any, extra: tuple[Any, ...]) -> None:
        self.explainer, self.result, self.target, self.extra = explainer, result, target, extra
        source = explainer.model.source
        self.module = source if isinstance(source, nn.Module) else source.module()
        floating = [i for i, x in enumerate(result.inputs) if x.is_floating_point()]
        self.place = floating[0] if floating else None  # of the input that the modules change

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """(B, *shape) each."""
        return self.result.inputs

    @property
    def values(self) -> Tensor:
        """Of the model itself, (B, T, n), float64."""
        return self.result.per_player.double()

    def copy(self) -> nn.Module:
        """The model once more, with weights of its own.

        Raises:
            InputError: it cannot be copied.
        """
        source = self.explainer.model.source
        if not isinstance(source, nn.Module):
            return source.module()
        try:
            return copy.deepcopy(source)
        except Exception as error:  # whatever the module's own code raises
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{type(source).__name__} cannot be copied: {type(error).__name__}: {reason}") from error

    @property
    def name(self) -> str:
        """Of the method."""
        method = self.explainer.method
        return method.name if isinstance(method, External) else type(method).__name__

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs, which tells what is rounding."""
        return self.result.output.dtype

    def explain(
        self, module: nn.Module, further_input: tuple[Tensor, Tensor] | None = None, players: Players | None = None
    ) -> Tensor:
        """Values of a module around the model, (B, T, players), float64; with one more input and its baseline."""
        inputs, baselines = self.inputs, self.result.baselines
        if further_input is not None:
            inputs, baselines = (*inputs, further_input[0]), (*baselines, further_input[1])
        return self._explain(module, inputs, baselines, players or self.result.players, self.target, self.extra)

    def explain_at(self, index: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """Values of the model at other inputs (M, *shape) that stand for rows `index` (M,), (M, T, n), float64."""
        batch = len(self.inputs[0])
        baselines = tuple(b if len(b) == 1 else b[index] for b in self.result.baselines)
        target = self.target
        if isinstance(target, Tensor | np.ndarray):  # one target a row
            target = self.result.targets.expand(batch, -1, -1)[index, 0]
        extra = take_rows(self.extra, index, batch)
        return self._explain(self.explainer.model, inputs, baselines, self.result.players, target, extra)

    def _explain(
        self, model: Any, inputs: tuple[Tensor, ...], baselines: tuple[Tensor, ...], players: Players, target: Any,
        extra: tuple[Any, ...],
    ) -> Tensor:  # fmt: skip
        theirs = self.explainer
        explainer = Explainer(model, baselines, method=theirs.method, players=players, memory=theirs.memory)
        return explainer(inputs, target, additional_forward_args=extra or None).per_player.double()

    def with_one_more(self, label: Tensor) -> Players:
        """The players and one more, who owns all of one more input; `label` has its shape (without rows)."""
        players = self.result.players
        labels = (*players.labels, torch.full_like(label, players.count, dtype=torch.int64))
        return Players(labels, players.count + 1, True)


def _measured(subject: Subject, construction: Construction) -> Measurement:
    made = Measurement(subject.name, construction.axiom, construction.title, (), rounding=rounding(subject.dtype))
    if subject.place is None and not construction.whole_numbers:
        return replace(made, refused=WHOLE_NUMBERS)
    try:
        return replace(made, violations=tuple(construction.measure().amax(1).tolist()))
    except DaspError as error:
        return replace(made, refused=" ".join(str(error).split()))


def completeness(subject: Subject) -> Iterator[Construction]:
    """The values as they are."""

    def of_the_model() -> Tensor:
        change = (subject.result.output.double() - subject.result.base_value.double()).reshape(subject.values.shape[:2])
        return incompleteness(subject.values, change)

    yield Construction(COMPLETENESS, "the model itself", of_the_model, whole_numbers=True)


def null_player(subject: Subject) -> Iterator[Construction]:
    """One more input (B, 1), 1 against a baseline of 0, that changes nothing."""
    rows, device, count = len(subject.inputs[0]), subject.inputs[0].device, len(subject.inputs)
    dtype = subject.explainer.model.dtype or subject.dtype
    more = torch.ones(rows, 1, dtype=dtype, device=device), torch.zeros(1, 1, dtype=dtype, device=device)
    players = subject.with_one_more(torch.zeros(1, device=device))

    def measured(module: nn.Module) -> Tensor:
        return share(subject.explain(module, more, players), players.count - 1)

    def ignored() -> Tensor:
        return measured(wrappers.Ignoring(subject.module, count))

    def cancelled() -> Tensor:
        place = _known(subject.place)
        x, baseline = subject.inputs[place], subject.result.baselines[place]
        size = (x - baseline).square().mean().sqrt()  # as large as the players' own changes
        return measured(wrappers.Cancelling(subject.module, count, place, size.expand(x.shape[1:]).clone()))

    yield Construction(NULL_PLAYER, "an input that is ignored", ignored, whole_numbers=True)
    yield Construction(NULL_PLAYER, "an input that is taken off again", cancelled)


def symmetry(subject: Subject) -> Iterator[Construction]:
    """A player and its copy."""

    def copied() -> Tensor:
        place, players = _known(subject.place), subject.result.players
        size, alone = subject.values.abs().mean((0, 1)), _alone(players, place)
        if not bool(alone.any()):
            raise InputError("every player owns elements of several inputs, and a copy of one needs a player of one input.")
        player = int(size.where(alone, -torch.ones_like(size)).argmax())
        x, baseline = subject.inputs[place], subject.result.baselines[place]
        owned = players.labels[place] == player
        # Where the player owns nothing, the copy is at its baseline.
        copy_of_x = torch.where(owned, x, baseline.expand_as(x))
        module = wrappers.Sharing(subject.module, len(subject.inputs), place, owned.to(x.dtype))
        values = subject.explain(module, (copy_of_x, baseline), subject.with_one_more(players.labels[place]))
        return inequality(values, player, players.count)

    yield Construction(SYMMETRY, "the leading player and a copy of it", copied)


def _alone(players: Players, place: int) -> Tensor:
    """Which players own elements of input `place` and of no other, (n,) bool."""
    counts = [torch.bincount(label.flatten(), minlength=players.count) for label in players.labels]
    elsewhere = torch.stack([count for i, count in enumerate(counts) if i != place] or [torch.zeros_like(counts[0])]).sum(0)
    return (counts[place] > 0) & (elsewhere == 0)


def linearity(subject: Subject) -> Iterator[Construction]:
    """f, f of inputs read backwards, and 2 f less that."""

    def combined() -> Tensor:
        other = wrappers.Flipped(subject.copy(), len(subject.inputs))
        found = subject.explain(wrappers.Combined(subject.module, other))
        return difference(found, 2 * subject.values - subject.explain(other))

    yield Construction(LINEARITY, "2 f(x) - f(x read backwards)", combined, whole_numbers=True)


def continuity(subject: Subject) -> Iterator[Construction]:
    """A line through each row."""

    def along_a_line() -> Tensor:
        place = _known(subject.place)
        x, baseline = subject.inputs[place], subject.result.baselines[place]
        generator = torch.Generator("cpu").manual_seed(LINE_SEED)
        random = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
        direction = REACH * (x - baseline) * random.to(x)
        return _largest_jump(subject, place, x, direction)

    yield Construction(CONTINUITY, "a line through the row", along_a_line)


def _largest_jump(subject: Subject, place: int, x: Tensor, direction: Tensor) -> Tensor:
    """(B, T): of the values along `x + t direction`, t from -1 to 1, where the largest step of each row narrows to.

    9 inputs on the line, then 9 between the two neighbours with the largest step, and so on: a slope becomes 8 times smaller
    each time, a jump stays. What the slope leaves is taken off.
    """
    rows, rounds = len(x), 7 if x.dtype == torch.float64 else 4
    low, high = -torch.ones(rows, dtype=torch.float64, device=x.device), torch.ones(rows, dtype=torch.float64, device=x.device)
    index = torch.arange(rows, device=x.device)
    for _ in range(rounds):
        share_of_line = torch.linspace(0, 1, POINTS, dtype=torch.float64, device=x.device)
        places = low.unsqueeze(1) + (high - low).unsqueeze(1) * share_of_line  # (B, POINTS)
        t = places.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)
        every = index.repeat_interleave(POINTS)
        inputs = [part[every] for part in subject.inputs]
        inputs[place] = x[every] + t * direction[every]
        values = subject.explain_at(every, tuple(inputs)).reshape(rows, POINTS, *subject.values.shape[1:])
        steps = values.diff(dim=1).abs().sum((2, 3))  # (B, POINTS - 1)
        widest = steps.argmax(1)
        low, high = places[index, widest], places[index, widest + 1]
    jumps = []
    for row in range(rows):
        first, last = max(int(widest[row]) - 1, 0), min(int(widest[row]) + 3, POINTS)
        around = values[row, first:last]
        jumps.append(step_left(around, int(widest[row]) - first))
    return torch.stack(jumps)


def invariance(subject: Subject) -> Iterator[Construction]:
    """The model among modules that change nothing."""

    def same(module: nn.Module) -> Tensor:
        return difference(subject.explain(module), subject.values)

    def behind_units() -> Tensor:
        return same(wrappers.Before(subject.module, _known(subject.place), wrappers.Units()))

    def behind_reflections() -> Tensor:
        place = _known(subject.place)
        return same(wrappers.Before(subject.module, place, wrappers.Reflections(subject.inputs[place])))

    yield Construction(INVARIANCE, "behind ReLUs that do nothing", behind_units)
    yield Construction(INVARIANCE, "behind two reflections", behind_reflections)
    yield Construction(
        INVARIANCE,
        "before ReLUs that do nothing",
        lambda: same(wrappers.Behind(subject.module, wrappers.Units())),
        whole_numbers=True,
    )


def _known(place: int | None) -> int:
    assert place is not None
    return place


BY_AXIOM: dict[str, Callable[[Subject], Iterator[Construction]]] = {
    COMPLETENESS: completeness,
    NULL_PLAYER: null_player,
    SYMMETRY: symmetry,
    LINEARITY: linearity,
    CONTINUITY: continuity,
    INVARIANCE: invariance,
}
