"""Semivalues: other weights for a player's marginal contributions than Shapley's (Dubey, Neyman and Weber, 1981).

    phi_i = sum over S without i of  p_|S| (v(S + i) - v(S)),    sum over k of C(n-1, k) p_k = 1,  p_k >= 0.

Where `p_k = integral of q^k (1-q)^(n-1-k) dmu(q)` for a distribution mu on [0, 1], this is the mean of `dF/dq_i (q, ..., q)`
under mu, F the multilinear extension of the game: Shapley's mu is uniform (Owen, 1972), Banzhaf's is the point 1/2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, InputTypeError

Array = npt.NDArray[np.float64]

GRID = 400
"""Places at which a distribution of q may have mass, where it is looked for."""
MOST_SIZES = 1000
"""Weights of single coalitions among more players are below the range of a double."""
MOST_LACKING = 1e-3
"""What the sizes' shares may miss in all (total variation) for a distribution of q to stand for them."""


@dataclass(frozen=True)
class Nodes:
    """Quadrature for a distribution of q: inner nodes with weights, and the weights of q = 0 and q = 1; together 1."""

    inner: tuple[float, ...]
    weights: tuple[float, ...]
    first: float = 0.0
    last: float = 0.0


class Weighting(ABC):
    """What every semivalue is: the share of each coalition size, and quadrature over q."""

    @abstractmethod
    def shares(self, players: int) -> Array:
        """`C(n-1, k) p_k`, the probability that the coalition that a player joins has k others, (n,), with sum 1.

        Raises:
            InputError: the weights are for another number of players.
        """

    @abstractmethod
    def quadrature(self, players: int, count: int | None, *, ends: bool) -> Nodes:
        """About `count` nodes for q, inner ones and, if `ends`, also 0 and 1; None where the number is not asked for.

        Raises:
            InputError: no distribution of q has these weights, or it does not take so many nodes.
        """

    @property
    def at_one_point(self) -> bool:
        """Whether q has a single value, so that one node is exact."""
        return False

    def described(self) -> dict[str, Any]:
        """Name and parameters, in types JSON can hold."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    def weights_of_sizes(self, players: int) -> Array:
        """p_k, (n,)."""
        weights: Array = self.shares(players) * np.exp(-_log_ways(players - 1))
        return weights


@dataclass(frozen=True)
class Banzhaf(Weighting):
    """Every other player is present with probability 1/2: `p_k = 2^-(n-1)` (Banzhaf, 1965), one node and exact in q.

    Attributes:
        probability: another probability than 1/2, inside (0, 1): the weighted Banzhaf value (Marichal and Mathonet, 2011).
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_number("probability", self.probability)
        if not 0 < self.probability < 1:
            raise InputError(f"probability must lie between 0 and 1, got {self.probability}.")

    @property
    def at_one_point(self) -> bool:
        """It does."""
        return True

    def shares(self, players: int) -> Array:
        """`C(n-1, k) p_k`, (n,)."""
        return _binomial(players - 1, np.array([self.probability]))[:, 0]

    def quadrature(self, players: int, count: int | None, *, ends: bool) -> Nodes:
        """See `Weighting.quadrature`."""
        if count not in (None, 1) or ends:
            raise InputError(
                f"the Banzhaf value is a derivative at q = {self.probability} alone; leave nodes= and rule= of the "
                "propagation out."
            )
        return Nodes((self.probability,), (1.0,))


