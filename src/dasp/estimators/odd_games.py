"""Half a game is enough: differences between a coalition and its complement, which of them to look at, and a Gaussian
process over them.

With z_i = 1 for the members of S and -1 for the others, what the Shapley values depend on is the odd part of the game,

    d(S) = v(S) - v(complement) = sum over T of odd size of a_T prod_{i in T} z_i,   phi_i = sum over T with i of a_T / |T|

(pairs: Covert and Lee 2021; only odd orders matter: Fumagalli, Butler, Kang, Ramchandran, Witter 2026). d(all) is the
output minus the base value, so that efficiency is one more equation. Legend: n players, M pairs, Q games (a row and a target
each) that are looked at by the same pairs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..game import Game

LARGEST_ORDER = 101
AT_ONCE = 2**22
"""Covariances that are held at a time where differences are foretold."""
FEWEST_FRESH = 2


def every_pair(n: int, device: torch.device) -> Tensor:
    """The members of one coalition of every pair but (nobody, all), (2^(n-1) - 1, n) bool: those with the first player."""
    codes = torch.arange(2 ** (n - 1) - 1, device=device).unsqueeze(1)
    others = (codes >> torch.arange(n - 1, device=device)) & 1 == 1
    return torch.cat((torch.ones(len(codes), 1, dtype=torch.bool, device=device), others), 1)


def draw_pairs(n: int, count: int, generator: torch.Generator, *, without: Tensor | None = None) -> Tensor:
    """Members of one coalition of `count` different pairs, in random order: (count, n) bool, on the CPU.

    Leverage scores (Musco and Witter 2025) are equal for all sizes in sum, so that every size 1 ... n-1 gets equally many
    coalitions until it has no more; which ones is up to chance. None is drawn of the pairs `without`, (A, n) bool.
    """
    supply = [pairs_of_size(n, k) for k in range(1, n // 2 + 1)]
    taken = [_of_size(without, k) for k in range(1, n // 2 + 1)]
    left = [s - len(t) for s, t in zip(supply, taken, strict=True)]
    counts = _counts(n, left, count, generator)
    drawn = [_subsets(n, k, c, generator, t) for k, (c, t) in enumerate(zip(counts, taken, strict=True), 1) if c]
    return torch.cat(drawn)[torch.randperm(count, generator=generator, device="cpu")]


def distinct(members: Tensor) -> Tensor:
    """Each pair once, by its coalition with the first player, in the order of first appearance."""
    first = members ^ ~members[:, :1]
    _, inverse = first.unique(dim=0, return_inverse=True)
    places = torch.full((int(inverse.max()) + 1,), len(first), device=first.device)
    places = places.scatter_reduce(0, inverse, torch.arange(len(first), device=first.device), "amin")
    return first[places.sort().values]


def _of_size(members: Tensor | None, k: int) -> Tensor:
    """Of pairs (A, n), the coalitions of k of n players; of two halves the one with the first player."""
    if members is None:
        return torch.zeros(0, 0, dtype=torch.bool, device="cpu")
    n = members.shape[1]
    small = torch.where(2 * members.sum(1, keepdim=True) > n, ~members, members)
    small = small[small.sum(1) == k]
    return small == small[:, :1] if 2 * k == n else small


def pairs_of_size(n: int, k: int) -> int:
    """How many pairs have a coalition of k players."""
    return math.comb(n, k) // (2 if 2 * k == n else 1)


def _counts(n: int, supply: list[int], count: int, generator: torch.Generator) -> list[int]:
    """Pairs to draw of the sizes 1 ... n // 2: fractional shares rounded with one random offset, none above its supply."""
    weights = [1 if 2 * k == n else 2 for k in range(1, n // 2 + 1)]
    taken: set[int] = set()
    while True:
        left = count - sum(supply[k] for k in taken)
        free = [k for k in range(len(supply)) if k not in taken]
        share = left / max(1, sum(weights[k] for k in free))
        beyond = {k for k in free if share * weights[k] >= supply[k]}
        if not beyond:
            break
        taken |= beyond
    result = [supply[k] if k in taken else 0 for k in range(len(supply))]
    offset = float(torch.rand((), generator=generator, dtype=torch.float64, device="cpu"))
    total, before = 0.0, 0
    for k in free:
        total = left if k == free[-1] else total + share * weights[k]
        result[k] = math.floor(total + offset) - before
        before += result[k]
    return result


def _subsets(n: int, k: int, count: int, generator: torch.Generator, without: Tensor) -> Tensor:
    """`count` different coalitions of k of n players, no two of them complements, none of `without`, (count, n) bool."""
    half = 2 * k == n
    if len(without):
        found = _subsets(n, k, min(pairs_of_size(n, k), count + len(without)), generator, without[:0])
        left = found[~_rows_in(found, without)]
        return left[torch.randperm(len(left), generator=generator, device="cpu")[:count]]
    if pairs_of_size(n, k) <= 2 * count:
        chosen = itertools.combinations(range(int(half), n), k - int(half))
        index = torch.tensor(list(chosen), dtype=torch.long, device="cpu").reshape(-1, k - int(half))
        found = torch.zeros(len(index), n, dtype=torch.bool, device="cpu").scatter_(1, index, True)
        found[:, 0] |= half
        return found[torch.randperm(len(found), generator=generator, device="cpu")[:count]]
    found = torch.zeros(0, n, dtype=torch.bool, device="cpu")
    while len(found) < count:
        keys = torch.rand(count - len(found), n, generator=generator, dtype=torch.float64, device="cpu")
        fresh = keys.argsort(1) < k
        if half:
            fresh = fresh == fresh[:, :1]
        found = torch.cat((found, fresh)).unique(dim=0)
    return found


def _rows_in(members: Tensor, others: Tensor) -> Tensor:
    """Which rows of members (A, n) are among the others (B, n), no two of one tensor equal, (A,) bool."""
    _, inverse, counts = torch.cat((members, others)).unique(dim=0, return_inverse=True, return_counts=True)
    found: Tensor = counts[inverse[: len(members)]] > 1
    return found


class Process(Protocol):
    """A Gaussian process over odd games whose Shapley values are known in closed form; signs are float64.

    Attributes:
        jitter: added to the variances, which are 1, so that those of nearly linear games, of rank n, can be factorised.
    """

    jitter: ClassVar[float]

    def differences(self, signs: Tensor, others: Tensor) -> Tensor:
        """cov of differences at coalitions (A, n) and (B, n) of signs: (A, B), 1 of one with itself."""

    def values(self, signs: Tensor) -> Tensor:
        """cov of the values with the differences at coalitions (M, n) of signs: (n, M)."""

    def prior(self) -> Tensor:
        """cov of the values, (n, n)."""


@dataclass(frozen=True, eq=False)
class OddProcess:
    """A Gaussian process over odd games of n players: a_T independent, of variance e_|T| / C(n, |T|), e_k ~ k^-power.

    How far a game follows orders: a wide random network of ReLU layers is near power 3, power 18 is linear but for 1e-9.
    With m the number of players on whom two coalitions differ and kappa_k(m; n) Krawtchouk's polynomials, 1 at m = 0,

        cov(d(S), d(S')) = sum_k e_k kappa_k(m; n)
        cov(phi_i, d(S)) = z_i / n sum_k e_k kappa_{k-1}(m_i; n-1),   m_i = number of players other than i outside S
        cov(phi_i, phi_j) = sum_k e_k / (n k) (k-1)/(n-1),   var(phi_i) = sum_k e_k / (n k)

    so that neither the 2^n interactions nor the coalitions of a row are ever listed. The posterior mean is ridge regression
    on all odd interactions at once.
    """

    differ: Tensor  # (n + 1,): covariance of two differences by m
    reach: Tensor  # (n,): covariance of z_i phi_i and a difference by m_i
    own: float
    shared: float
    jitter: ClassVar[float] = 1e-11

    @classmethod
    def of(cls, n: int, power: float, device: torch.device) -> OddProcess:
        """The process of n players, sum of e_k = 1."""
        orders = range(1, min(n, LARGEST_ORDER) + 1, 2)
        energy = torch.tensor([float(k) ** -power for k in orders], dtype=torch.float64, device="cpu")
        energy = energy / energy.sum()
        differ = energy @ _krawtchouk(n, [*orders])
        reach = energy @ _krawtchouk(n - 1, [k - 1 for k in orders]) / n
        own = sum(float(e) / (n * k) for e, k in zip(energy, orders, strict=True))
        shared = sum(float(e) * (k - 1) / (n * k * max(1, n - 1)) for e, k in zip(energy, orders, strict=True))
        return cls(differ.to(device), reach.to(device), own, shared)

    def differences(self, signs: Tensor, others: Tensor) -> Tensor:
        """cov of differences at coalitions (A, n) and (B, n) of signs, float64: (A, B)."""
        return self.differ[(signs @ others.T).sub_(signs.shape[1]).div_(-2).round_().int()]

    def values(self, signs: Tensor) -> Tensor:
        """cov of the values with the differences at coalitions (M, n) of signs: (n, M)."""
        absent = signs < 0
        others = absent.sum(1, keepdim=True) - absent.long()  # (M, n)
        return (signs * self.reach[others]).T

    def prior(self) -> Tensor:
        """cov of the values, (n, n)."""
        n = len(self.reach)
        shared = torch.full((n, n), self.shared, dtype=torch.float64, device=self.reach.device)
        return shared.fill_diagonal_(self.own)


def _krawtchouk(n: int, orders: list[int]) -> Tensor:
    """kappa_k(m; n) for the orders given and m = 0 ... n, (orders, n + 1) float64, on the CPU.

    (n - k) kappa_{k+1} = (n - 2 m) kappa_k - k kappa_{k-1} for m and k up to n / 2, where it is stable; beyond,
    kappa_k(n - m) = (-1)^k kappa_k(m) and kappa_{n-k}(m) = (-1)^m kappa_k(m).
    """
    m = torch.arange(n // 2 + 1, dtype=torch.float64, device="cpu")
    low = [torch.ones_like(m), (n - 2 * m) / max(1, n)]
    for k in range(1, min(max(orders), n // 2)):
        low.append(((n - 2 * m) * low[k] - k * low[k - 1]) / (n - k))
    alternate = 1 - 2 * (torch.arange(n + 1, device="cpu") % 2).double()
    rows = []
    for k in orders:
        half = low[min(k, n - k)]
        whole = torch.cat((half, (-1) ** min(k, n - k) * half[: n - n // 2].flip(0)))
        rows.append(whole if 2 * k <= n else whole * alternate)
    return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class Fit:
    """What a process learnt from the differences of Q games at M coalitions, the last of them everybody.

    Attributes:
        process: what the games were taken to be, up to their size.
        signs: (M, n) float64.
        weights: (Q, M), the surrogate is d(S) = sum over M of weight * cov(d(S), d(S_M)).
        values: (Q, n), of the surrogate.
        covariance: (n, n), of what is left, of a game of size 1.
        likely: (Q,), the squared size of the games that makes the differences most probable.
        size: (Q,), the one that the errors of leaving one pair out have; truer where most pairs are known, or much was learnt.
        evidence: (Q,), log probability of the differences at `likely`, up to a constant.
        foretold: (Q,), sum of the log probabilities of the pairs that `size` is judged by, each from all others, up to a
            constant (Rasmussen and Williams 2006, equation 5.11).
        missed: (Q,), mean squared error of leaving one pair out.
        worst: (Q,), the largest error of leaving one pair out.
    """

    process: Process
    signs: Tensor
    weights: Tensor
    values: Tensor
    covariance: Tensor
    likely: Tensor
    size: Tensor
    evidence: Tensor
    foretold: Tensor
    missed: Tensor
    worst: Tensor

    @classmethod
    def of(cls, process: Process, members: Tensor, differences: Tensor, fresh: Tensor | None = None) -> Fit:
        """Condition on differences (Q, M) at coalitions (M, n) bool; `size` is by those that the process was not learnt from.

        Args:
            fresh: which those are, (M,) bool; None for all but everybody.
        """
        signs, count, tiny = _signs(members), len(members), torch.finfo(torch.float64).tiny
        covariance = process.differences(signs, signs)
        covariance.diagonal().add_(process.jitter)
        factor = torch.linalg.cholesky(covariance)
        del covariance
        whitened = torch.linalg.solve_triangular(factor, differences.T, upper=False)  # (M, Q)
        reach = torch.linalg.solve_triangular(factor, process.values(signs).T, upper=False)  # (M, n)
        weights = torch.linalg.solve_triangular(factor.T, whitened, upper=True).T
        likely = (whitened.square().sum(0) / count).clamp(min=tiny)
        evidence = -count / 2 * likely.log() - factor.diagonal().log().sum()
        # Left out, pair j is missed by weight_j / P_jj with variance size / P_jj, where P is the inverse covariance.
        precision = torch.empty(count, dtype=torch.float64, device=signs.device)
        for some in torch.arange(count, device=signs.device).split(256):
            unit = torch.zeros(count, len(some), dtype=torch.float64, device=signs.device)
            unit[some, torch.arange(len(some), device=signs.device)] = 1
            precision[some] = torch.linalg.solve_triangular(factor, unit, upper=False).square().sum(0)
        judges = torch.arange(count, device=signs.device) < count - 1 if fresh is None else fresh
        size = (weights.square() / precision)[:, judges].mean(1) if bool(judges.any()) else likely
        size = size.clamp(min=tiny)
        foretold = (precision[judges].log().sum() - int(judges.sum()) * size.log()) / 2
        left_out = weights / precision
        missed, worst = left_out.square().mean(1), left_out.abs().amax(1)
        left = process.prior() - reach.T @ reach
        values = (reach.T @ whitened).T
        return cls(process, signs, weights, values, left, likely, size, evidence, foretold, missed, worst)

    def surrogate(self, members: Tensor) -> Tensor:
        """The differences expected at other coalitions (A, n) bool, (Q, A)."""
        parts = members.split(max(1, AT_ONCE // len(self.signs)))
        return torch.cat([self.weights @ self.process.differences(self.signs, _signs(some)) for some in parts], 1)


def can_correct(n: int, fitted: Tensor, members: Tensor) -> bool:
    """Whether pairs (A, n) tell what a fit of others lacks: they have two of every size that is not known whole."""
    seen, fresh = _by_size(fitted), _by_size(members)
    return all(fresh[k] >= FEWEST_FRESH or seen[k] + fresh[k] == pairs_of_size(n, k) for k in range(1, n // 2 + 1))


def held_out(fit: Fit, members: Tensor, differences: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """What the surrogate lacks, from pairs that it has not seen: unbiased (Q, n), and the sum of its variances (Q,).

    Pairs (A, n) are a random part of the N_k of size k that the surrogate left, A_k of them; what it lacks in its own is 0.
    The regression over all pairs that gives Shapley values (Charnes, Golany, Keane, Rousseau 1988), with r the residual,
    is a sum whose normal matrix is known, so that each pair counts for those it stands for (Horvitz and Thompson 1952):

        sum over pairs of (N_k / A_k) u_k r(S) (z - mean z),   u_k = n / (2 C(n, k) k (n - k))

    Its variance leaves out the mean of the terms of a size, which errs on the large side. Regression-adjusted sampling is
    due to Witter, Liu, Musco (2025).
    """
    n = members.shape[1]
    seen, fresh = _by_size(fit.signs[:-1] > 0), _by_size(members)
    factor, part = (torch.zeros(n + 1, dtype=torch.float64, device="cpu") for _ in range(2))
    for k in range(1, n // 2 + 1):
        total = pairs_of_size(n, k)
        if fresh[k]:
            remaining = 1 - seen[k] / total
            each = n / (4 if 2 * k == n else 2) / (k * (n - k))
            factor[k] = factor[n - k] = each * remaining / fresh[k]
            part[k] = part[n - k] = max(0.0, 1 - fresh[k] / (total - seen[k]))
    factor, part = factor.to(members.device), part.to(members.device)
    lacking = torch.zeros_like(fit.values)
    variance = torch.zeros_like(fit.size)
    for some, d in zip(members.split(step), differences.split(step, 1), strict=True):
        z, size = _signs(some), some.sum(1)
        residual = (d - fit.surrogate(some)) * factor[size]  # (Q, step)
        centred = z - z.mean(1, keepdim=True)
        lacking += residual @ centred
        variance += residual.square() @ (part[size] * centred.square().sum(1))
    return lacking, variance


class Table(Protocol):
    """What is told of coalitions: a game, or its values with more beside them."""

    def table(self, coalitions: Tensor, rows: Tensor) -> Tensor:
        """Coalitions (M, n) bool for rows (R,), to (R, M, columns)."""


def differences(game: Game, rows: Tensor, which: Tensor, members: Tensor, bar: tqdm, told: Table | None = None) -> Tensor:
    """v(S) - v(complement) for coalitions (M + 1, k) of the players `which` (R, k) of each row, (R, T, M + 1) float64.

    Where `told` has more columns than the game has targets, of all of them.
    """
    if told is None:
        whole = game.outputs[rows].double() - game.base_values[rows].double()
    else:
        ends = torch.tensor([[True], [False]], device=game.device).expand(-1, game.players.count)
        both = told.table(ends, rows).double()
        whole = both[:, 0] - both[:, 1]
    result = torch.empty(*whole.shape, len(members), dtype=torch.float64, device=game.device)
    result[:, :, -1] = whole
    step = max(1, min(game.chunk // 2, game.memory // (32 * game.players.count)))
    patterns, owner = which.unique(dim=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        same = (owner == index).nonzero()[:, 0]
        for some in torch.arange(len(members) - 1, device=game.device).split(step):
            coalitions = torch.zeros(2, len(some), game.players.count, dtype=torch.bool, device=game.device)
            coalitions[0][:, pattern] = members[some]
            coalitions[1][:, pattern] = ~members[some]
            table = (told or game).table(coalitions.flatten(0, 1), rows[same]).double().unflatten(1, (2, -1))
            result[same.unsqueeze(1), :, some] = table[:, 0] - table[:, 1]
            bar.update(2 * len(some) * len(same))
    return result


def _signs(members: Tensor) -> Tensor:
    return 2 * members.double() - 1


def _by_size(members: Tensor) -> list[int]:
    """How many coalitions have k or n - k members, for k = 0 ... n // 2."""
    n, size = members.shape[1], members.sum(1)
    return torch.bincount(torch.minimum(size, n - size), minlength=n // 2 + 1).tolist()
