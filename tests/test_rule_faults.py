"""Rules that fail, or cannot be differentiated, are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.rules import RULES, moves


@torch.library.custom_op("dasp_tests::backwards", mutates_args=())
def backwards(x: Tensor) -> Tensor:
    """An operation without a derivative."""
    return x.flip(1).clone()


@backwards.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Backwards(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.ops.dasp_tests.backwards(x * torch.arange(1.0, 5.0)).cumsum(1)[:, 1:2].tanh()


def test_a_rule_without_a_derivative_and_a_rule_that_fails() -> None:
    op = torch.ops.dasp_tests.backwards.default
    moves(op)
    explainer = dasp.Explainer(nn.Sequential(nn.Linear(8, 4), Backwards()), 0.0)
    with pytest.raises(dasp.RuleFault, match=r"cannot be differentiated.*register_autograd"):
        explainer(torch.randn(2, 8))
    rule = RULES._rules.pop(op)
    RULES.add(replace(rule, apply=lambda *args, **kwargs: 1 / 0))
    with pytest.raises(dasp.RuleFault, match=r"rule of dasp_tests.backwards.default failed in layer 1: ZeroDivisionError"):
        explainer(torch.randn(2, 8))
    RULES._rules.pop(op)  # every rule of the registry is measured elsewhere
