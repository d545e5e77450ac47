"""Vertex gradients: slopes at random corners of the cube, every player read off each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..background_game import BackgroundGame
from ..errors import CostError, InputError, InputTypeError, MemoryBoundError, NumericsError
from ..game import CPU_BYTES, LARGEST_CHUNK, Game, take_rows
from ..memory import peak_bytes
from .base import Estimate, Estimator
from .exact import Exact
from .sampling import check_seed, in_turn, stream

FEWEST = 4
KEPT = 8
"""Drawn pairs are kept where they take less than this part of the memory bound."""
WORKSPACE = 1.5  # what operations need beside the tensors they make, as for plain evaluations
INSTEAD = "dasp.PermutationSampling(), which needs no gradients"


@dataclass(frozen=True, kw_only=True)
class VertexGradients(Estimator):
    """Slopes at random coalitions, weighted so that every edge of the cube is integrated by the trapezoid rule.

    `d_i(S) = sum over the elements of player i of df/dx(x_S) (x - b)` is the slope at corner S along the edge of player i;
    one gradient holds those of all players. To join R, player i walks along an edge, and by the trapezoid rule

        v(R + i) - v(R) = (d_i(R) + d_i(R + i)) / 2 - d_i''/12,   d_i'' the second derivative of the slope somewhere between.

    With that for the steps in Shapley's sum, what is estimated is

        psi_i = sum over R without i of  |R|! (n - |R| - 1)! / n!  (d_i(R) + d_i(R + i)) / 2
              = sum over pairs {S, N - S} of  (d_i(S) + d_i(N - S)) / (2 k C(n, k)),   k the size of the one that holds i.

    It is the Shapley value where f is quadratic along every edge. Elsewhere third derivatives and kinks leave a small bias that
    no number of samples removes (0.12 of the values' norm on the Parkinson network, 0.04 on MNIST), part of which shows in
    the gap. Only the gradient is used: it does not matter what operations the network is made of.

    The pair {nobody, everybody} is always taken, with its weight 1/n. Others are drawn, the size s of S with probability
    proportional to 1 / sqrt(s (n - s)), and weighted with w_i = sqrt((n - k) / k). With m_i(S) the mean of d_i(S), d_i(N - S),

        psi_i ~ m_i({}) + (n - 1) / n  sum_S w_i (m_i(S) - m_i({})) / sum_S w_i.

    Among the laws of s this one has the least E w^2 / (E w)^2, so the least variance where slopes vary alike at all sizes
    (Cauchy and Schwarz): 2.3 for 784 players, where s uniform on 0..n, with its weight (n + 1) / (2 k), has 3.6. The ratio of
    the sums' expectations is that of psi, and neither pairs nor strata of s change them; the ratio of the sums, taken because
    some players are drawn into small coalitions more often, is biased by the order of 1 / samples.

    Where all pairs are no more than asked for, so are all 2^n coalitions: then the values are those of `dasp.Exact`, from the
    outputs and as many evaluations, without gradients and without the bias. The settings say `exact`. So it is with a single
    player, who gets output - base value.

    Standard errors are 0 where the values are exact. Elsewhere they are about psi and know nothing of its bias: the jackknife
    that leaves out one pair (Quenouille 1956; Tukey 1958). It takes strata for independent draws and so errs on the large
    side; it needs some twenty pairs.

    Against a background each drawn pair also draws one of its rows, each as often as the others where `samples` is a
    multiple of twice their number; {nobody, everybody} is averaged over all of them, with two gradients each.

    Every row gets the same coalitions, drawn from the seed alone, so a row's values do not depend on the batch it is in.

    A network with jumps (rounding, comparisons, argmax), or with a part that autograd does not see, is not the integral of its
    gradient. It is refused where all slopes of a row are 0 but its values differ; beside other slopes it shows only in the gap.

    Attributes:
        samples: gradients a row, an even number of at least 4, beside the two at nobody and everybody. Each counts as one
            evaluation (benchmarks count two), and takes one backward pass for each target.
        seed: 0 to 2^31 - 1.
    """

    takes_background = True
    samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int):
            raise InputTypeError(f"samples must be an int, got {type(self.samples).__name__}.")
        check_seed(self.seed)
        if self.samples < FEWEST:
            raise CostError(
                f"samples={self.samples} is too few for standard errors, which take two coalitions and their complements; "
                f"give samples={FEWEST} or more."
            )
        if self.samples % 2:
            raise InputError(f"samples must be even (each coalition comes with its complement), got {self.samples}.")

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Estimated values of `game` with their standard errors; exact, with errors of 0, where all pairs may be taken.

        Raises:
            InputError: an input holds whole numbers; the model has no gradient, or gives NaN or infinity at a coalition.
            NumericsError: a gradient is NaN or infinite; the message says where.
            MemoryBoundError: one row at one coalition and its complement does not fit the memory bound.
        """
        pairs = _Pairs(game.players.count, self.samples // 2, self.seed, game.rows_each)
        settings: dict[str, Any] = {"samples": self.samples, "seed": self.seed, "exact": pairs.every}
        if pairs.n == 1:
            values = (game.outputs - game.base_values).double().unsqueeze(2)
            return Estimate(values, torch.zeros_like(values), 1.0 + game.rows_each, settings)
        if pairs.every:
            exact = Exact(force=True).estimate(game, progress=progress)
            return Estimate(exact.values, torch.zeros_like(exact.values), exact.evaluations, settings)
        _refuse_whole_numbers(game)
        plain = torch.autocast(game.device.type, enabled=False)
        if pairs.count * pairs.n <= game.memory // KEPT:
            pairs.keep()
        bar = tqdm(total=game.batch * pairs.count, desc="gradients", unit="pair", disable=not progress)
        values = torch.empty(game.batch, game.targets.count, pairs.n, dtype=torch.float64, device=game.device)
        errors = torch.empty_like(values)
        with torch.inference_mode(False), torch.enable_grad(), plain, _differentiable_recurrence(game), bar:
            at_once = _at_once(game)
            weight = torch.stack([weights.sum(0) for _, weights, _ in pairs.chunks(at_once)]).sum(0)
            for rows in torch.arange(game.batch, device=game.device).split(at_once):
                together = max(1, at_once // len(rows))
                sums = _Sums(game, rows, weight.to(game.device), together)
                for coalitions, weights, drawn in pairs.chunks(together):
                    sums.add(coalitions.to(game.device), weights.to(game.device), drawn.to(game.device))
                    bar.update(len(rows) * len(coalitions))
                sums.refuse_steps()
                values[rows], errors[rows] = sums.result(pairs)
        return Estimate(values, errors, 2.0 * game.rows_each + 2 * pairs.count, settings)


class _Pairs:
    """Drawn coalitions S that stand for {S, N - S}, their weights, and which of `behind` rows of a background they go with.

    `every` says that there are no more than `wanted`; then none needs to be drawn. Everything is on the CPU whatever the
    default device, so that a seed means the same coalitions everywhere.
    """

    def __init__(self, n: int, wanted: int, seed: int, behind: int = 1) -> None:
        self.n, self.seed, self.behind = n, seed, behind
        self.every = (2 ** (n - 1) - 1) * behind <= wanted
        self.count = wanted
        self._kept: tuple[Tensor, Tensor] | None = None

    def keep(self) -> None:
        """Draw once, and keep what was drawn, a byte for each pair and player."""
        self._kept = next(self._drawn(self.count))

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Coalitions (G, n), weights (G, n) float64 and rows of the background (G,), `size` at a time; the same however they
        are grouped."""
        parts = self._drawn(size) if self._kept is None else zip(*(part.split(size) for part in self._kept), strict=True)
        for coalitions, drawn in parts:
            members = coalitions.sum(1, keepdim=True)
            own = torch.where(coalitions, members, self.n - members).double()
            yield coalitions, ((self.n - own) / own).sqrt(), drawn

    def _drawn(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.arange(1, self.count + 1, device="cpu")
        generator = stream(self.seed, audit=False)
        draws = in_turn(self.behind, generator) if self.behind > 1 else repeat(0)
        places = torch.rand(self.count, dtype=torch.float64, generator=generator, device="cpu")
        for some in self._sizes((numbers - places) / self.count).split(size):
            coalitions = torch.zeros(len(some), self.n, dtype=torch.bool, device="cpu")
            drawn = torch.zeros(len(some), dtype=torch.long, device="cpu")
            for pair, (coalition, members) in enumerate(zip(coalitions, some.tolist(), strict=True)):
                drawn[pair] = next(draws)
                coalition[torch.randperm(self.n, generator=generator, device="cpu")[:members]] = True
            yield coalitions, drawn

    def _sizes(self, places: Tensor) -> Tensor:
        """Sizes from 1 to n/2 at these places, 0 to 1, of their distribution function."""
        sizes = torch.arange(1, self.n // 2 + 1, device="cpu").double()
        law = (sizes * (self.n - sizes)).rsqrt()
        law[-1] /= 1 + (self.n % 2 == 0)  # of n/2, size and complement are one size
        reached = law.cumsum(0) / law.sum()
        return 1 + torch.searchsorted(reached, places).clamp(max=len(sizes) - 1)


class _Sums:
    """What the estimate of some rows (R,) is made of: sums over pairs, float64, of slopes less those at the ends."""

    def __init__(self, game: Game, rows: Tensor, weight: Tensor, together: int = 1, behind: int | None = None) -> None:
        """The ends are means over the rows of a background; only over the first `behind` where these are enough."""
        self.game, self.rows, self.weight = game, rows, weight
        self.sloped = torch.zeros(len(rows), game.targets.count, dtype=torch.bool, device=game.device)
        self.spread = torch.zeros(self.sloped.shape, dtype=torch.float64, device=game.device)
        nobody = torch.zeros(together, game.players.count, dtype=torch.bool, device=game.device)
        parts = [
            self._means(nobody[: len(drawn)], drawn).sum(1)
            for drawn in torch.arange(behind or game.rows_each, device=game.device).split(together)
        ]
        self.ends = torch.stack(parts).sum(0) / (behind or game.rows_each)  # (R, T, n)
        self.first, self.square, self.cross = (torch.zeros_like(self.ends) for _ in range(3))
        self.leverage = torch.zeros_like(weight)

    def add(self, coalitions: Tensor, weights: Tensor, drawn: Tensor) -> None:
        """Take in pairs: coalitions (G, n), weights (G, n) and rows of the background (G,)."""
        far = self._means(coalitions, drawn) - self.ends.unsqueeze(1)
        # Leaving out pair k moves the ratio by w_k / (W - w_k) times how far it is from that pair.
        weights, jack = weights.unsqueeze(1), (weights / (1 - weights / self.weight)).square().unsqueeze(1)
        self.first += (weights * far).sum(1)
        self.cross += (jack * far).sum(1)
        self.square += (jack * far.square()).sum(1)
        self.leverage += jack.sum((0, 1))

    def result(self, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        """Values and standard errors, (R, T, n)."""
        inner = (pairs.n - 1) / pairs.n  # the weight of all pairs but {nobody, everybody}
        mean = self.first / self.weight
        values = self.ends + inner * mean
        squares = (self.square - 2 * mean * self.cross + mean.square() * self.leverage).clamp(min=0)
        return values, inner * ((pairs.count - 1) / pairs.count * squares).sqrt() / self.weight

    def refuse_steps(self) -> None:
        """Refuse a row whose values differ where all its slopes are 0."""
        wrong = ~self.sloped & (self.spread > self.game.tolerance)
        if not bool(wrong.any()):
            return
        row, target = wrong.nonzero()[0].tolist()
        raise InputError(
            f"the gradient of {self.game.model.name} is 0 at every coalition for {_place(self.game, self.rows, row, target)}, "
            f"but its output changes by up to {float(self.spread[row, target]):.2g}: it jumps (rounding, comparisons, argmax), "
            f"is saturated, or hides its input from autograd (torch.no_grad, detach, numpy). Use {INSTEAD}."
        )

    def _means(self, coalitions: Tensor, drawn: Tensor) -> Tensor:
        """The mean slopes of each coalition and its complement, (R, G, T, n)."""
        values, slopes = _slopes(self.game, self.rows, torch.cat((coalitions, ~coalitions)), drawn.repeat(2))
        change = values.double() - self.game.base_values[self.rows].double().unsqueeze(1)
        self.spread = torch.maximum(self.spread, change.abs().amax(1))
        self.sloped = self.sloped | (slopes != 0).any(-1).any(1)
        return (slopes[:, : len(coalitions)] + slopes[:, len(coalitions) :]) / 2


def _slopes(game: Game, rows: Tensor, coalitions: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R, M, T), and slopes along each player's edge (R, M, T, n) float64; `drawn` (M,) rows of a background."""
    index = rows.repeat_interleave(len(coalitions))
    points, steps = [], []
    for z, x, b in zip(game.players.spread(coalitions), game.inputs, game.baselines, strict=True):
        present = x[rows].unsqueeze(1)
        base = b[drawn].unsqueeze(0) if isinstance(game, BackgroundGame) else b.expand_as(x)[rows].unsqueeze(1)
        points.append(torch.where(z.unsqueeze(0), present, base).flatten(0, 1).requires_grad_())
        steps.append(present - base)  # (R, 1 or M, *shape)
    # Copies, for a model may work in place on what it is given.
    outputs = game.model.forward(*(point.clone() for point in points), *take_rows(game.extra, index, game.batch))
    values = game.targets.select(outputs, index)  # (R * M, T)
    bad = (~values.isfinite()).any(1).nonzero()[:1, 0]
    if len(bad):
        place = bad % len(coalitions)
        game.alone(index[bad], coalitions[place], drawn[place])  # refuses it, and says where
    shape = (len(rows), len(coalitions), values.shape[1], game.players.count)
    slopes = torch.zeros(shape, dtype=torch.float64, device=game.device)
    for target in range(shape[2]):
        gradients = _gradients(game, values[:, target], points, keep=target + 1 < shape[2])
        for gradient, step, label in zip(gradients, steps, game.players.labels, strict=True):
            if gradient is not None:  # who does not move adds nothing, however steep it is
                along = (gradient.unflatten(0, shape[:2]).double() * step).where(step != 0, 0)
                slopes[:, :, target].index_add_(2, label.flatten(), along.flatten(2))
    _refuse_not_finite(game, rows, coalitions, slopes)
    return values.detach().unflatten(0, shape[:2]), slopes


def _gradients(game: Game, values: Tensor, points: list[Tensor], *, keep: bool) -> tuple[Tensor | None, ...]:
    """The derivatives of values (M,) by the points, None where autograd sees none; `keep` the graph for another target."""
    if not values.requires_grad:
        return (None,) * len(points)
    try:
        return torch.autograd.grad(values.sum(), points, retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{game.model.name} cannot be differentiated by its input: {reason}. Use {INSTEAD}.") from error


def _refuse_not_finite(game: Game, rows: Tensor, coalitions: Tensor, slopes: Tensor) -> None:
    bad = (~slopes.isfinite()).nonzero()
    if not len(bad):
        return
    row, coalition, target, player = bad[0].tolist()
    present = coalitions[coalition].nonzero().flatten().tolist()
    listed = f" ({', '.join(map(str, present[:8]))}{', ...' if len(present) > 8 else ''})" if present else ""
    raise NumericsError(
        f"the gradient is {'NaN' if bool(slopes[row, coalition, target, player].isnan()) else 'infinite'} along player "
        f"{player} for {_place(game, rows, row, target)}, with {len(present)} of {game.players.count} players present{listed}, "
        f"the others at the baseline, in {game.dtype}. Look there for a root, norm, logarithm or division that has no slope; "
        f"choose another baseline, or use {INSTEAD}."
    )


def _place(game: Game, rows: Tensor, row: int, target: int) -> str:
    index = tuple(game.targets.index[int(rows[row]) % len(game.targets.index), target].tolist())
    return f"row {int(rows[row])}" + (f" and output {index[0] if len(index) == 1 else index}" if index else "")


def _refuse_whole_numbers(game: Game) -> None:
    for i, x in enumerate(game.inputs):
        if not x.is_floating_point():
            raise InputError(
                f"input {i} holds {x.dtype}: whole numbers (token ids, categories) have no gradient. Use {INSTEAD}; or explain "
                "the embeddings that the model looks up; or pass what is not to be explained as additional_forward_args."
            )


def _at_once(game: Game) -> int:
    """How many rows times pairs go through the model together; measured on one row, with all targets."""
    one = torch.ones(1, game.players.count, dtype=torch.float64, device=game.device)
    row = torch.zeros(1, dtype=torch.int64, device=game.device)
    game.base_values  # noqa: B018 - evaluated once for all, so not measured
    each = WORKSPACE * peak_bytes(lambda: _Sums(game, row, 2 * one[0], behind=1).add(one.bool(), one, row))
    if each > game.memory:
        raise MemoryBoundError(
            f"gradients of one row at a coalition and its complement need {each / 2**20:,.3g} MiB, and the memory bound is "
            f"{game.memory / 2**20:,.3g} MiB. Raise memory=, or ask for fewer targets at once."
        )
    memory = min(game.memory, max(CPU_BYTES, each)) if game.device.type == "cpu" else game.memory
    return min(LARGEST_CHUNK, int(memory / each))


def _differentiable_recurrence(game: Game) -> AbstractContextManager[None]:
    """cuDNN differentiates recurrent layers in training mode only; torch's own kernels do so in evaluation mode too."""
    source = game.model.source
    if isinstance(source, nn.Module) and any(isinstance(layer, nn.RNNBase) for layer in source.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()
