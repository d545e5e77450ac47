"""The table of moment rules: one `Rule` for every operation that may meet a random value.

A rule is looked up by its ATen overload, and registered once: registering an operation twice is an error.
Rules are made by the families in `dasp.rules.families`; write one by hand only where no family fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

Apply = Callable[..., Any]
"""`apply(context, *args, **kwargs)`: the arguments of the operation, some of them `Gaussian`; gives its random result."""

Owners = Callable[..., Any]
"""`owners(*args, **kwargs)`: the arguments with owner labels in place of values; gives labels, or None where players mix."""


@dataclass(frozen=True)
class Rule:
    """How one operation acts on a random value.

    Attributes:
        op: the ATen overload.
        exact: True if mean and variance are exact for a Gaussian argument.
        apply: the operation on random values.
        positions: the arguments that may be random; all others must be known values.
        many: True if several arguments may be random at once.
        owners: who owns each element of the result while every element depends on one player (0: nobody);
            None if the rule cannot tell.
        covers: given the arguments, whether the rule covers their known parts (an exponent, a dtype); None: always.
    """

    op: OpOverload
    exact: bool
    apply: Apply
    positions: tuple[int, ...] = (0,)
    many: bool = False
    owners: Owners | None = None
    covers: Callable[..., bool] | None = None

    def takes(self, random: Sequence[int]) -> bool:
        """Whether the arguments at the positions `random` may be random."""
        return set(random) <= set(self.positions) and (self.many or len(random) == 1)

    def accepts(self, random: Sequence[int], args: Sequence[Any], options: Mapping[str, Any]) -> bool:
        """Whether the rule covers a call with these arguments, of which those at the positions `random` are random."""
        return self.takes(random) and (self.covers is None or self.covers(*args, **options))


class RuleTable:
    """The rules known to dasp, by operation."""

    def __init__(self) -> None:
        self._rules: dict[OpOverload, Rule] = {}

    def add(self, rule: Rule) -> None:
        """Register a rule.

        Raises:
            ValueError: the operation has a rule already.
        """
        if rule.op in self._rules:
            raise ValueError(f"{rule.op} has a moment rule already; change that one instead of adding a second")
        self._rules[rule.op] = rule

    def find(self, op: object) -> Rule | None:
        """The rule of an operation, or None."""
        return self._rules.get(op) if isinstance(op, OpOverload) else None

    def ops(self) -> tuple[OpOverload, ...]:
        """All operations with a rule, in the order of registration."""
        return tuple(self._rules)


RULES = RuleTable()
