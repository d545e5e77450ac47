"""The checks that every moment rule must pass, and the one call that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch._ops import OpOverload

from ..errors import InputError, InputTypeError, MissingRuleError
from ..rules import RULES
from .checks import Inapplicable, Trial
from .oracles import by_quadrature, pointwise
from .report import CheckFailed, CheckResult, Measured, RuleError, RuleReport
from .samples import Case, Random, Sample

SAMPLES = 40_000
VARIANCES = (1.0, 0.0, 0.3, 4.0, 1e-4)
"""Of the elements of an argument, in turn, for a rule that allows no error."""
MODERATE = (0.5, 0.2, 0.0, 0.8, 0.4)
"""The same for an approximate rule, whose tolerance holds at such variances."""

CHECKS: dict[str, Callable[[Trial], None]] = {
    "shape": Trial.shape,
    "untouched": Trial.untouched,
    "zero variance": Trial.zero_variance,
    "mean": Trial.mean,
    "variance": Trial.variance,
    "covariance": Trial.covariance,
    "gradients": Trial.gradients,
    "gradients without variance": Trial.gradients_without_variance,
    "no factors": Trial.no_factors,
    "float32": Trial.float32,
    "rows": Trial.rows,
    "vmap": Trial.vmap,
    "dominant player": Trial.dominant_player,
    "owners": Trial.owners,
}
"""Every check by name, in the order they run."""


def check_rule(
    op: OpOverload,
    samples: Sample | Sequence[Any],
    *,
    tolerance: float = 0.0,
    variances: Sequence[float] | None = None,
    monte_carlo: int = SAMPLES,
    seed: int = 0,
    skip: Sequence[str] = (),
    report_only: bool = False,
) -> RuleReport:
    """Compare the moment rule of an operation with the operation itself.

    An affine operation is compared with its matrix, to rounding; any other with Monte Carlo in float64, within six
    standard errors and the tolerance. The checks are those of `dasp.testing.CHECKS`; docs/rules.md lists what each asks.

    Args:
        op: the overload, as `torch.ops.aten.relu.default`; its rule is looked up in `dasp.rules.RULES`.
        samples: one tuple of arguments, one `Sample`, or a list of both, with `Random` in place of random arguments.
        tolerance: error allowed to an approximate rule, in the largest standard deviation of the result, three times it
            in the largest variance. The rule must still be its operation where there is no variance.
        variances: of the elements of a random argument, in turn; default: wide for tolerance 0, else moderate.
        monte_carlo: number of samples, at least 1,000.
        seed: of the sampled arguments and of Monte Carlo.
        skip: names of checks to leave out.
        report_only: return the report of a rule that failed instead of raising.

    Raises:
        RuleError: the rule failed; lists all failed checks with numbers.
        MissingRuleError: the operation has no rule.
        InputError: a sample has no random argument, or an option has no such value.
        InputTypeError: `op` is no overload, or a known tensor of a sample is not in float64.

    >>> import torch
    >>> from dasp.testing import Random
    >>> check_rule(torch.ops.aten.neg.default, (Random((2, 3)),)).passed
    True
    """
    unknown = sorted(set(skip) - set(CHECKS))
    if unknown:
        raise InputError(f"skip: there is no check {unknown[0]!r}; the checks are {', '.join(CHECKS)}.")
    trials = _trials(op, samples, tolerance, variances, monte_carlo, seed)
    found: list[CheckResult] = []
    measured: Measured | None = None
    for trial in trials:
        results = [_run(name, check, trial) for name, check in CHECKS.items() if name not in skip]
        found += results
        if all(one.passed for one in results if one.check == "shape") and trial.ran:
            one = trial.measured
            measured = one if measured is None else measured.worst(one)
    report = RuleReport(str(op), all(trial.case.exact for trial in trials), measured, tuple(found))
    if not report.passed and not report_only:
        raise RuleError(str(report))
    return report


def measure(
    op: OpOverload,
    samples: Sample | Sequence[Any],
    *,
    variances: Sequence[float] = MODERATE,
    monte_carlo: int = SAMPLES,
    seed: int = 0,
) -> Measured:
    """The largest errors of a rule over samples of its operation, nothing else checked; options as in `check_rule`.

    Pointwise operations of one argument are measured by quadrature, so without noise.

    Raises:
        MissingRuleError, InputError, InputTypeError: as `check_rule`.
    """
    worst = Measured(0.0, 0.0, 0.0, 0.0)
    for trial in _trials(op, samples, 0.0, variances, monte_carlo, seed):
        smooth = pointwise(trial.case, [value.mean for value in trial.values])
        one = trial.against(by_quadrature(trial.case, trial.values)) if smooth else trial.measured
        worst = worst.worst(one)
    return worst


def _trials(
    op: OpOverload, samples: Any, tolerance: float, variances: Sequence[float] | None, monte_carlo: int, seed: int
) -> list[Trial]:
    if not isinstance(op, OpOverload):
        raise InputTypeError(
            f"op: expected an overload such as torch.ops.aten.relu.default, got {op!r}. "
            "For an operation made by torch.library.custom_op, take torch.ops.<namespace>.<name>.default."
        )
    rule = RULES.find(op)
    if rule is None:
        raise MissingRuleError(
            f"{op} has no moment rule. Register one first, with a family of dasp.rules.families; docs/rules.md shows how."
        )
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"tolerance: {tolerance} is not a number from 0.")
    if monte_carlo < 1000:
        raise InputError(f"monte_carlo: {monte_carlo} samples tell nothing; give at least 1,000.")
    if variances is None:
        variances = MODERATE if tolerance else VARIANCES
    if not variances or not all(0 <= v < float("inf") for v in variances):
        raise InputError("variances: expected one number from 0 or more.")
    listed = samples if isinstance(samples, list) else [samples]
    listed = [(one,) if isinstance(one, Random) else one for one in listed]
    if not listed:
        raise InputError("samples: none given.")
    several = [(one if isinstance(one, Sample) else Sample(tuple(one))).checked() for one in listed]
    return [Trial(Case(op, rule, one), tolerance, tuple(variances), monte_carlo, seed) for one in several]


def _run(name: str, check: Callable[[Trial], None], trial: Trial) -> CheckResult:
    shown = str(trial.case.sample)
    try:
        check(trial)
    except CheckFailed as fault:
        return CheckResult(name, shown, False, str(fault))
    except Inapplicable as reason:
        return CheckResult(name, shown, None, str(reason))
    except Exception as error:  # noqa: BLE001 - a rule under test may raise anything, and all faults are reported at once
        return CheckResult(name, shown, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return CheckResult(name, shown, True)
