"""Shapley values by sampling permutations, antithetic, with standard errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..background_game import BackgroundGame
from ..errors import InputError, InputTypeError
from ..game import Game
from .base import Estimate, Estimator

# The stopping rule looks only every so many pairs, so that where it stops does not depend on chunks or batches.
CHECK_EVERY = 8
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class PermutationSampling(Estimator):
    """Mean marginal contributions along random permutations, each with its reverse (Castro, Gomez, Tejada 2009;
    antithetic pairs: Mitchell, Cooper, Frank, Holmes 2022).

    A permutation and its reverse share their ends, which are evaluated once a row: 2 + permutations (n - 1) evaluations
    a row. Unbiased; values add up to output - base value for any number of permutations. Standard errors come from the
    pairs, which are independent; with one pair there are none.

    For another semivalue every contribution is weighted by n times its size's share: still unbiased, but the values need not
    add up.

    Every row gets the same permutations, drawn from the seed alone, so a row's values do not depend on the batch it is
    in. Each row's standard errors are valid; errors of different rows are correlated.

    Against a background every pair draws one of its rows, each as often as the others where the number of pairs is a
    multiple of theirs. What the values of a pair lack to output - base value, which is known, the players that differ from the
    background share alike: it brings them nearer to the truth whatever the network. Standard errors take the draws for
    independent, and so err on the large side.

    Attributes:
        permutations: how many, an even number, reverses counted; with a tolerance, the most.
        seed: 0 to 2^31 - 1.
        tolerance: stop a row when the l2 norm of its standard errors is at most this part of the norm of its values,
            for every target; looked at every 8 pairs.
    """

    takes_background = True
    permutations: int = 64
    seed: int = 0
    tolerance: float | None = None
    semivalues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_int("permutations", self.permutations)
        check_seed(self.seed)
        if self.permutations < 2 or self.permutations % 2:
            raise InputError(
                f"permutations must be an even number of at least 2 (each comes with its reverse), got "
                f"{self.permutations}."
            )
        if self.tolerance is not None:
            if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float):
                raise InputTypeError(f"tolerance must be a number or None, got {type(self.tolerance).__name__}.")
            if not self.tolerance > 0:
                raise InputError(f"tolerance must be above 0, got {self.tolerance}.")

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Sampled values of `game` with their standard errors.

        With a tolerance, the settings also carry "permutations_used" and "tolerance_reached", one entry a row.
        """
        pairs = self.permutations // 2
        n, targets = game.players.count, game.targets.count
        shape = (game.batch, targets, n)
        mean = torch.zeros(shape, dtype=torch.float64, device=game.device)
        squares = torch.zeros_like(mean)  # sum over pairs of (Y - mean)^2
        used = torch.zeros(game.batch, dtype=torch.int64, device=game.device)
        reached = torch.zeros(game.batch, dtype=torch.bool, device=game.device)
        with tqdm(total=game.batch * pairs * walk_cost(n), disable=not progress, unit="evaluation") as bar:
            for block in row_blocks(game):
                generator = stream(self.seed, audit=False)
                draws = in_turn(game.rows_each, generator)
                active, done = block, 0
                while done < pairs and len(active):
                    goal = pairs if self.tolerance is None else min(pairs, done + CHECK_EVERY)
                    for estimates in pair_estimates(game, active, goal - done, generator, draws):
                        done = _merge(estimates, done, active, mean, squares)
                        bar.update(len(estimates) * len(active) * walk_cost(n))
                    used[active] = done
                    if self.tolerance is not None and done > 1:
                        error = (squares[active] / (done * (done - 1))).sum(-1).sqrt()  # (R, T)
                        met = (error <= self.tolerance * mean[active].norm(dim=-1)).all(-1)
                        reached[active[met]] = True
                        active = active[~met]
        count = used.reshape(-1, 1, 1).double()
        errors = (squares / (count * (count - 1))).sqrt() if pairs > 1 else None
        evaluations = 1 + game.rows_each + float(used.double().mean()) * walk_cost(n)
        settings: dict[str, Any] = {
            "permutations": self.permutations,
            "seed": self.seed,
            "tolerance": self.tolerance,
        }
        if self.tolerance is not None:
            settings["permutations_used"] = (2 * used).tolist()
            settings["tolerance_reached"] = reached.tolist()
        return Estimate(mean, errors, evaluations, settings)


def _merge(estimates: Tensor, done: int, rows: Tensor, mean: Tensor, squares: Tensor) -> int:
    """Add (G, R, T, n) estimates to the running mean and sum of squares of `rows` (Chan, Golub, LeVeque 1979)."""
    more = len(estimates)
    fresh = estimates.mean(0)
    shift = fresh - mean[rows]
    squares[rows] += (estimates - fresh).square().sum(0) + shift.square() * (done * more / (done + more))
    mean[rows] += shift * (more / (done + more))
    return done + more


def walk_cost(n: int) -> int:
    """Evaluations of one antithetic pair for n players, its two ends not counted."""
    return 2 * (n - 1)


def stream(seed: int, *, audit: bool = False, refine: bool = False) -> torch.Generator:
    """The random stream of a seed. Audits draw from streams that no estimator uses: an audit of a sampled attribution
    with the same permutations would find no error at all.

    Torch's generator on the CPU looks at 32 bits of a seed, all of which the other two take: those of `Refine` are scattered
    among them by a hash.
    """
    number = 2 * seed + audit
    if refine:
        number = int.from_bytes(hashlib.sha256(f"refine {seed}".encode()).digest()[:4], "big")
    return torch.Generator(device="cpu").manual_seed(number)


