"""The error of an attribution, measured without knowing the truth.

Independent unbiased estimates D_1 ... D_m of phi - phi_hat, one per block of pairs of coalitions (`estimators.lacking`), give

    E D_a . D_b = ||phi_hat - phi||^2  for a != b,

so the mean of the off-diagonal entries of their Gram matrix is an unbiased estimate of the squared error (a U-statistic,
Hoeffding 1948), and that of phi_hat + D one of ||phi||^2. Their ratio is the squared relative error. Only the row means of
these matrices are needed, so that they are never built. The audited values themselves are the surrogate, so that the better
they are, the less the estimates vary. Where a budget allows for all 2^n coalitions the error is not estimated but known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .bounds import covering, student
from .errors import CostError, InputError, InputTypeError
from .estimators.exact import Exact, shapley_weights
from .estimators.lacking import FEWEST_BLOCKS, Blocks
from .estimators.odd_games import differences, every_pair
from .estimators.sampling import check_seed, pair_estimates, stream, walk_cost
from .game import Game
from .notebook import audit_as_html

FEWEST_WALKS, FEWEST_MEANS = 4, 12
WORST_SURROGATE = 4.0
"""Values that leave over more than this part of the mean square of the differences are no surrogate."""


@dataclass(frozen=True, eq=False)
class Audit:
    """The measured error of an attribution of B rows and T targets; tensors are (B, T), float64.

    Attributes:
        relative_error: ||phi_hat - phi|| / ||phi||, from the unbiased squares below; 0 where the estimate of the
            squared error is not positive. Where the budget does not tell phi from 0 (the squared norm is not positive)
            it is 0 if the squared error is 0 too, as for a row at its baseline, and infinite otherwise. Never NaN.
        low: lower end of the interval for the relative error, never below 0; 0 where phi is not told from 0.
        high: upper end; infinite where the relative error is.
        squared_error: unbiased estimate of ||phi_hat - phi||^2; may be negative when the error is small.
        squared_norm: unbiased estimate of ||phi||^2.
        evaluations: evaluations spent per row.
        confidence: of the interval, between 0 and 1.
        player_errors: unbiased estimate of phi_hat - phi for every player, (B, T, n); None unless asked for.
        player_spread: half the width of their interval, at the same confidence, (B, T, n); None unless asked for.
        audited: the values that were measured, (B, T, n); None in an audit that did not come from `Attribution.audit`.
    """

    relative_error: Tensor
    low: Tensor
    high: Tensor
    squared_error: Tensor
    squared_norm: Tensor
    evaluations: int
    confidence: float
    player_errors: Tensor | None = None
    player_spread: Tensor | None = None
    audited: Tensor | None = None

    def require_of(self, values: Tensor) -> None:
        """Refuse to be shown beside other values (B, T, n) than those that were measured.

        Raises:
            InputError: they are of another shape, or others.
        """
        batch, targets, _ = values.shape
        if self.relative_error.shape != (batch, targets):
            found = tuple(self.relative_error.shape)
            raise InputError(f"audit: made for values of {found} rows and targets, and these have {(batch, targets)}.")
        other = self.player_errors is not None and self.player_errors.shape != values.shape
        if other or (self.audited is not None and not torch.equal(self.audited.to(values), values)):
            raise InputError("audit: made for values other than these. Give what audit() of this very result returns.")

    def __str__(self) -> str:
        count = self.relative_error.numel()
        known = torch.isfinite(self.relative_error)
        told = int(known.sum())
        cost = f"{self.evaluations:,} evaluations a row"
        if not told:
            return f"relative error unknown (the values are not told from 0), {cost}"
        mean = "" if count == 1 else f"mean of {told}: "
        error, low, high = (_percent(float(x[known].mean())) for x in (self.relative_error, self.low, self.high))
        rest = "" if told == count else f"; {count - told} more unknown (values not told from 0)"
        return f"{mean}relative error {error} ({100 * self.confidence:g} % interval {low} to {high}){rest}, {cost}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows: the error of the first rows and its interval."""
        return audit_as_html(self)


def _percent(part: float) -> str:
    """Two figures, and all those before the point.

    >>> _percent(0.01234), _percent(2.134)
    ('1.2 %', '213 %')
    """
    return f"{100 * part:.0f} %" if 1 <= part < 1e6 else f"{100 * part:.2g} %"


