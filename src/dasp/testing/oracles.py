"""What a rule is compared with: its operation's matrix where it is affine, samples of its operation otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .samples import FACTORS, Case, Random, loadings

CHUNK = 20_000  # samples at a time
LARGEST = 2_000  # elements of the arguments of which a matrix is made
AFFINE = 1e-9  # rounding allowed where an operation is called affine, relative
SCALES = (0.1, 1.0, 10.0, 100.0)  # of the steps that tell an affine operation from another


REACH = 9.0  # standard deviations that quadrature spans
NEAR = 5.0  # the same for arguments that are kept from 0, where the function may have a pole
POINTS = 100_001


@dataclass(frozen=True)
class Truth:
    """True moments of one result, and the standard error of each.

    Attributes:
        mean, var: (*out).
        covariance: with every factor, (R, *out).
        mean_error, var_error, covariance_error: standard errors; zeros for a matrix.
    """

    mean: Tensor
    var: Tensor
    covariance: Tensor
    mean_error: Tensor
    var_error: Tensor
    covariance_error: Tensor

    @property
    def deviation(self) -> float:
        """Largest standard deviation; 1 for a result that is known."""
        return float(self.var.max().sqrt()) or 1.0


def truths(case: Case, values: Sequence[Gaussian], *, samples: int, seed: int) -> list[Truth]:
    """True moments of every result of an operation, for random arguments with factors."""
    centre = [value.mean for value in values]
    if sum(m.numel() for m in centre) <= LARGEST and affine(case, centre):
        return by_matrix(case, values)
    return by_samples(case, values, samples=samples, seed=seed)


def affine(case: Case, centre: Sequence[Tensor]) -> bool:
    """Whether `f(x + u) + f(x + w) = f(x) + f(x + u + w)` for steps u, w of several sizes."""
    g = torch.Generator().manual_seed(11)

    def at(*steps: Sequence[Tensor]) -> Tensor:
        moved = [torch.stack((m, *one)).sum(0) for m, *one in zip(centre, *steps, strict=True)]
        return torch.cat([out.flatten() for out in case.run(moved)])

    for scale in SCALES:
        u, w = ([torch.randn(m.shape, generator=g, dtype=m.dtype) * scale for m in centre] for _ in range(2))
        terms = torch.stack((at(u), at(w), -at(), -at(u, w)))  # (4, elements)
        if not bool((terms.sum(0).abs() <= AFFINE * (1 + terms.abs().amax(0))).all()):
            return False
    return True


def by_matrix(case: Case, values: Sequence[Gaussian]) -> list[Truth]:
    """Exact moments of an affine operation, `A m + c`, `A L` and `A^2 rest`; A is read off unit vectors."""
    centre = [value.mean for value in values]
    sizes = [m.numel() for m in centre]
    at = torch.cat([m.flatten() for m in centre])

    def f(flat: Tensor) -> list[Tensor]:
        return case.run([part.reshape(m.shape) for part, m in zip(flat.split(sizes), centre, strict=True)])

    middle = f(at)
    units = torch.eye(len(at), dtype=at.dtype)
    columns = [[out - m for out, m in zip(f(at + unit), middle, strict=True)] for unit in units]
    factors = torch.cat([loadings(value).reshape(FACTORS, -1) for value in values], 1)  # (R, elements)
    rest = torch.cat([value.rest.flatten() for value in values])
    found = []
    for i, mean in enumerate(middle):
        matrix = torch.stack([column[i] for column in columns])  # (elements, *out)
        covariance = torch.tensordot(factors, matrix, 1)
        var = torch.tensordot(rest, matrix.square(), 1) + covariance.square().sum(0)
        found.append(Truth(mean, var, covariance, *map(torch.zeros_like, (mean, var, covariance))))
    return found


def pointwise(case: Case, centre: Sequence[Tensor]) -> bool:
    """Whether the operation has one argument, and each element of its result follows the same element of it only."""
    if len(centre) != 1 or sum(isinstance(one, Random) for one in case.sample.flat) != 1:
        return False
    before = case.run(centre)
    if len(before) != 1 or before[0].shape != centre[0].shape:
        return False
    for i in range(centre[0].numel()):
        step = torch.zeros_like(centre[0]).flatten()
        step[i] = 1.0
        changed = (case.run([centre[0] + step.reshape(centre[0].shape)])[0] != before[0]).flatten()
        changed[i] = False
        if bool(changed.any()):
            return False
    return True


def by_quadrature(case: Case, values: Sequence[Gaussian]) -> list[Truth]:
    """Moments of a pointwise operation by the trapezoid rule; covariances by Stein's lemma, `E[g (X - m)] / v` times a loading.

    Good to about 1e-8 of the standard deviation for continuous functions, 1e-4 for those that jump.
    """
    (value,) = values
    reach = NEAR if case.sample.places[0].shift else REACH
    t = torch.linspace(-reach, reach, POINTS, dtype=torch.float64)
    weight = torch.exp(-0.5 * t.square())
    weight = weight / weight.sum()
    deviation = value.var.sqrt()
    at = value.mean + deviation * t.reshape(-1, *[1] * value.mean.dim())  # (points, *s)
    out = case.run([at.flatten(0, 1)])[0].reshape(at.shape) if case.sample.rows else torch.stack([case.run([x])[0] for x in at])
    mean = torch.tensordot(weight, out, 1)
    var = torch.tensordot(weight, (out - mean).square(), 1)
    slope = torch.tensordot(weight * t, out - mean, 1) / deviation.where(deviation > 0, torch.ones_like(deviation))
    covariance = slope * loadings(value)
    return [Truth(mean, var, covariance, *map(torch.zeros_like, (mean, var, covariance)))]


def by_samples(
    case: Case, values: Sequence[Gaussian], *, samples: int, seed: int, presence: Tensor | None = None
) -> list[Truth]:
    """Monte Carlo.

    Args:
        case: the operation.
        values: its arguments, with factors.
        samples: how many, rounded up to whole chunks.
        seed: of the samples.
        presence: None for normal factors. Otherwise (rows,): factor 0 stands for a player that is present in a row with
            that probability, the other factors are normal.
    """
    g = torch.Generator().manual_seed(seed)
    several: list[_Sums] = []
    done = 0
    while done < samples:
        count = min(CHUNK, samples - done)
        z, results = _chunk(case, values, count, g, presence)
        if not several:
            several = [_Sums(out.mean(0)) for out in results]
        for sums, out in zip(several, results, strict=True):
            sums.add(out, z)
        done += count
    return [sums.truth(case.sample.rows) for sums in several]


def _chunk(
    case: Case, values: Sequence[Gaussian], count: int, g: torch.Generator, presence: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Factors (count, R, B) and results (count, B, *out); one row B = 1 holds all where there is no batch axis."""
    rows = case.sample.rows
    batch = values[0].mean.shape[0] if rows else 1
    z = torch.randn(count, FACTORS, batch, generator=g, dtype=torch.float64)
    if presence is not None:
        uniform = torch.rand(count, batch, generator=g, dtype=torch.float64)
        z[:, 0] = ((uniform < presence).double() - presence) / (presence * (1 - presence)).sqrt()
    draws = []
    for value in values:
        mean, factors, rest = (part if rows else part.unsqueeze(-value.mean.dim() - 1) for part in (
            value.mean, loadings(value), value.rest
        ))  # fmt: skip
        noise = torch.randn(count, *mean.shape, generator=g, dtype=torch.float64)
        draws.append(mean + torch.einsum("nrb,rb...->nb...", z, factors) + rest.sqrt() * noise)
    if rows:
        results = case.run([draw.flatten(0, 1) for draw in draws])
        return z, [out.reshape(count, batch, *out.shape[1:]) for out in results]
    single = [case.run([draw[0] for draw in one]) for one in zip(*draws, strict=True)]
    return z, [torch.stack(out).unsqueeze(1) for out in zip(*single, strict=True)]