def row_blocks(game: Game) -> tuple[Tensor, ...]:
    """Rows in blocks small enough for the values along one pair of walks, float64, to stay under the memory bound."""
    return torch.split(torch.arange(game.batch, device=game.device), max(1, game.memory // pair_bytes(game)))


def pair_bytes(game: Game) -> int:
    """Bytes for the gains of one row along one antithetic pair: two walks, float64, four copies alive at once."""
    return 4 * 2 * 8 * (game.players.count + 1) * game.targets.count


def in_turn(count: int, generator: torch.Generator) -> Iterator[int]:
    """Rows of a background, without end: all of them in random order, then all again."""
    while True:
        yield from torch.randperm(count, generator=generator, device="cpu").tolist()


def _independent(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield int(torch.randint(count, (1,), generator=generator, device="cpu"))


def pair_estimates(
    game: Game, rows: Tensor, pairs: int, generator: torch.Generator, draws: Iterator[int] | None = None
) -> Iterator[Tensor]:
    """Unbiased estimates of the values of `rows` (R,), one per antithetic pair, independent of each other.

    Shapley's, or those of the game's semivalue.

    Against a background each pair takes the next of `draws` for absent players; None draws them independently, without
    which the estimates would not be.

    Yields (G, R, T, n) float64 until `pairs` are given; the pairs come in the order of the generator, however they are
    grouped.
    """
    n = game.players.count
    if draws is None:
        draws = _independent(game.rows_each, generator)
    # Whole passes through the model, but no more gains at a time than half the memory bound holds.
    group = min(game.chunk // max(1, len(rows) * walk_cost(n)), game.memory // (2 * len(rows) * pair_bytes(game)))
    for start in range(0, pairs, max(1, group)):
        count = min(max(1, group), pairs - start)
        # Drawn on the CPU whatever the default device, so that a seed means the same permutations everywhere.
        drawn, orders = [], []
        for _ in range(count):
            if isinstance(game, BackgroundGame):
                drawn.append(next(draws))
            orders.append(torch.randperm(n, generator=generator, device="cpu"))
        ranks = torch.stack(orders).to(game.device).argsort(1)  # (G, n): the place of each player
        both = torch.tensor(drawn, dtype=torch.long, device=game.device).repeat_interleave(2)
        yield _walk(game, rows, torch.stack((ranks, n - 1 - ranks), 1).flatten(0, 1), both)


def _walk(game: Game, rows: Tensor, ranks: Tensor, drawn: Tensor) -> Tensor:
    """Marginal contributions of each player where its rank (2G, n) places it, averaged by pairs: (G, R, T, n).

    `drawn` (2G,) are rows of the background, one for each walk; empty without one.
    """
    walks, n = ranks.shape
    total = walks * (n - 1)
    small = ranks.to(torch.int32)
    values = torch.empty(len(rows), total, game.targets.count, dtype=torch.float64, device=game.device)
    step = max(1, game.chunk // len(rows))
    for start in range(0, total, step):
        index = torch.arange(start, min(start + step, total), device=game.device)
        walk = index // (n - 1)
        size = index - walk * (n - 1) + 1
        coalitions = small[walk] < size.unsqueeze(1).to(torch.int32)
        if isinstance(game, BackgroundGame):
            values[:, start : start + step] = game.table_alone(coalitions, rows, drawn[walk]).double()
        else:
            values[:, start : start + step] = game.table(coalitions, rows).double()
    base, output = (
        end[rows].double()[:, None, None].expand(-1, walks, 1, -1) for end in (game.base_values, game.outputs)
    )
    if isinstance(game, BackgroundGame):
        base = game.base_alone(rows, drawn).double().unsqueeze(2)
    inner = values.reshape(len(rows), walks, n - 1, game.targets.count)
    along = torch.cat((base, inner, output), 2)  # (R, 2G, n + 1, T)
    index = ranks[None, :, :, None].expand(len(rows), -1, -1, along.shape[3])
    gains = along.diff(dim=2).gather(2, index)  # (R, 2G, n, T)
    if game.semivalue is not None:
        # In a random order all sizes are as likely, so this is how many times more likely a size is meant to be.
        likelier = torch.as_tensor(n * game.semivalue.shares(n), device=game.device)
        gains = gains * likelier[ranks][None, :, :, None]
    estimates = (gains[:, 0::2] + gains[:, 1::2]).permute(1, 0, 3, 2) / 2
    if isinstance(game, BackgroundGame) and game.semivalue is None:
        # Onto the plane on which the truth lies: unbiased, and never farther from it. With one player it is the truth.
        known = (game.outputs[rows].double() - game.base_values[rows].double()).unsqueeze(-1)  # (R, T, 1)
        moved = game.moved(rows).double()  # (R, 1, n): who differs from no row of the background has nothing to share
        estimates = estimates + (known - estimates.sum(-1, keepdim=True)) * (moved / moved.sum(-1, keepdim=True).clamp(min=1))
    return estimates


def _check_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an int, got {type(value).__name__}.")


def check_seed(seed: object) -> None:
    """Refuse a seed that is not an int from 0 to 2^31 - 1."""
    _check_int("seed", seed)
    if not 0 <= int(seed) <= LARGEST_SEED:  # type: ignore[call-overload]
        raise InputError(f"seed must be from 0 to {LARGEST_SEED}, got {seed}.")
