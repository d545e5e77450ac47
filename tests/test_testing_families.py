"""The conformance suite on linear maps and on rules written by hand: every kind of fault is caught by its check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dasp.gaussian import Gaussian, LinearMap
from dasp.rules import RULES, Context, Rule, linear
from dasp.testing import Random, check_rule

from .test_testing import HAAR, failed, haar_map, registry, sums

aten = torch.ops.aten

__all__ = ["registry"]  # a fixture that every test here uses


def of_haar(**parts: Callable[[Tensor], Tensor]) -> None:
    """The right map of `haar`, with some of its parts exchanged."""
    right = {"affine": haar_map, "homogeneous": haar_map, "squared": sums, "reach": sums}
    linear(HAAR)(lambda op, position, args: LinearMap(**(right | parts)))


@pytest.mark.parametrize(
    ("parts", "caught"),
    [
        ({"affine": lambda x: haar_map(x) + 0.1}, {"zero variance", "mean"}),
        ({"homogeneous": lambda x: haar_map(x) + 0.1}, {"covariance"}),
        ({"homogeneous": sums}, {"covariance"}),
        ({"squared": lambda v: 1.1 * sums(v)}, {"variance"}),
        ({"squared": haar_map}, {"shape", "variance"}),  # weights that are not squared: a negative variance
        ({"affine": lambda x: haar_map(x) * torch.ones(1, dtype=torch.float64)}, {"float32"}),
        ({"affine": lambda x: haar_map(x).double()}, {"float32"}),
        ({"affine": lambda x: haar_map(x) - haar_map(x).mean(0)}, {"rows", "mean"}),
        ({"squared": lambda v: sums(v).mean(0).expand_as(v)}, {"rows", "variance"}),
        ({"affine": lambda x: haar_map(x.detach())}, {"gradients"}),
        ({"reach": lambda x: x}, {"owners"}),  # claims that each element stays with its player
    ],
)
def test_a_fault_of_a_linear_map_is_caught_by_its_name(parts: dict[str, Any], caught: set[str]) -> None:
    of_haar()
    assert check_rule(HAAR, (Random((2, 6)),)).passed
    del RULES._rules[HAAR]
    of_haar(**parts)
    assert set(failed(HAAR, (Random((2, 6)),))) >= caught


@torch.library.custom_op("dasp_tests::gate", mutates_args=())
def gate(x: Tensor, y: Tensor) -> Tensor:
    return x * y + x


@gate.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


GATE = torch.ops.dasp_tests.gate.default
TWO = (Random((2, 4)), Random((2, 4)))


def gated(context: Context, x: Any, y: Any) -> Gaussian:
    """`X (Y + 1)` by the rules of sums and products; exact."""
    add, multiply = RULES.find(aten.add.Tensor), RULES.find(aten.mul.Tensor)
    assert add is not None
    assert multiply is not None
    more = add.apply(context, y, 1.0) if isinstance(y, Gaussian) else y + 1
    result: Gaussian = multiply.apply(context, x, more)
    return result


def test_a_rule_of_two_random_arguments_by_other_rules() -> None:
    RULES.add(Rule(GATE, True, gated, positions=(0, 1), many=True))
    x = torch.full((4,), 0.7, dtype=torch.float64)
    assert check_rule(GATE, [TWO, (Random((2, 4)), x), (x, Random((2, 4)))]).passed


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (lambda one: replace(one, mean=one.mean + 0.01), {"mean", "zero variance"}),
        (lambda one: replace(one, rest=1.1 * one.rest), {"variance"}),
        (lambda one: replace(one, factors=0.9 * one.factors), {"covariance"}),
        (lambda one: replace(one, mean=one.mean.double()), {"float32"}),
        (lambda one: replace(one, rest=one.rest + 0.1 * (one.rest - one.rest.mean(0))), {"rows"}),
        (lambda one: replace(one, mean=one.mean.detach()), {"gradients"}),
    ],
)
def test_a_fault_of_a_rule_written_by_hand_is_caught_by_its_name(fault: Callable[[Any], Gaussian], caught: set[str]) -> None:
    RULES.add(Rule(GATE, True, lambda context, x, y: fault(gated(context, x, y)), positions=(0, 1), many=True))
    assert set(failed(GATE, TWO)) >= caught