def audit(
    game: Game,
    values: Tensor,
    *,
    evaluations: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    per_player: bool = False,
    progress: bool = False,
) -> Audit:
    """Measure the relative error of `values` (B, T, n) in `game`, with an interval.

    The coalitions are independent of those of every estimator whatever the seeds. The interval is Student's (blocks - 1
    degrees of freedom), on the squared error, with the jackknife variance of the U-statistic; it allows for the error of the
    denominator too, and its upper end is moved towards that of a score test (`bounds.covering`). Where the evaluations allow
    for 4 n pairs, the coalitions of one player and of all but one are all among them, and the upper end leaves room for what
    was not drawn, as far off as the worst that was; what a network does at a few others alone a sample cannot tell. Where 2^n
    evaluations are allowed (times the rows of a background) all are made, and the interval is a point. Other semivalues than
    Shapley's are judged by pairs of permutations instead, at least 4, and so are values against a background, of which a row is
    drawn for each pair, no row twice in one estimate.

    Raises:
        CostError: `evaluations` (per row) allow fewer than 8 pairs of coalitions, or 4 of permutations.
        InputError: a confidence outside (0, 1), a bad seed, values of the wrong shape, or a model or inputs that were
            changed since the values were computed.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, int):
        raise InputTypeError(f"audit: evaluations must be an int, got {type(evaluations).__name__}.")
    check_confidence("audit: confidence", confidence)
    check_seed(seed)
    n, targets = game.players.count, game.targets.count
    if values.shape != (game.batch, targets, n):
        raise InputError(f"audit: expected values of shape {(game.batch, targets, n)}, got {tuple(values.shape)}.")
    moved = game.moved(torch.arange(game.batch, device=game.device))[:, 0]
    walks = game.semivalue is not None or game.rows_each > 1
    most = n if walks else int(moved.sum(1).max())
    least = min(2**most * game.rows_each, 2 + FEWEST_WALKS * walk_cost(n) if walks else 2 + 2 * FEWEST_BLOCKS)
    if evaluations < least:
        raise CostError(
            f"audit: {evaluations:,} evaluations a row are too few for an interval with {most:,} players; give "
            f"evaluations={least} or more, or group elements into players."
        )
    game.check_unchanged()
    values = values.detach().double()
    if walks and n == 1:
        truth = (game.outputs.double() - game.base_values.double()).unsqueeze(-1)
        return _beside(values, truth).audit(1 + game.rows_each, confidence, per_player)
    if walks and 2**n * game.rows_each <= evaluations:
        truth = Exact().estimate(game).values
        return _beside(values, truth).audit(2**n * game.rows_each, confidence, per_player)
    if walks:
        pairs = (evaluations - 2) // walk_cost(n)
        pairs -= pairs % _together(game, pairs)
        spent = 2 + pairs * walk_cost(n)
    else:
        spent = 2**most if 2**most <= evaluations else 2 + 2 * _pair_count(most, evaluations)
    parts: list[tuple[Tensor, _Judged]] = []
    each = [spent - 2 if walks else 2 * _pair_count(k, evaluations) for k in moved.sum(1).tolist()]
    with tqdm(total=sum(each), disable=not progress, unit="evaluation") as bar:
        if walks:
            parts += _judged_by_walks(game, values, pairs, seed, confidence, bar)
        else:
            parts += _judged_groups(game, values, moved, evaluations, seed, confidence, bar)
    order = torch.cat([rows for rows, _ in parts]).argsort()
    judged = _Judged(*(torch.cat([getattr(j, name) for _, j in parts])[order] for name in _Judged.__dataclass_fields__))
    return judged.audit(spent, confidence, per_player)


def _together(game: Game, pairs: int) -> int:
    """Walks that make one estimate: against a background as many, of different rows, as leave enough estimates."""
    return max(1, min(game.rows_each, pairs // FEWEST_MEANS))


def _pair_count(n: int, evaluations: int) -> int:
    """Pairs that are evaluated for n players, beside (nobody, all)."""
    if 2**n <= evaluations:
        return int(2 ** max(0, n - 1)) - 1
    pairs = (evaluations - 2) // 2
    alone = n * Blocks.spares(n, pairs)
    count, each = Blocks.sizes(n, pairs - alone)
    return alone + count * each


def check_confidence(name: str, confidence: object) -> None:
    """Refuse a confidence that is no number between 0 and 1."""
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise InputTypeError(f"{name} must be a number, got {type(confidence).__name__}.")
    if not 0 < confidence < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {confidence}.")


@dataclass(frozen=True, eq=False)
class _Judged:
    """What is known of some rows, as in `Audit`."""

    relative: Tensor
    low: Tensor
    high: Tensor
    squared_error: Tensor
    squared_norm: Tensor
    player_errors: Tensor
    player_spread: Tensor

    def audit(self, evaluations: int, confidence: float, per_player: bool) -> Audit:
        """The same as users see it."""
        players = (self.player_errors, self.player_spread) if per_player else (None, None)
        return Audit(
            self.relative, self.low, self.high, self.squared_error, self.squared_norm, evaluations, confidence, *players
        )


def _beside(values: Tensor, truth: Tensor) -> _Judged:
    """Of values (R, T, n) of which the truth is known: no length of it is a part of nothing."""
    away = values - truth
    squares, norms = away.square().sum(-1), truth.square().sum(-1)
    error = torch.where(squares == 0, 0.0, (squares / norms).sqrt())
    low = torch.where(norms > 0, error, 0.0)
    return _Judged(error, low, error, squares, norms, away, torch.zeros_like(away))


def _judged_by_walks(
    game: Game, values: Tensor, pairs: int, seed: int, confidence: float, bar: tqdm
) -> Iterator[tuple[Tensor, _Judged]]:
    """Rows judged by antithetic walks along permutations, which are unbiased for any semivalue."""
    n, targets, together = game.players.count, game.targets.count, _together(game, pairs)
    rows = torch.arange(game.batch, device=game.device)
    # A block's estimates are all kept, in float64; a quarter of the bound leaves room for what is made of them.
    for block in torch.split(rows, max(1, game.memory // (4 * 8 * pairs * targets * n))):
        lacking = torch.empty(len(block), targets, pairs, n, dtype=torch.float64, device=game.device)
        done, generator = 0, stream(seed, audit=True)
        draws = _in_blocks(game.rows_each, together, generator) if game.rows_each > 1 else None
        for estimates in pair_estimates(game, block, pairs, generator, draws):
            lacking[:, :, done : done + len(estimates)] = estimates.permute(1, 2, 0, 3)
            done += len(estimates)
            bar.update(len(estimates) * len(block) * walk_cost(n))
        lacking = lacking.unflatten(2, (-1, together)).mean(3)
        yield block, _judged(lacking.sub_(values[block].unsqueeze(2)), values[block], confidence)


def _in_blocks(count: int, each: int, generator: torch.Generator) -> Iterator[int]:
    """Rows of a background without end: `each` different ones at random, and again."""
    while True:
        yield from torch.randperm(count, generator=generator, device="cpu")[:each].tolist()


def _judged(lacking: Tensor, values: Tensor, confidence: float, unseen: Tensor | float = 0.0) -> _Judged:
    """From independent estimates of what values (R, T, n) lack, (R, T, m, n), and what they may lack unseen, (R, T)."""
    count = lacking.shape[2]
    spread = (lacking.var(2) / count).sqrt() * student(confidence, count - 1)
    return _Judged(*covering(lacking, values, confidence, unseen), -lacking.mean(2), spread)


def _judged_groups(
    game: Game, values: Tensor, moved: Tensor, evaluations: int, seed: int, confidence: float, bar: tqdm
) -> Iterator[tuple[Tensor, _Judged]]:
    """Rows with as many players that differ from the baseline, a memory bound at a time, and what is found of them."""
    counts = moved.sum(1)
    for n in sorted(set(counts.tolist())):
        rows = (counts == n).nonzero()[:, 0]
        known = 2**n <= evaluations
        if known:
            members = every_pair(n, game.device) if n else torch.ones(0, 0, dtype=torch.bool, device=game.device)
            blocks = Blocks(members, 1)
        else:
            pairs = (evaluations - 2) // 2
            sure = Blocks.spares(n, pairs)
            blocks = Blocks.draw(n, pairs - sure * n, stream(seed, audit=True), sure=sure).to(game.device)
        each = 8 * game.targets.count * (4 * len(blocks.members) + 4 * blocks.count * game.players.count)
        for some in rows.split(max(1, game.memory // (2 * each))):
            yield some, _group(game, values[some], some, moved[some], blocks, known, confidence, bar)


def _group(
    game: Game, values: Tensor, rows: Tensor, moved: Tensor, blocks: Blocks, known: bool, confidence: float, bar: tqdm
) -> _Judged:
    """Judge some rows, (R, T, n), of which the players `moved` (R, n) differ from the baseline."""
    n, shape = blocks.members.shape[1], values.shape
    if not n:  # rows at their baseline
        return _beside(values, torch.zeros_like(values))
    which = moved.nonzero()[:, 1].reshape(len(rows), 1, n).expand(-1, shape[1], -1)
    everybody = torch.ones(1, n, dtype=torch.bool, device=game.device)
    found = differences(game, rows, which[:, 0], torch.cat((blocks.members, everybody)), bar).flatten(0, 1)
    own = values.gather(2, which).flatten(0, 1)
    if known:  # the truth itself
        truth = found @ shapley_weights(torch.cat((blocks.members, everybody)))
        return _beside(values, torch.zeros_like(values).scatter(2, which, truth.reshape(which.shape)))
    left, gap = found[:, :-1] - blocks.foretold(own), found[:, -1] - own.sum(1)
    # Values may be so wrong that nothing at all is a better surrogate.
    sane = left.square().mean(1, keepdim=True) <= WORST_SURROGATE * found[:, :-1].square().mean(1, keepdim=True)
    surrogate = own * sane
    left, gap = torch.where(sane, left, found[:, :-1]), torch.where(sane[:, 0], gap, found[:, -1])
    lacking = blocks.estimates(left, gap) + (surrogate - own).unsqueeze(1)
    # Players at the baseline have the value 0, so what they have is what is too much.
    full = (-values).unsqueeze(2).repeat(1, 1, blocks.count, 1)
    index = which.unsqueeze(2).expand(-1, -1, blocks.count, -1)
    full = full.scatter(3, index, lacking.reshape(index.shape))
    unseen = blocks.unseen(left.abs().amax(1), confidence).reshape(values.shape[:2])
    return _judged(full, values, confidence, unseen)