@dataclass(frozen=True)
class BetaShapley(Weighting):
    """Beta(alpha, beta)-Shapley, in the notation of Kwon and Zou (2022, equation 5): q has the density of Beta(beta, alpha),

        p_k = B(k + beta, n - 1 - k + alpha) / B(alpha, beta).

    `BetaShapley(16, 1)` puts the weight on small coalitions, `BetaShapley(1, 16)` on large ones, `BetaShapley(1, 1)` is the
    Shapley value. Quadrature is Gauss-Jacobi, or with both exact ends the Lobatto rule of the same density.

    Attributes:
        alpha: above 0.
        beta: above 0.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            _check_number(name, value)
            if not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {value}.")

    def shares(self, players: int) -> Array:
        """`C(n-1, k) p_k`, (n,)."""
        n, a, b = players, self.alpha, self.beta
        shares = np.exp([w + _log_beta(k + b, n - 1 - k + a) - _log_beta(a, b) for k, w in enumerate(_log_ways(n - 1))])
        return np.asarray(shares / shares.sum())

    def quadrature(self, players: int, count: int | None, *, ends: bool) -> Nodes:
        """See `Weighting.quadrature`."""
        count = count or 4 + ends
        a, b = self.beta, self.alpha  # of q, as densities are written: q^(a-1) (1-q)^(b-1)
        if not ends:
            return Nodes(*_as_tuples(*_gauss(*_jacobi(count, a, b))))
        inner, weights = _gauss(*_jacobi(count - 2, a + 1, b + 1))
        return _with_ends(inner, weights * (a * b / ((a + b) * (a + b + 1))), a / (a + b))


@dataclass(frozen=True)
class Semivalue(Weighting):
    """Weights of your own: `weights[k]` is p_k, of a coalition of k others, for k = 0 to n - 1; `sum C(n-1, k) p_k = 1`.

    `dasp.Exact` and `dasp.PermutationSampling` take any. `dasp.Propagation` takes those that a distribution of q gives,
    which is looked for on a grid by non-negative least squares, and refuses others.

    Attributes:
        weights: p_k, not negative.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weights = _listed(self.weights)
        if not isinstance(weights, Sequence) or isinstance(weights, str) or not weights:
            raise InputTypeError(
                "weights: expected a list with one number for each size of a coalition of others, 0 to n - 1, got "
                f"{'none' if weights == [] or weights == () else type(weights).__name__}."
            )
        for weight in weights:
            _check_number("weights", weight)
            if not 0 <= weight < math.inf:
                raise InputError(f"weights must be 0 or more and finite, got {weight}.")
        object.__setattr__(self, "weights", tuple(float(weight) for weight in weights))
        total = float(self._ways_times_weights().sum())
        if not abs(total - 1) < 1e-6:
            raise InputError(
                f"weights: sum of C({len(self.weights) - 1}, k) weights[k] is {total:.6g}, and must be 1. "
                "dasp.Semivalue.of_sizes takes the share of each size instead."
            )

    @classmethod
    def of_sizes(cls, shares: Sequence[float]) -> Semivalue:
        """From the share of each size, `C(n-1, k) p_k` for k = 0 to n - 1, which add up to 1."""
        shares = _listed(shares)
        n = len(shares)
        if n > MOST_SIZES:
            raise InputError(f"shares: {n:,} sizes, whose weights are too small for numbers; at most {MOST_SIZES:,}.")
        for share in shares:
            _check_number("shares", share)
        return cls(tuple(float(share) / math.comb(n - 1, k) for k, share in enumerate(shares)))

    def _ways_times_weights(self) -> Array:
        ways = _log_ways(len(self.weights) - 1)
        return np.array([math.exp(w + math.log(p)) if p else 0.0 for w, p in zip(ways, self.weights, strict=True)])

    def shares(self, players: int) -> Array:
        """`C(n-1, k) p_k`, (n,)."""
        if players != len(self.weights):
            raise InputError(
                f"semivalue: {len(self.weights)} weights, and there are {players} players. Give one weight for each size of "
                "a coalition of others, 0 to n - 1."
            )
        shares = self._ways_times_weights()
        return np.asarray(shares / shares.sum())

    def quadrature(self, players: int, count: int | None, *, ends: bool) -> Nodes:
        """See `Weighting.quadrature`."""
        shares = self.shares(players)
        places = (1 - np.cos(np.linspace(0, np.pi, GRID + 1))) / 2
        mass = _not_negative(_binomial(players - 1, places), shares)
        lacking = float(np.abs(_binomial(players - 1, places) @ mass - shares).sum())
        if lacking / 2 > MOST_LACKING:
            raise InputError(
                f"semivalue: no distribution of q on [0, 1] has these weights (the nearest misses {50 * lacking:.2g} % of "
                "them), so they cannot be propagated. Use method=dasp.Exact(), or dasp.PermutationSampling()."
            )
        mass = mass / mass.sum()
        count = count or 4 + ends
        if not ends:  # masses at the ends are taken exactly
            inside = slice(1, -1)
            inner, weights = _reduced(places[inside], mass[inside], count)
            return Nodes(*_as_tuples(inner, weights), float(mass[0]), float(mass[-1]))
        inner, weights = _reduced(places, mass * places * (1 - places), count - 2)
        return _with_ends(inner, weights, float(mass @ places))


