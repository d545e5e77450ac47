"""Values to a stated tolerance: an approximation first, then pairs of coalitions until an audit says that it is met."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..bounds import upper_bound
from ..errors import CostError, InputError, InputTypeError, MemoryBoundError
from ..game import Game
from .base import Estimate, Estimator
from .designs import fit_bytes, fitting
from .kept import AT_ONCE, Kept, Pairs, storable
from .lacking import FEWEST_BLOCKS, Blocks
from .ladder import REFUSALS, First, Ladder
from .odd_games import differences, distinct, every_pair
from .posterior import MOST_FITTED
from .propagation import Propagation
from .regression import Judged, Regression, check_priors, each_prior
from .sampling import check_seed, stream

LEAST_PAIRS = 128
USUAL_BUDGET = 2**17
"""Evaluations a row where no budget is given."""
LEAST_BUDGET = 2**12
"""The same where each is a mean over many rows of a background."""
WORTH_A_LOOK = 1.5
"""An audit counts as a look where the error is expected to be below this many tolerances."""
NEARLY_ALL = 0.6
"""Where the next audit would take this part of all coalitions, all are evaluated."""
ENUMERATED = 20
"""Without a budget all coalitions of up to as many players are evaluated, where the tolerance seems farther than `FARTHEST`."""
FOREKNOWN, FARTHEST = 256, 4 * MOST_FITTED
"""Pairs that foretell how many the tolerance takes, their error falling as one over their number; and the most."""
FIT_WORK = 2
"""Operations of a fit of M pairs, in M^3: some seven powers of a factorisation, of a third each, at full speed."""
LOST = 2e11
"""Operations that an interrupt may lose where pairs are kept, or one pass of the network if that takes more: seconds."""
HIDDEN, HOPELESS = 4.0, 0.1
"""How many times the error by rounding a bound must reach instead of a smaller tolerance; and the error that ends at once."""
TOLERANCE, EXACT, BUDGET, ROUNDING, MEMORY = "tolerance", "exact", "budget", "rounding", "memory"


@dataclass(frozen=True, kw_only=True)
class Refine(Estimator):
    """Shapley values whose measured error is below a tolerance.

    The prior comes first. Then fresh pairs of coalitions judge what is there: they give unbiased estimates of what the values
    lack, with a surrogate of the game taken off, and an upper bound of the relative error (`dasp.audit`). If that is below
    the tolerance the row is done. If not, the same pairs join those of a regression with the prior (see `Regression`),
    whose values are judged next by as many new ones. Before that the prior is bettered, as soon as this costs about as little
    as these pairs: `Propagation()` enumerates players (`mixture=`), or takes a factor for every one of more than 64; of these
    vertex gradients are a second prior. What was left to choose is bettered, no option that was set.

    A sample says nothing about coalitions that it did not draw. Where the budget allows for 4 n pairs, and the memory bound for
    2 n of them, those of one player and all others are always taken, and the bound leaves room for pairs that were not drawn,
    and are missed as much as the worst that was. Not found out is a network that does something at a few coalitions of other
    sizes alone, and much more of it than at any that was drawn.

    Looks at a row share the probability of error: look k has `(1 - confidence) / (k (k + 1))`. Where all coalitions cost
    hardly more than the next audit, or fit the budget at the start, all are evaluated, and the values are exact.

    Rows end one by one, all targets of a row together. The settings say of each why it ended: "tolerance"; "exact";
    "budget"; "memory", where more pairs do not fit the memory bound; or "rounding", where the float arithmetic of the model
    hides errors as small as the tolerance, and the bound is as small as that lets it be. They have its measured error and
    bound, too: one that did not end by tolerance or exact may be above the tolerance, and the bound then says so. A row has
    the same values alone as in a batch, but for rounding.

    Attributes:
        tolerance: largest relative error `||values - truth|| / ||truth||`, of every target.
        budget: most evaluations a row, those of the prior not counted; None for 2^17, or all coalitions of up to 20 players
            where the tolerance is far and the network small, so that they take less work than another fit. Against a
            background each is a mean over all its rows, and takes as many of the network; None is then for 2^17 of the network,
            but no less than 2^12 means.
        confidence: of the bound, in all looks together.
        prior: the estimator that comes first, or a tuple of several, whose mean is judged first; None for none. Where one
            refuses the network, a warning says so, the settings too, and it is done without.
        seed: of the coalitions, 0 to 2^31 - 1.
        keep: a safetensors file for what the model gave at the coalitions. It is written as the work goes on, and a later call
            with the same model, rows and seed, whatever its tolerance or budget, starts from it.
    """

    takes_background = True
    tolerance: float = 0.02
    budget: int | None = None
    confidence: float = 0.95
    prior: Estimator | tuple[Estimator, ...] | None = field(default_factory=Propagation)
    seed: int = 0
    keep: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "confidence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputTypeError(f"{name} must be a number, got {type(value).__name__}.")
        if not self.tolerance > 0:
            raise InputError(f"tolerance must be above 0, got {self.tolerance}; dasp.Exact() has no error.")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence must be from 0.5 to below 1, got {self.confidence}.")
        if self.budget is not None:
            if isinstance(self.budget, bool) or not isinstance(self.budget, int):
                raise InputTypeError(f"budget must be an int or None, got {type(self.budget).__name__}.")
            if self.budget < 2:
                raise InputError(f"budget must be at least 2 evaluations (all players, and none), got {self.budget}.")
        object.__setattr__(self, "prior", check_priors(self.prior))
        if any(isinstance(one, Refine) for one in each_prior(self.prior)):
            raise InputError("prior must be another estimator than Refine.")
        check_seed(self.seed)
        if not (self.keep is None or isinstance(self.keep, str | os.PathLike)):
            raise InputTypeError(f"keep must be the name of a file, or None, got {type(self.keep).__name__}.")

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Values of `game` with their standard errors.

        Raises:
            CostError: the budget allows neither an audit nor all coalitions; says the least that works.
            InputError: the tolerance is below what the dtype of the model resolves, or `keep` belongs to something else.
        """
        self._check(game, prior=bool(each_prior(self.prior)))
        kept = Kept.read(self.keep, game, self.seed)
        priors, said = self._priors(game, progress)
        self._check(game, prior=bool(priors))
        moved = game.moved(torch.arange(game.batch, device=game.device))[:, 0]
        counts = moved.sum(1)
        found = _Found.of(game)
        bar = tqdm(desc="refining", unit="evaluation", disable=not progress)
        with bar:
            for n in sorted(set(counts.tolist()) - {0}):
                every = (counts == n).nonzero()[:, 0]
                for some in torch.arange(len(every), device=game.device).split(self._rows_at_once(game, n)):
                    rows = every[some]
                    which = moved[rows].nonzero()[:, 1].reshape(len(rows), n)
                    pairs, own = kept.of(n, len(every), some, game.targets.count)
                    _Group(self, game, found, kept, pairs, own, bar, rows, which, priors).run()
        settings: dict[str, Any] = {
            "tolerance": self.tolerance, "budget": self.budget, "confidence": self.confidence, "seed": self.seed,
            "prior": said if isinstance(self.prior, tuple) else next(iter(said), None),
            "ended": found.ended, "measured_error": found.error.tolist(),
            "measured_bound": found.bound.tolist(),
            "row_evaluations": (game.rows_each * (2 + 2 * found.pairs) + found.evaluations.long()).tolist(),
        }  # fmt: skip
        cost = game.rows_each * (2 + 2 * float(found.pairs.double().mean()))
        if priors:
            settings["better_priors"] = found.said
        cost += sum(one.evaluations for _, one in priors) + float(found.evaluations.mean())
        propagations = sum(one.propagations for _, one in priors) + float(found.propagations.mean())
        return Estimate(found.values, found.errors, cost, settings, propagations)

    def usual_budget(self, game: Game) -> int:
        """The budget, or the usual one: values of coalitions for a row of `game`."""
        return self.budget or max(LEAST_BUDGET, USUAL_BUDGET // game.rows_each)

    def _rows_at_once(self, game: Game, n: int) -> int:
        """Rows whose pairs, and what is made of them, fit half the memory bound."""
        pairs, targets = min(2 ** (n - 1), self.usual_budget(game) // 2), game.targets.count
        return max(1, int(game.memory / (2 * (Regression.row_bytes(n, pairs, targets) + 64 * pairs * targets))))

    def _check(self, game: Game, *, prior: bool) -> None:
        """Refuse a tolerance or a budget that cannot be kept whatever the network."""
        resolved = 4 * torch.finfo(game.dtype).eps
        if self.tolerance < resolved:
            raise InputError(
                f"tolerance: {self.tolerance:g} is below what {game.dtype} resolves, about {resolved:.0e}. Give a larger one, "
                "or explain the model in float64 (model.double() and x.double())."
            )
        n = int(game.moved(torch.arange(game.batch, device=game.device)).sum(-1).max())
        least = min(2**n, 2 + 2 * FEWEST_BLOCKS * (1 if prior else 2))
        if self.budget is not None and self.budget < least:
            raise CostError(
                f"a budget of {self.budget:,} evaluations is too small to measure an error for {n:,} players that differ from "
                f"the baseline: give budget={least} or more, or use dasp.Propagation() alone."
            )

        needed = fit_bytes(n, FEWEST_BLOCKS)
        if not prior and needed > game.memory:
            raise MemoryBoundError(
                f"Refine without a prior starts with a regression, {needed / 2**20:,.3g} MiB for {n:,} players, and the "
                f"memory bound is {game.memory / 2**20:,.3g} MiB. Raise memory=, give prior=, or group elements into players."
            )

    def _priors(self, game: Game, progress: bool) -> tuple[list[tuple[Estimator, Estimate]], list[dict[str, Any]]]:
        """The priors that take this network, and what is said of all."""
        found: list[tuple[Estimator, Estimate]] = []
        said: list[dict[str, Any]] = []
        for prior in each_prior(self.prior):
            name = type(prior).__name__
            try:
                one = prior.estimate(game, progress=progress)
            except REFUSALS as error:
                warnings.warn(f"Refine goes on without {name}, which refuses this network: {error}", stacklevel=2)
                said.append({"method": name, "refused": str(error)})
            else:
                found.append((prior, one))
                said.append({"method": name, **one.settings, "evaluations": one.evaluations})
        return found, said


@dataclass(frozen=True, eq=False)
class _Found:
    """The result under way."""

    values: Tensor  # (B, T, n)
    errors: Tensor
    error: Tensor  # (B, T)
    bound: Tensor
    pairs: Tensor  # (B,), evaluated
    evaluations: Tensor  # (B,), of better priors
    propagations: Tensor  # (B,), of better priors
    ended: list[str]
    said: list[dict[str, Any]]

    @classmethod
    def of(cls, game: Game) -> _Found:
        shape = (game.batch, game.targets.count, game.players.count)
        values, errors = (torch.zeros(shape, dtype=torch.float64, device=game.device) for _ in range(2))
        error, bound = (torch.zeros(shape[:2], dtype=torch.float64, device=game.device) for _ in range(2))
        evaluations, propagations = (torch.zeros(game.batch, dtype=torch.float64, device="cpu") for _ in range(2))
        pairs = torch.zeros(game.batch, dtype=torch.long, device="cpu")
        return cls(values, errors, error, bound, pairs, evaluations, propagations, [EXACT] * game.batch, [])


class _Group:
    """Rows of which n players differ from the baseline: they share coalitions."""

    def __init__(
        self, options: Refine, game: Game, found: _Found, kept: Kept, pairs: Pairs, own: Tensor, bar: tqdm, rows: Tensor,
        which: Tensor, priors: list[tuple[Estimator, Estimate]],
    ) -> None:  # fmt: skip
        self.options, self.game, self.found, self.bar = options, game, found, bar
        self.rows, self.which, self.n = rows, which, which.shape[1]
        self.pairs, self.own, self.kept = pairs, own, kept
        self.index = which.unsqueeze(1).expand(-1, game.targets.count, -1)  # (R, T, n)
        self.ladder = None
        if priors:
            firsts = [First(prior, one, one.values[rows].double().gather(2, self.index)) for prior, one in priors]
            self.ladder = Ladder(firsts, self.n, options.seed)
        self.total = (game.outputs[rows] - game.base_values[rows]).double()
        kept.check(pairs, own, lambda members: self._evaluated(members.to(game.device), rows, which), game.tolerance)
        self.active = torch.arange(len(rows), device=game.device)
        self.spent = 0  # evaluations of better priors
        self.looks = torch.zeros(len(rows), dtype=torch.long, device="cpu")
        self.generator = stream(options.seed, refine=True)

    def run(self) -> None:
        """Audit, and learn from the audit, until no row is left."""
        self._refine()
        if self.ladder is not None:
            self.found.said.extend(self.ladder.said)

    def _refine(self) -> None:
        budget, everything = self.options.usual_budget(self.game), 2**self.n
        known = torch.zeros(0, self.n, dtype=torch.bool, device=self.game.device)  # pairs that values rest on
        judged = None if self.ladder is None else self._of_priors(*self.ladder.priors.values())
        most = (fitting if judged is None else storable)(self.n, self.game.memory)
        self.sure = Blocks.spares(self.n, budget // 2) and 2 * self.n <= most
        if everything <= (self.options.budget or 2 * (LEAST_PAIRS + self.n)):
            self._exact()
        while len(self.active):
            there = len(known) or self.n * self.sure  # beside those that are drawn
            room = (budget - 2 - self.spent) // 2 - there
            wanted = max(LEAST_PAIRS, self.n, len(known))
            if everything <= budget and 2 * (len(known) + wanted) >= NEARLY_ALL * everything:
                self._exact()
                break
            if room < wanted + FEWEST_BLOCKS:  # what would be left is too little for an audit of its own
                wanted = room
            large = self._too_large(there + wanted)
            last = judged is not None and (room == wanted or large)
            pairs = min(wanted, room if judged is not None else room // 2)
            if large:
                pairs = max(FEWEST_BLOCKS, min(pairs, most - there))
            blocks = Blocks.draw(self.n, pairs, self.generator, sure=self.sure).to(self.game.device)
            found = self._differences(blocks.members)
            if judged is not None:
                self._audit(judged, blocks, found, last=None if not last else MEMORY if large and room > wanted else BUDGET)
            known = distinct(torch.cat((known, blocks.members)))
            if len(self.active):
                self._better_prior(2 * max(LEAST_PAIRS, self.n, len(known)), (budget - self.spent) // 2 - len(known))
                judged = self._judge(known)
                if self._enumerate_far(judged, len(known)) and len(self.active):
                    judged = self._judge(known)

    def _better_prior(self, cost: float, evaluations: int) -> None:
        """Better the priors of the active rows by all that costs no more than so many evaluations, and makes no more."""
        ladder, some = self.ladder, self.rows[self.active]
        if ladder is None:
            return
        each = self.game.rows_each
        for rung in ladder.affordable(cost * each, evaluations * each):
            found = ladder.climb(rung, self.game, some, self.index[self.active], self.active)
            if found is not None:
                self.found.evaluations[some.cpu()] += found.evaluations
                self.found.propagations[some.cpu()] += found.propagations
                self.spent += -(-rung.evaluations // each)

    def _too_large(self, pairs: int) -> bool:
        """Whether a regression on so many pairs does not fit the memory bound."""
        return fit_bytes(self.n, min(pairs, MOST_FITTED)) + 64 * pairs * self.n > self.game.memory

    def _enumerate_far(self, judged: Judged, pairs: int) -> bool:
        """Evaluate all coalitions of the rows that would take too many pairs otherwise, where that is less work than a fit."""
        if self.options.budget is not None or self.n > ENUMERATED or pairs < FOREKNOWN:
            return False
        if 2**self.n * self.game.work * self.game.rows_each > FIT_WORK * MOST_FITTED**3:
            return False
        far = (self._expected(judged) * pairs > self.options.tolerance * FARTHEST) | (2 * pairs > FARTHEST)
        if bool(far.any()):
            near, self.active = self.active[~far], self.active[far]
            self._exact()
            self.active = near
        return bool(far.any())

    def _expected(self, judged: Judged) -> Tensor:
        """The relative errors by the standard errors, the largest of each row's targets; NaN where unknown, (rows,)."""
        size = judged.values.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        error = judged.errors.square().sum(1).sqrt() / size
        largest: Tensor = error.unflatten(0, (-1, self.game.targets.count)).amax(1)
        return largest

    @staticmethod
    def _of_priors(*priors: Tensor) -> Judged:
        values = torch.stack(priors).mean(0).flatten(0, 1)
        unknown = torch.full_like(values, torch.nan)
        return Judged(values, unknown, torch.zeros_like(values), unknown[:, 0], ())

    def _exact(self) -> None:
        members = every_pair(self.n, self.game.device)
        found = self._differences(members)
        both = torch.cat((found, self.total[self.active].unsqueeze(-1)), -1).flatten(0, 1)
        everybody = torch.ones(1, self.n, dtype=torch.bool, device=members.device)
        judged = Regression().judge(torch.cat((members, everybody)), both, (), self.game.memory)
        self.found.error[self.rows[self.active]] = 0.0
        self.found.bound[self.rows[self.active]] = 0.0
        self._leave(judged, dict.fromkeys(range(len(self.active)), EXACT))

    def _differences(self, members: Tensor) -> Tensor:
        """v(S) - v(complement) for the active rows, (R, T, M), evaluated where it is not known yet."""
        rows, which = self.rows[self.active], self.which[self.active]
        own, write, few = self.own[self.active.cpu()], None, AT_ONCE
        if self.kept.path is not None:
            write, each = self.kept.write, 2 * self.game.rows_each
            few = min(AT_ONCE, max(self.game.chunk // each, int(LOST / (each * self.game.work))))
        return self.pairs.at(members, own, lambda fresh: self._evaluated(fresh, rows, which), write, few)

    def _evaluated(self, members: Tensor, rows: Tensor, which: Tensor) -> Tensor:
        everybody = torch.ones(1, self.n, dtype=torch.bool, device=members.device)
        return differences(self.game, rows, which, torch.cat((members, everybody)), self.bar)[..., :-1]

    def _judge(self, known: Tensor) -> Judged:
        found = self._differences(known)
        both = torch.cat((found, self.total[self.active].unsqueeze(-1)), -1).flatten(0, 1)
        everybody = torch.ones(1, self.n, dtype=torch.bool, device=known.device)
        priors = () if self.ladder is None else [p[self.active].flatten(0, 1) for p in self.ladder.priors.values()]
        return Regression().judge(torch.cat((known, everybody)), both, priors, self.game.memory, surrogates=True)

    def _audit(self, judged: Judged, blocks: Blocks, found: Tensor, *, last: str | None) -> None:
        """End the rows whose bound is below the tolerance, or all where nothing more is to come, for the reason `last`."""
        targets, options = self.game.targets.count, self.options
        lacking, worst = judged.lacking(blocks, found.flatten(0, 1), self.total[self.active].flatten())
        unseen = blocks.unseen(worst, options.confidence)
        still = (found == 0).all(-1) & (self.total[self.active] == 0)  # targets that never move: their values are 0
        rounding = self._rounding((judged.values + lacking.mean(1)).norm(dim=1), still)
        reach = torch.maximum(HIDDEN * rounding, torch.full_like(rounding, options.tolerance))
        worth = ~(self._expected(judged) >= WORTH_A_LOOK * reach)  # what is not known is worth it
        ends: dict[int, str] = {}
        for place, row in enumerate(self.active.tolist()):
            some = slice(place * targets, (place + 1) * targets)
            self.looks[row] += int(bool(worth[place]) or last is not None)
            look = max(1, int(self.looks[row]))
            confidence = 1 - (1 - options.confidence) / (look * (look + 1))
            error, bound = upper_bound(lacking[some], judged.values[some], confidence, unseen[some])
            self.found.error[self.rows[row]], self.found.bound[self.rows[row]] = error, bound
            # What rounding hides cannot be told: there the tolerance is not reached, but what can be is.
            hidden = float(rounding[place])
            told = (bool(worth[place]) or last) and bool((bound <= max(options.tolerance, HIDDEN * hidden)).all())
            if told and bool((bound <= options.tolerance).all()):
                ends[place] = TOLERANCE
            elif hidden > options.tolerance and (told or hidden > HOPELESS):
                ends[place] = ROUNDING
            elif last:
                ends[place] = last
        highest = float(self.found.bound[self.rows[self.active]].max())
        self.bar.set_postfix_str(f"{len(self.active)} rows, error below {highest:.2g}", refresh=False)
        self._leave(judged, ends)

    def _rounding(self, size: Tensor, still: Tensor) -> Tensor:
        """About the relative error that the rounding of the model's values makes, by the length of the values, (rows,).

        Targets that are `still` (rows, T), the same to the last bit at all coalitions, do not count beside others that move.
        """
        game, rows, targets = self.game, self.rows[self.active], self.game.targets.count
        largest = torch.maximum(game.outputs[rows].abs(), game.base_values[rows].abs()).double()
        eps = torch.finfo(game.outputs.dtype).eps
        tiny = torch.finfo(torch.float64).tiny
        part: Tensor = eps * math.sqrt(self.n) * largest / size.clamp(min=tiny).unflatten(0, (-1, targets))
        return part.masked_fill(still & ~still.all(1, keepdim=True), 0.0).amax(1)

    def _leave(self, judged: Judged, ends: dict[int, str]) -> None:
        """Store the rows at some places of the active ones, each with its reason; the others go on."""
        stay = torch.ones(len(self.active), dtype=torch.bool, device=self.active.device)
        for place, reason in ends.items():
            stay[place] = False
            self._store(judged, place, reason)
        self.active = self.active[stay]

    def _store(self, judged: Judged, place: int, reason: str) -> None:
        targets, row = self.game.targets.count, int(self.rows[self.active[place]])
        index = self.which[self.active[place]].expand(targets, -1)
        some = slice(place * targets, (place + 1) * targets)
        for store, part in ((self.found.values, judged.values), (self.found.errors, judged.standard_errors)):
            store[row] = store[row].scatter(1, index, part[some])
        self.found.ended[row] = reason
        self.found.pairs[row] = self.pairs.evaluated(int(self.own[int(self.active[place])]))