class _Sums:
    """Sums over samples of a result around a centre near its mean, so that nothing cancels."""

    def __init__(self, centre: Tensor) -> None:
        self.centre = centre  # (B, *out)
        self.count = 0
        self.powers = [torch.zeros_like(centre) for _ in range(3)]  # first, second and fourth
        shape = (FACTORS, *centre.shape)
        self.cross = torch.zeros(shape, dtype=centre.dtype)
        self.cross_square = torch.zeros(shape, dtype=centre.dtype)

    def add(self, out: Tensor, z: Tensor) -> None:
        """Take in results (count, B, *out) and their factors (count, R, B)."""
        d = out - self.centre
        square = d.square()
        self.count += len(out)
        for total, power in zip(self.powers, (d, square, square.square()), strict=True):
            total += power.sum(0)
        self.cross += torch.einsum("nb...,nrb->rb...", d, z)
        self.cross_square += torch.einsum("nb...,nrb->rb...", square, z.square())

    def truth(self, rows: bool) -> Truth:
        """Moments; without a batch axis the one row goes."""
        n = self.count
        first, second, fourth = (total / n for total in self.powers)
        var = second - first.square()
        cross = self.cross / n
        spread = (var, fourth - second.square(), self.cross_square / n - cross.square())  # of one sample
        parts = (self.centre + first, var, cross, *((one.clamp(min=0) / n).sqrt() for one in spread))
        if rows:
            return Truth(*parts)
        return Truth(*(part.squeeze(1 if i in (2, 5) else 0) for i, part in enumerate(parts)))