def _with_ends(inner: Array, weights: Array, mean: float) -> Nodes:
    """The rule with both ends, from the Gauss rule of `q (1-q) dmu` and the mean of q (Golub, 1973)."""
    weights = weights / (inner * (1 - inner))
    last = mean - float(weights @ inner)
    return Nodes(*_as_tuples(inner, weights), 1 - float(weights.sum()) - last, last)


def _as_tuples(nodes: Array, weights: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x) for x in nodes), tuple(float(w) for w in weights)


def _jacobi(count: int, a: float, b: float) -> tuple[Array, Array]:
    """Recurrence of the polynomials that are orthogonal under Beta(a, b): diagonal (count,), off-diagonal (count - 1,).

    Abramowitz and Stegun (1964), 22.7.1, with `(1-x)^s (1+x)^t`, s = b - 1, t = a - 1 and q = (1 + x) / 2.
    """
    s, t = b - 1, a - 1
    k = np.arange(count, dtype=np.float64)
    total = 2 * k + s + t
    diagonal = np.full(count, (t - s) / (s + t + 2))
    diagonal[1:] = (t * t - s * s) / (total[1:] * (total[1:] + 2))
    k, total = k[1:], total[1:]
    # The first has s + t + 1 as a factor above and below.
    ratio = np.where(k == 1, 1 / (total + 1), (k + s + t) / ((total + 1) * np.where(k == 1, 1, total - 1)))
    off = np.sqrt(4 * k * (k + s) * (k + t) * ratio) / total
    return (1 + diagonal) / 2, off / 2


def _gauss(diagonal: Array, off: Array) -> tuple[Array, Array]:
    """Nodes and weights, with sum 1, of the Gauss rule of a recurrence (Golub and Welsch, 1969)."""
    if not len(diagonal):
        return np.empty(0), np.empty(0)
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2


def _reduced(places: Array, mass: Array, count: int) -> tuple[Array, Array]:
    """The Gauss rule of masses at places, by the process of Lanczos; no more nodes than masses."""
    keep = mass > 1e-12 * max(float(mass.sum()), 1e-300)
    places, mass = places[keep], mass[keep]
    if len(places) <= count or not len(places):
        return places, mass
    basis, diagonal, off = [np.sqrt(mass / mass.sum())], [], []
    for _ in range(count):
        step = places * basis[-1]
        diagonal.append(float(step @ basis[-1]))
        for _ in range(2):  # again, for rounding
            for one in basis:
                step = step - (step @ one) * one
        off.append(float(np.linalg.norm(step)))
        basis.append(step / off[-1])
    nodes, weights = _gauss(np.array(diagonal), np.array(off[:-1]))
    return nodes, weights * mass.sum()


def _not_negative(matrix: Array, wanted: Array) -> Array:
    """x >= 0 with the least `|matrix x - wanted|` (Lawson and Hanson, 1974, chapter 23)."""
    x = np.zeros(matrix.shape[1])
    free = np.zeros(matrix.shape[1], dtype=bool)
    for _ in range(3 * len(wanted) + 30):
        slope = matrix.T @ (wanted - matrix @ x)
        slope[free] = -np.inf
        if slope.max() <= 1e-12:
            break
        free[slope.argmax()] = True
        while True:
            found = np.zeros_like(x)
            found[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
            if found[free].min(initial=0.0) >= 0:
                break
            low = free & (found < 0)
            part = float((x[low] / (x[low] - found[low])).min())
            x = x + part * (found - x)
            free &= x > 1e-15
        x = found
    return x


def _binomial(count: int, q: Array) -> Array:
    """Probabilities of k of `count` at each q, (count + 1, len(q))."""
    k = np.arange(count + 1)[:, None]
    inside = np.clip(q, 1e-300, 1 - 1e-16)
    found = np.exp(_log_ways(count)[:, None] + k * np.log(inside) + (count - k) * np.log1p(-inside))
    return np.asarray(np.where(q <= 0, k == 0, np.where(q >= 1, k == count, found)), dtype=np.float64)


def _log_ways(count: int) -> Array:
    """Logarithms of the ways to choose k of `count`, k from 0 to `count`, (count + 1,)."""
    return np.array([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)])


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _listed(numbers: Any) -> Any:
    """Arrays and tensors as lists; anything else as it is."""
    return numbers.tolist() if hasattr(numbers, "tolist") else numbers


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputTypeError(f"{name}: expected a number, got {type(value).__name__}.")
