"""The table of moment rules: one `Rule` for every operation that may meet a random value.

A rule is looked up by its ATen overload, and registered once: registering an operation twice is an error.
Rules are made by the families in `dasp.rules.families`; write one by hand only where no family fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

from ..errors import InputError, InputTypeError

Apply = Callable[..., Any]
"""`apply(context, *args, **kwargs)`: the arguments of the operation, some of them `Gaussian`; gives its random result."""

Owners = Callable[..., Any]
"""`owners(*args, **kwargs)`: the arguments with owner labels in place of values; gives labels, or None where players mix."""

ExactIf = Callable[[Sequence[int], Sequence[Any]], bool]
"""`exact_if(random, args)`: the positions of the random arguments, and all arguments, of which those are not to be read."""


@dataclass(frozen=True)
class Rule:
    """How one operation acts on a random value.

    Attributes:
        op: the ATen overload.
        exact: True if mean and variance are exact for a Gaussian argument (for several: jointly Gaussian, and independent but
            for the shared factors).
        apply: the operation on random values.
        positions: the arguments that may be random; all others must be known values.
        many: True if several arguments may be random at once.
        owners: who owns each element of the result while every element depends on one player (0: nobody);
            None if the rule cannot tell.
        covers: given the arguments, whether the rule covers their known parts (an exponent, a dtype); None: always.
        exact_if: whether one call is exact, for rules that are in some and not in others (a matrix product with a known
            matrix is, of two random ones it is not); None: `exact` holds for every call.
    """

    op: OpOverload
    exact: bool
    apply: Apply
    positions: tuple[int, ...] = (0,)
    many: bool = False
    owners: Owners | None = None
    covers: Callable[..., bool] | None = None
    exact_if: ExactIf | None = None

    def takes(self, random: Sequence[int]) -> bool:
        """Whether the arguments at the positions `random` may be random."""
        return set(random) <= set(self.positions) and (self.many or len(random) == 1)

    def accepts(self, random: Sequence[int], args: Sequence[Any], options: Mapping[str, Any]) -> bool:
        """Whether the rule covers a call with these arguments, of which those at the positions `random` are random."""
        return self.takes(random) and (self.covers is None or self.covers(*args, **options))

    def is_exact(self, random: Sequence[int], args: Sequence[Any]) -> bool:
        """Whether mean and variance are exact in a call with these arguments, of which those at the positions `random` are."""
        return self.exact if self.exact_if is None else self.exact_if(random, args)


def one_random(random: Sequence[int], args: Sequence[Any]) -> bool:
    """`exact_if` of an operation that is linear in each of its arguments: a product is exact with one random factor."""
    return len(random) == 1


class RuleTable:
    """The rules known to dasp, by operation."""

    def __init__(self) -> None:
        self._rules: dict[OpOverload, Rule] = {}

    def add(self, rule: Rule) -> None:
        """Register a rule.

        Raises:
            InputTypeError: the operation is no overload.
            InputError: it has a rule already.
        """
        if not isinstance(rule.op, OpOverload):
            raise InputTypeError(
                f"a rule belongs to an overload such as torch.ops.aten.relu.default, got {rule.op!r}. "
                "For an operation made by torch.library.custom_op, take torch.ops.<namespace>.<name>.default."
            )
        if rule.op in self._rules:
            raise InputError(f"{rule.op} has a moment rule already; change that one instead of adding a second.")
        self._rules[rule.op] = rule

    def find(self, op: object) -> Rule | None:
        """The rule of an operation, or None."""
        return self._rules.get(op) if isinstance(op, OpOverload) else None

    def ops(self) -> tuple[OpOverload, ...]:
        """All operations with a rule, in the order of registration."""
        return tuple(self._rules)


RULES = RuleTable()
