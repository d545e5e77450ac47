"""What a moment rule is asked, check by check."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ..gaussian import Gaussian
from ..rules import LinearRule
from .comparing import better, form_of, near
from .oracles import Truth, by_samples
from .oracles import truths as true_moments
from .report import CheckFailed, Measured
from .samples import FACTORS, Case, Law, Random, loadings, parts

ERRORS = 6.0  # standard errors that a result may be off
HEAVY = 20.0  # a standard error is widened by this times the relative standard error of the variance
UNSEEN = 10.0  # samples: an event of which so few are expected may have been missed
NARROW = 2e-5  # absolute and relative, in float32
SLOPES = (0.9, 0.2, 2.0)  # variances at which gradients are compared
MIXED = (0.0, 1.0)  # variances at which gradients must be finite
SHARE = 0.8  # of the variance, for the player that dominates
PRESENT = (0.3, 0.6)  # its probability, row after row
OWNED = 64  # players among which owners are checked


class Inapplicable(Exception):
    """A check has nothing to look at; its message says why."""


@dataclass(frozen=True)
class Trial:
    """The rule of one operation on one sample; every method but the properties is a check.

    A check returns where the rule passes.

    Raises:
        CheckFailed: the rule is at fault.
        Inapplicable: the check does not concern this rule or sample.
    """

    case: Case
    tolerance: float
    variances: tuple[float, ...]
    monte_carlo: int
    seed: int

    @cached_property
    def values(self) -> list[Gaussian]:
        """The random arguments."""
        return self.case.draw(self.variances, seed=self.seed)

    @cached_property
    def found(self) -> list[Gaussian]:
        """What the rule makes of them."""
        return self.case.moments(self.values)

    @cached_property
    def truth(self) -> list[Truth]:
        """What is true of them."""
        every = true_moments(self.case, self.values, samples=self.monte_carlo, seed=self.seed + 1)
        return every[: len(self.found)]

    @property
    def ran(self) -> bool:
        """Whether rule and oracle gave something to compare."""
        return "found" in self.__dict__ and "truth" in self.__dict__

    @property
    def measured(self) -> Measured:
        """The errors of the rule, whatever is allowed."""
        return self.against(self.truth)

    def against(self, truths: Sequence[Truth]) -> Measured:
        """The errors of the rule against an oracle."""
        worst = Measured(0.0, 0.0, 0.0, 0.0)
        for found, truth in zip(self.found, truths, strict=False):
            scale = truth.deviation
            worst = worst.worst(
                Measured(
                    *(
                        float(part.abs().max()) / scale
                        for part in (
                            found.mean - truth.mean,
                            found.var.sqrt() - truth.var.clamp(min=0).sqrt(),
                            loadings(found) - truth.covariance,
                            truth.mean_error,
                        )
                    )
                )
            )
        return worst

    # The result's form ---------------------------------------------------------------------------------------------

    def shape(self) -> None:
        """Every part has the shape and dtype of the operation's result, and the rule takes such a call."""
        sample = self.case.sample
        random = [i for i, a in enumerate(sample.args) if _holds(a)]
        filled = sample.filled(self.values)
        if not self.case.rule.accepts(random, filled, sample.options):
            raise CheckFailed(f"the rule takes no such call: random arguments at {random}, its positions are "
                              f"{list(self.case.rule.positions)}")  # fmt: skip
        if not self.found:
            raise CheckFailed("the rule gives no Gaussian")
        plain = self.case.run([value.mean for value in self.values])
        if len(self.found) > len(plain):
            raise CheckFailed(f"the rule gives {len(self.found)} results, the operation {len(plain)}")
        for found, wanted in zip(self.found, plain, strict=False):
            for name, part in (("mean", found.mean), ("rest", found.rest)):
                if part.shape != wanted.shape or part.dtype != wanted.dtype:
                    raise CheckFailed(f"the {name} is {form_of(part)}, the operation gives {form_of(wanted)}")
            if found.factors is None:
                raise CheckFailed("the rule drops the factors of its arguments")
            if found.factors.shape != (FACTORS, *wanted.shape):
                raise CheckFailed(f"the factors are {form_of(found.factors)}, expected ({FACTORS}, *{tuple(wanted.shape)})")
            if bool((found.rest < 0).any()):
                raise CheckFailed(f"a rest is negative: {float(found.rest.min()):.3g}")

    def untouched(self) -> None:
        """The rule leaves its arguments as they are."""
        values, before = (self.case.draw(self.variances, seed=self.seed) for _ in range(2))
        self.case.moments(values)
        for value, old in zip(values, before, strict=True):
            if not all(torch.equal(*pair) for pair in zip(parts(value), parts(old), strict=True)):
                raise CheckFailed("the rule changes its arguments in place")

    # Moments -------------------------------------------------------------------------------------------------------

    def zero_variance(self) -> None:
        """Without variance, the rule is its operation."""
        values = self.case.draw((0.0,), seed=self.seed)
        plain = self.case.run([value.mean for value in values])
        for found, wanted in zip(self.case.moments(values), plain, strict=False):
            near("mean", found.mean, wanted)
            near("factors", loadings(found), torch.zeros_like(loadings(found)))
            near("rest", found.rest, torch.zeros_like(wanted), 1e-14)

    def mean(self) -> None:
        """The mean, within six standard errors and the tolerance."""
        for found, truth in zip(self.found, self.truth, strict=True):
            near("mean", found.mean, truth.mean, self._allowed(truth.mean_error, truth, self.tolerance))

    def variance(self) -> None:
        """The variance, within six standard errors and three times the tolerance."""
        for found, truth in zip(self.found, self.truth, strict=True):
            allowed = self._allowed(truth.var_error, truth, 3 * self.tolerance, 2)
            near("variance", found.var, truth.var, allowed)

    def covariance(self) -> None:
        """The covariance with every shared factor, within six standard errors and the tolerance."""
        for found, truth in zip(self.found, self.truth, strict=True):
            allowed = self._allowed(truth.covariance_error, truth, self.tolerance)
            near("covariance with a factor", loadings(found), truth.covariance, allowed)

    def _allowed(self, error: Tensor, truth: Truth, share: float, power: int = 1) -> Tensor:
        """Of a matrix, rounding; of samples, their standard errors and what no sample may have seen.

        A standard error is itself too small where the tails are heavy, so it is widened by the relative error of the variance.
        """
        if not bool(truth.mean_error.any()):
            return torch.full_like(error, share * truth.deviation**power + 1e-10)
        heavy = 1 + HEAVY * (truth.var_error / truth.var.clamp(min=1e-300)).clamp(max=1.0)
        return ERRORS * heavy * error + (share + UNSEEN / self.monte_carlo) * truth.deviation**power

    # Gradients -----------------------------------------------------------------------------------------------------

    def gradients(self) -> None:
        """Derivatives of mean, factors and variance are those of finite differences."""
        leaves = [part.clone().requires_grad_() for value in self.case.draw(SLOPES, seed=self.seed) for part in parts(value)]

        def f(*flat: Tensor) -> tuple[Tensor, ...]:
            results = self.case.moments(_gaussians(flat))
            return tuple(part for one in results for part in (one.mean, loadings(one), one.var))

        try:
            torch.autograd.gradcheck(f, leaves, fast_mode=True, atol=1e-4)
        except GradcheckError as error:
            raise CheckFailed(" ".join(str(error).split())[:300]) from None

    def gradients_without_variance(self) -> None:
        """Derivatives are finite where some arguments have no variance."""
        leaves = [part.clone().requires_grad_() for value in self.case.draw(MIXED, seed=self.seed) for part in parts(value)]
        results = self.case.moments(_gaussians(leaves))
        total = torch.stack([one.mean.sum() + loadings(one).sum() + one.var.sum() for one in results]).sum()
        names = [name for _ in self.values for name in ("mean", "factors", "rest")]
        gradients = torch.autograd.grad(total + 0 * leaves[0].sum(), leaves, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None and not bool(gradient.isfinite().all()):
                count = int((~gradient.isfinite()).sum())
                raise CheckFailed(f"the derivative by the {name} is not finite in {count} of {gradient.numel()} elements")

    # Other forms of the same arguments -----------------------------------------------------------------------------

    def no_factors(self) -> None:
        """Arguments without factors give a result without, and the same as with factors of zero."""
        values = [replace(value, factors=torch.zeros_like(loadings(value))) for value in self.values]
        bare = [replace(value, factors=None) for value in values]
        for found, other in zip(self.case.moments(values), self.case.moments(bare), strict=True):
            if other.factors is not None:
                raise CheckFailed("arguments without factors give a result with factors")
            near("mean", other.mean, found.mean, 1e-12)
            near("rest", other.rest, found.var, 1e-12)

    def float32(self) -> None:
        """float32 gives float32, and float64's numbers to rounding."""

        def narrow(one: Any) -> Any:
            if isinstance(one, Tensor) and one.is_floating_point():
                return one.float()
            return torch.float32 if one is torch.float64 else one

        case = replace(self.case, sample=self.case.sample.mapped(narrow))
        small = [Gaussian(*(part.float() for part in parts(value))) for value in self.values]
        for wanted, found in zip(self.found, case.moments(small), strict=True):
            for name, one, other in zip(("mean", "factors", "rest"), parts(found), parts(wanted), strict=True):
                if one.dtype != torch.float32:
                    raise CheckFailed(f"the {name} of float32 arguments is {one.dtype}")
                near(f"{name} in float32", one.double(), other, NARROW + NARROW * other.abs())

    def rows(self) -> None:
        """A row gives the same alone as in a batch."""
        if not self.case.sample.rows:
            raise Inapplicable("the sample has no batch axis")
        for b in range(self.values[0].mean.shape[0]):
            one = slice(b, b + 1)
            values = [Gaussian(v.mean[one], loadings(v)[:, one], v.rest[one]) for v in self.values]
            for single, every in zip(self.case.moments(values), self.found, strict=True):
                near(f"mean of row {b} alone", single.mean, every.mean[one], 1e-12)
                near(f"factors of row {b} alone", loadings(single), loadings(every)[:, one], 1e-12)
                near(f"rest of row {b} alone", single.rest, every.rest[one], 1e-12)

    def vmap(self) -> None:
        """Where torch.vmap can run the rule, two sets of arguments give what each gives alone."""
        others = self.case.draw(self.variances, seed=self.seed + 7)
        pairs = zip((p for v in self.values for p in parts(v)), (p for v in others for p in parts(v)), strict=True)

        def f(*flat: Tensor) -> tuple[Tensor, ...]:
            return tuple(part for one in self.case.moments(_gaussians(flat)) for part in parts(one))

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # torch's own loop is right, and slower
                both = torch.vmap(f)(*(torch.stack(pair) for pair in pairs))
        except RuntimeError as error:  # dasp itself never runs a rule so, only the operations that moves and linear maps call
            raise Inapplicable(f"torch.vmap cannot run this rule: {' '.join(str(error).split())[:150]}") from None
        for i, found in enumerate((self.found, self.case.moments(others))):
            for one, wanted in zip(both, (part for result in found for part in parts(result)), strict=True):
                near("result under torch.vmap", one[i], wanted, 1e-12)

    # Two states ----------------------------------------------------------------------------------------------------

    def dominant_player(self) -> None:
        """For a dominant player with two states, a rule that conditions on it is right, or no farther off than without."""
        if not self.case.sample.rows:
            raise Inapplicable("the sample has no batch axis")
        batch = self.values[0].mean.shape[0]
        q = torch.tensor(PRESENT, dtype=torch.float64).repeat(batch)[:batch]
        law = Law(True, torch.stack((q, *[torch.full_like(q, 0.5)] * (FACTORS - 1))))
        values = [self._dominated(value) for value in self.values]
        found = self.case.moments(values, law)
        plain = self.case.moments(values)
        if all(torch.equal(a, b) for one, other in zip(found, plain, strict=True)
               for a, b in zip(parts(one), parts(other), strict=True)):  # fmt: skip
            raise Inapplicable("the rule does not condition on a player")
        several = by_samples(self.case, values, samples=self.monte_carlo, seed=self.seed + 2, presence=q)
        for one, other, truth in zip(found, plain, several, strict=False):
            allowed = self._allowed(truth.mean_error, truth, self.tolerance)
            better("mean", one.mean, other.mean, truth.mean, allowed)
            allowed = self._allowed(truth.var_error, truth, 3 * self.tolerance, 2)
            better("variance", one.var, other.var, truth.var, allowed)
            allowed = self._allowed(truth.covariance_error, truth, self.tolerance)
            better("covariance with a factor", loadings(one), loadings(other), truth.covariance, allowed)
        self._alone(law, values, q)

    def _dominated(self, value: Gaussian) -> Gaussian:
        """The same variances, most of each from factor 0; not at elements without variance."""
        var, sign = value.var, torch.where(loadings(value)[:1] < 0, -1.0, 1.0)
        first = sign * (SHARE * var).sqrt()
        others = loadings(value)[1:] * (0.5 * (1 - SHARE) * var / loadings(value)[1:].square().sum(0).clamp(min=1e-300)).sqrt()
        return Gaussian(value.mean, torch.cat((first, others)), 0.5 * (1 - SHARE) * var)

    def _alone(self, law: Law, values: Sequence[Gaussian], q: Tensor) -> None:
        """The same with that player alone random, against its two states."""
        alone, states = [], []
        for value in values:
            factors = torch.zeros_like(loadings(value))
            factors[0] = loadings(value)[0]
            alone.append(Gaussian(value.mean, factors, torch.zeros_like(value.rest)))
            p = q.reshape(-1, *[1] * (value.mean.dim() - 1))
            states.append((value.mean + factors[0] * ((1 - p) / p).sqrt(), value.mean - factors[0] * (p / (1 - p)).sqrt()))
        on, off = (self.case.run(list(state)) for state in zip(*states, strict=True))
        found, plain = self.case.moments(alone, law), self.case.moments(alone)
        for one, other, a, b in zip(found, plain, on, off, strict=False):
            p = q.reshape(-1, *[1] * (a.dim() - 1))
            var = p * (1 - p) * (a - b).square()
            most = float(var.max())
            better("mean of a player alone", one.mean, other.mean, p * a + (1 - p) * b, self.tolerance * most**0.5 + 1e-10)
            better("variance of a player alone", one.var, other.var, var, 3 * self.tolerance * most + 1e-10)

    def owners(self) -> None:
        """No element of the result changes with a player that does not own it."""
        shapes = [value.mean.shape for value in self.values]
        lead = 1 if self.case.sample.rows else 0
        told = False
        for players in (OWNED, 1):
            labels, start = [], 0
            for shape in shapes:
                size = shape[lead:].numel()
                label = (torch.arange(start, start + size) % players + 1).reshape(shape[lead:])
                labels.append(label.expand(shape))
                start += size
            result = self._labels(labels)
            if result is not None:
                told = True
                self._compare_owners(labels, result)
        if not told:
            raise Inapplicable("the rule names no owners")

    def _labels(self, labels: Sequence[Tensor]) -> list[Tensor] | None:
        """Owner labels that the rule gives the result, as the plan of a propagation asks for them."""
        rule, sample = self.case.rule, self.case.sample
        args = sample.filled(labels)
        if isinstance(rule, LinearRule) and rule.build is not None:
            random = [i for i, a in enumerate(sample.args) if _holds(a)]
            if len(random) > 1:
                return None
            owner = rule.build(args, dict(sample.options), random[0]).owners(args[random[0]])
            return None if owner is None else [owner]
        if rule.owners is None:
            return None

        def known(one: Any, given: Any) -> Any:
            is_known = isinstance(given, Tensor) and not isinstance(one, Random)
            return torch.zeros_like(given, dtype=torch.long) if is_known else given

        for i in rule.positions:
            if i < len(args):
                one, given = sample.args[i], args[i]
                listed = isinstance(given, (list, tuple))
                args[i] = [known(*pair) for pair in zip(one, given, strict=True)] if listed else known(one, given)
        result = rule.owners(*args, **sample.options)
        several = list(result) if isinstance(result, (list, tuple)) else [result]
        return None if any(one is None for one in several) else several

    def _compare_owners(self, labels: Sequence[Tensor], result: Sequence[Tensor]) -> None:
        centre = [value.mean for value in self.values]
        before = self.case.call(centre)
        for out, label in zip(before, result, strict=True):
            if label.shape != out.shape:
                raise CheckFailed(f"the owners have shape {tuple(label.shape)}, the result {tuple(out.shape)}")
        g = torch.Generator().manual_seed(self.seed)
        for player in sorted({int(p) for label in labels for p in label.unique()}):
            steps = [torch.randn(m.shape, generator=g, dtype=m.dtype).abs() for m in centre]
            moved = [m + step * (label == player) for m, step, label in zip(centre, steps, labels, strict=True)]
            for out, old, label in zip(self.case.call(moved), before, result, strict=True):
                wrong = (out != old) & (label != player)
                if bool(wrong.any()):
                    at = tuple(wrong.nonzero()[0].tolist())
                    raise CheckFailed(f"element {at} of the result changes with player {player}, and the rule says that "
                                      f"{int(label[at]) or 'nobody'} owns it")  # fmt: skip


def _holds(argument: Any) -> bool:
    """Whether an argument is random, or a list that holds a random one."""
    return any(isinstance(one, Random) for one in (argument if isinstance(argument, (list, tuple)) else [argument]))


def _gaussians(flat: Sequence[Tensor]) -> list[Gaussian]:
    return [Gaussian(*triple) for triple in zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
