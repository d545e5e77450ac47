"""What a check of a rule found."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DaspError


class RuleError(DaspError, AssertionError):
    """A moment rule does not do what its operation does; the message lists every failed check with its numbers."""


class CheckFailed(Exception):
    """One check found a fault; its message says which."""


@dataclass(frozen=True)
class Measured:
    """How far a rule is from its operation, in the largest standard deviation of the result.

    Attributes:
        mean: largest error of a mean.
        deviation: largest error of a standard deviation.
        covariance: largest error of a covariance with one of the standard normal factors; 0 where none was given.
        noise: largest standard error of the Monte Carlo means that the rule was compared with; 0 for a matrix.
    """

    mean: float
    deviation: float
    covariance: float
    noise: float

    def worst(self, other: Measured) -> Measured:
        """The larger of both, figure by figure."""
        return Measured(
            max(self.mean, other.mean),
            max(self.deviation, other.deviation),
            max(self.covariance, other.covariance),
            max(self.noise, other.noise),
        )


@dataclass(frozen=True)
class CheckResult:
    """One check of one sample.

    Attributes:
        check: its name, one of `dasp.testing.CHECKS`.
        sample: the arguments it ran on.
        passed: True, False, or None where it does not apply.
        message: what was wrong, or why the check does not apply.
    """

    check: str
    sample: str
    passed: bool | None
    message: str = ""


@dataclass(frozen=True)
class RuleReport:
    """What `dasp.testing.check_rule` found.

    Attributes:
        op: the operation.
        exact: whether its rule claims mean and variance to be exact for all of the samples.
        measured: its largest errors; None where no sample could be measured.
        checks: every check of every sample.
    """

    op: str
    exact: bool
    measured: Measured | None
    checks: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(one for one in self.checks if one.passed is False)

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return not self.failures

    def __str__(self) -> str:
        kind = "exact" if self.exact else "approximate"
        done = [one for one in self.checks if one.passed is not None]
        lines = [f"{self.op} ({kind}): {len(done)} checks, {len(self.failures)} failed"]
        if self.measured is not None:
            found = self.measured
            lines.append(
                f"  largest errors, in the result's largest standard deviation: mean {found.mean:.2g}, "
                f"standard deviation {found.deviation:.2g}, covariance {found.covariance:.2g} (noise {found.noise:.1g})"
            )
        lines += [f"  {one.check} [{one.sample}]: {one.message}" for one in self.failures]
        return "\n".join(lines)
