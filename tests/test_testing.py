"""The conformance suite: right rules pass, and every kind of fault is caught by the check that is named for it."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dasp
from dasp.gaussian import Gaussian, LinearMap
from dasp.rules import RULES, Context, Rule, elementwise, linear, moves
from dasp.special import Moments
from dasp.testing import AGAIN, CHECKS, Random, RuleError, Sample, check_rule, measure

aten = torch.ops.aten


@torch.library.custom_op("dasp_tests::cube", mutates_args=())
def cube(x: Tensor, scale: float) -> Tensor:
    return scale * x**3


@cube.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("dasp_tests::haar", mutates_args=())
def haar(x: Tensor) -> Tensor:
    """Differences and sums of neighbours, (..., 2n) to (..., 2n)."""
    return torch.cat((x[..., ::2] - x[..., 1::2], x[..., ::2] + x[..., 1::2]), -1)


@haar.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("dasp_tests::rotate", mutates_args=())
def rotate(x: Tensor) -> Tensor:
    return x.roll(1, -1)


@rotate.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


CUBE = torch.ops.dasp_tests.cube.default
HAAR = torch.ops.dasp_tests.haar.default
ROTATE = torch.ops.dasp_tests.rotate.default
CALL = (Random((2, 5)), 0.5)
Function = Callable[[Tensor, Tensor, float], Moments]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes away again."""
    before = RULES.ops()
    with monkeypatch.context() as patch:
        patch.setattr(RULES, "_rules", dict(RULES._rules))
        yield
    assert RULES.ops() == before


def right(m: Tensor, v: Tensor, scale: float) -> Moments:
    """scale X^3; exact. E = m^3 + 3 m v,  Var = 9 m^4 v + 36 m^2 v^2 + 15 v^3,  E g' = 3 (m^2 + v)."""
    return Moments(
        scale * (m**3 + 3 * m * v),
        scale**2 * (9 * m**4 * v + 36 * m**2 * v**2 + 15 * v**3),
        scale * 3 * (m**2 + v),
    )


def haar_map(x: Tensor) -> Tensor:
    return torch.cat((x[..., ::2] - x[..., 1::2], x[..., ::2] + x[..., 1::2]), -1)


def sums(x: Tensor) -> Tensor:
    both = x[..., ::2] + x[..., 1::2]
    return torch.cat((both, both), -1)


def of_cube(function: Function) -> None:
    elementwise(CUBE, exact=True)(function)


def failed(op: Any, samples: Any, **options: Any) -> dict[str, str]:
    """Names of the failed checks, with messages."""
    report = check_rule(op, samples, report_only=True, **options)
    return {one.check: one.message for one in report.failures}


# A user's own operation --------------------------------------------------------------------------------------------


class Cubes(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(8, 6), torch.nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.ops.dasp_tests.cube(torch.ops.dasp_tests.haar(self.first(x)), 0.7))


def test_a_rule_of_ones_own_is_registered_checked_and_explains() -> None:
    torch.manual_seed(0)
    model, x = Cubes(), torch.randn(4, 8)
    with pytest.raises(dasp.MissingRuleError, match=r"dasp_tests\.haar\.default"):
        dasp.Explainer(model, 0.0)(x)

    of_cube(right)

    @linear(HAAR)
    def wavelet(op: Any, position: int, args: Any) -> LinearMap:
        return LinearMap(affine=haar_map, homogeneous=haar_map, squared=sums, reach=sums)

    for report in (check_rule(CUBE, CALL), check_rule(HAAR, (Random((2, 6)),))):
        assert report.passed
        assert report.exact
    for prepared, tolerance in ((dasp.Propagation(nodes=8), 0.06), (dasp.Exact(), 0.0)):
        values = dasp.Explainer(model, 0.0, method=prepared)(x).values
        exact = dasp.Explainer(model, 0.0, method=dasp.Exact())(x).values
        assert (values - exact).norm() <= tolerance * exact.norm()


def test_moves_of_ones_own_need_what_torch_asks_for() -> None:
    """Values pass through the operation itself, which must have derivatives."""
    moves(ROTATE)
    found = failed(ROTATE, (Random((2, 3)),))
    assert set(found) == {"gradients", "gradients without variance"}
    assert "autograd" in found["gradients"]
    moves(aten.rot90.default, run=lambda x, *a: torch.rot90(x, *a))
    check_rule(aten.rot90.default, (Random((2, 3, 3)), 1, [1, 2]))


def test_the_docstring_and_report_say_what_was_measured() -> None:
    of_cube(right)
    report = check_rule(CUBE, CALL)
    assert {one.check for one in report.checks} == set(CHECKS)
    applied = {one.check for one in report.checks if one.passed}
    assert set(CHECKS) - applied <= {"vmap"}
    assert report.measured is not None
    assert 0 < report.measured.noise < 0.01
    assert report.measured.mean < 0.05
    assert str(report).startswith("dasp_tests.cube.default (exact): 14 checks, 0 failed")


# Faults, each caught by its check ----------------------------------------------------------------------------------


def wrong_mean(m: Tensor, v: Tensor, scale: float) -> Moments:
    return replace(right(m, v, scale), mean=scale * m**3)


def wrong_variance(m: Tensor, v: Tensor, scale: float) -> Moments:
    return replace(right(m, v, scale), var=scale**2 * (9 * m**4 * v + 36 * m**2 * v**2 + 6 * v**3))


def wrong_slope(m: Tensor, v: Tensor, scale: float) -> Moments:
    return replace(right(m, v, scale), slope=scale * 3 * m**2)


def wrong_gradient(m: Tensor, v: Tensor, scale: float) -> Moments:
    return right(m, v.detach(), scale)


def wrong_at_zero(m: Tensor, v: Tensor, scale: float) -> Moments:
    moments = right(m, v, scale)
    return replace(moments, mean=moments.mean * v / v)


def gradient_wrong_at_zero(m: Tensor, v: Tensor, scale: float) -> Moments:
    moments = right(m, v, scale)
    return replace(moments, mean=moments.mean + 0 * v.sqrt())


def off_at_zero(m: Tensor, v: Tensor, scale: float) -> Moments:
    """A floor on variances, as in the program of 2019."""
    return right(m, v + 1e-4, scale)


def follows_the_batch(m: Tensor, v: Tensor, scale: float) -> Moments:
    moments = right(m, v, scale)
    return replace(moments, mean=moments.mean + 1e-3 * (v * (v - v.mean())))


def widens(m: Tensor, v: Tensor, scale: float) -> Moments:
    moments = right(m.double(), v.double(), scale)
    return moments


def coarse(m: Tensor, v: Tensor, scale: float) -> Moments:
    """Variance by subtraction of large numbers."""
    moments = right(m, v, scale)
    return replace(moments, var=(moments.var + 1e4) - 1e4)


def in_place(m: Tensor, v: Tensor, scale: float) -> Moments:
    moments = right(m, v, scale)
    with torch.no_grad():
        m.mul_(2)
    return moments


@pytest.mark.parametrize("op", [cube, torch.ops.dasp_tests.cube, torch.nn.functional.relu])
def test_a_rule_for_what_is_no_overload_is_refused(op: Any) -> None:
    """It would be looked up by its overload, and never found."""
    with pytest.raises(dasp.InputTypeError, match=r"belongs to an overload.*<namespace>\.<name>\.default"):
        elementwise(op, exact=True)(right)


@pytest.mark.parametrize(
    ("function", "caught", "only"),
    [
        (wrong_mean, {"mean"}, False),
        (wrong_variance, {"variance"}, True),
        (wrong_slope, {"covariance"}, True),
        (wrong_gradient, {"gradients"}, True),
        (wrong_at_zero, {"zero variance", "gradients without variance"}, False),
        (gradient_wrong_at_zero, {"gradients without variance"}, True),
        (off_at_zero, {"zero variance"}, False),
        (follows_the_batch, {"rows"}, False),
        (widens, {"float32"}, True),
        (coarse, {"float32"}, True),
        (in_place, {"untouched"}, False),
    ],
)
def test_a_fault_is_caught_by_its_name(function: Function, caught: set[str], only: bool) -> None:
    of_cube(function)
    found = failed(CUBE, CALL)
    assert set(found) >= caught
    if only:  # the variance of a wrong slope or of a wrong variance is wrong for a player with two states, too
        assert set(found) <= caught | {"dominant player"}


def test_the_error_lists_all_faults_with_numbers() -> None:
    def twice_wrong(m: Tensor, v: Tensor, scale: float) -> Moments:
        return replace(wrong_slope(m, v, scale), mean=scale * m**3)

    of_cube(twice_wrong)
    with pytest.raises(RuleError) as caught:
        check_rule(CUBE, [CALL, (Random((3, 2), shift=2.0), 1.0)])
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, dasp.DaspError)
    text = str(caught.value)
    assert text.startswith("dasp_tests.cube.default (exact): ")
    for line in ("mean [(2,5), 0.5]: mean: off by ", "covariance [(3,2), 1.0]: covariance with a factor: off by "):
        assert line in text
    for word in ("found ", "expected ", "allowed "):
        assert word in text


def test_nan_is_named_with_its_place() -> None:
    of_cube(wrong_at_zero)
    assert failed(CUBE, CALL)["zero variance"] == "mean: not finite in 10 of 10 elements, nan at (0, 0)"


def rule_of(op: Any, apply: Callable[..., Any], **options: Any) -> None:
    RULES._rules.pop(op, None)
    RULES.add(Rule(op, True, apply, **options))


def half(context: Context, value: Gaussian, by: float) -> Gaussian:
    factors = None if value.factors is None else value.factors / by
    return Gaussian(value.mean / by, factors, value.rest / by**2)


def test_affine_rules_are_compared_to_rounding() -> None:
    rule_of(aten.div.Scalar, half, owners=lambda labels, by: labels)
    check_rule(aten.div.Scalar, (Random((2, 3)), 3.0))

    def slightly_off(context: Context, value: Gaussian, by: float) -> Gaussian:
        right = half(context, value, by)
        return replace(right, rest=right.rest * (1 + 1e-6))

    rule_of(aten.div.Scalar, slightly_off)
    assert set(failed(aten.div.Scalar, (Random((2, 3)), 3.0))) == {"variance"}


def test_rules_that_lose_factors_or_shape_are_named() -> None:
    rule_of(aten.div.Scalar, lambda c, x, by: Gaussian(x.mean / by, None, x.var / by**2))
    assert failed(aten.div.Scalar, (Random((2, 3)), 3.0))["shape"] == "the rule drops the factors of its arguments"
    rule_of(aten.div.Scalar, lambda c, x, by: half(c, Gaussian(x.mean[:, :1], x.factors, x.rest), by))
    assert "the operation gives (2, 3) float64" in failed(aten.div.Scalar, (Random((2, 3)), 3.0))["shape"]
    rule_of(aten.div.Scalar, half, positions=(1,))
    assert "positions are [1]" in failed(aten.div.Scalar, (Random((2, 3)), 3.0))["shape"]


def test_a_rule_that_only_holds_with_factors_is_caught() -> None:
    def needs_factors(context: Context, value: Gaussian, by: float) -> Gaussian:
        return half(context, value if value.factors is not None else replace(value, rest=2 * value.rest), by)

    rule_of(aten.div.Scalar, needs_factors)
    assert set(failed(aten.div.Scalar, (Random((2, 3)), 3.0))) == {"no factors"}


def test_wrong_owners_are_caught() -> None:
    rule_of(aten.flip.default, lambda c, x, dims: Gaussian(
        x.mean.flip(dims), None if x.factors is None else x.factors.flip([d + 1 for d in dims]), x.rest.flip(dims)
    ), owners=lambda labels, dims: labels)  # fmt: skip
    found = failed(aten.flip.default, (Random((2, 3)), [1]))
    assert set(found) == {"owners"}
    assert found["owners"] == "element (0, 2) of the result changes with player 1, and the rule says that 3 owns it"


def test_conditioning_that_does_harm_is_caught() -> None:
    """A rule that conditions with the probabilities of presence and absence exchanged."""
    rule = RULES.find(aten.relu.default)
    assert rule is not None

    def exchanged(context: Context, value: Gaussian) -> Any:
        presence = context.law.factor_presence
        law = context.law if presence is None else replace(context.law, factor_presence=1 - presence)  # type: ignore[type-var]
        return rule.apply(replace(context, law=law), value)

    rule_of(aten.relu.default, exchanged)
    assert set(failed(aten.relu.default, (Random((2, 5)),))) == {"dominant player"}


def test_wrong_results_under_vmap_are_caught() -> None:
    def mean_free(context: Context, value: Gaussian, by: float) -> Gaussian:
        nested = torch._C._functorch.is_batchedtensor(value.mean)
        return half(context, value, -by if nested else by)

    rule_of(aten.div.Scalar, mean_free)
    assert set(failed(aten.div.Scalar, (Random((2, 3)), 3.0))) == {"vmap"}


# Samples -----------------------------------------------------------------------------------------------------------


def test_approximate_rules_pass_within_their_tolerance_only() -> None:
    def rough(context: Context, value: Gaussian, by: float) -> Gaussian:
        right = half(context, value, by)
        return replace(right, mean=right.mean + 0.1 * value.var.clamp(min=1e-12).sqrt() / by)

    rule_of(aten.div.Scalar, rough)
    call = (Random((2, 4)), 2.0)
    assert set(failed(aten.div.Scalar, call, tolerance=0.101)) <= {"zero variance"}
    assert set(failed(aten.div.Scalar, call, tolerance=0.099)) >= {"mean"}


def test_samples_of_every_form() -> None:
    check_rule(aten.mul.Tensor, (Random((2, 5)), AGAIN))
    alone = Sample(([torch.ones(1).double(), Random((2,))],), rows=False)
    check_rule(aten.cat.default, [([Random((2, 3)), Random([2, 2])], 1), alone])
    check_rule(aten.log.default, (Random((2, 5), shift=5.0),), tolerance=0.1)
    check_rule(aten.abs.default, (Random((2, 5), shift=-3.0),), variances=(0.5,))
    check_rule(aten.add.Tensor, Sample((Random((2, 3)), Random((2, 3))), {"alpha": 0.5}))
    assert [float(v.mean.max()) < -3 for v in _drawn(Random((2, 5), shift=-3.0))] == [True]


def _drawn(place: Random) -> list[Gaussian]:
    from dasp.testing.samples import Case

    rule = RULES.find(aten.abs.default)
    assert rule is not None
    return Case(aten.abs.default, rule, Sample((place,))).draw((1.0,))


def test_measured_errors_are_those_of_the_rule() -> None:
    """A mean that is off by 0.3 standard deviations, a standard deviation by a tenth, loadings by a fifth."""

    def off(context: Context, value: Gaussian) -> Gaussian:
        assert value.factors is not None
        factors = 0.8 * value.factors
        return Gaussian(-value.mean + 0.3 * 2.0, -factors, 0.81 * value.var - factors.square().sum(0))

    rule_of(aten.neg.default, off)
    found = measure(aten.neg.default, (Random((2, 5)),), variances=(4.0,))
    assert found.mean == pytest.approx(0.3)
    assert found.deviation == pytest.approx(0.1)
    assert 0.05 < found.covariance < 0.2
    assert found.noise == 0


@pytest.mark.parametrize(
    ("op", "samples", "options", "error", "said"),
    [
        (aten.relu, (Random((2, 2)),), {}, dasp.InputTypeError, "expected an overload"),
        (aten.sort.default, (Random((2, 2)),), {}, dasp.MissingRuleError, "aten.sort.default has no moment rule"),
        (aten.relu.default, (torch.ones(2),), {}, dasp.InputError, "no random argument"),
        (aten.relu.default, (AGAIN,), {}, dasp.InputError, "no random argument"),
        (aten.relu.default, [], {}, dasp.InputError, "none given"),
        (aten.add.Tensor, (Random((2, 3)), Random((3,))), {}, dasp.InputError, "rows=False"),
        (aten.add.Tensor, (Random((2, 3)), torch.ones(3)), {}, dasp.InputTypeError, "float64"),
        (aten.relu.default, (Random((2, 2)),), {"skip": ["speed"]}, dasp.InputError, "no check 'speed'"),
        (aten.relu.default, (Random((2, 2)),), {"tolerance": -1.0}, dasp.InputError, "tolerance"),
        (aten.relu.default, (Random((2, 2)),), {"variances": (-1.0,)}, dasp.InputError, "variances"),
        (aten.relu.default, (Random((2, 2)),), {"monte_carlo": 10}, dasp.InputError, "1,000"),
    ],
)
def test_bad_calls_say_what_to_do(op: Any, samples: Any, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_rule(op, samples, **options)


def test_checks_can_be_left_out() -> None:
    of_cube(wrong_gradient)
    assert check_rule(CUBE, CALL, skip=("gradients",)).passed


# The page -----------------------------------------------------------------------------------------------------------


PAGE = (Path(__file__).parents[1] / "docs" / "rules.md").read_text()


def test_the_example_on_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/rules.md", "exec"), {"__name__": "__main__"})


def test_the_table_on_the_page_is_that_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the program adds the folder of the tests
    table = PAGE.split("<!-- rules:start -->\n")[1].split("\n<!-- rules:end -->")[0]
    program = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "rules.py"))
    assert table == program["table"](), "run python benchmarks/rules.py --new"
    kinds = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", table, re.MULTILINE))
    assert set(kinds) == {str(op) for op in RULES.ops()}
    assert kinds["aten.relu.default"] == kinds["aten.bmm.default"] == "exact"
    assert kinds["aten.tanh.default"] == "approximate"
    assert kinds["aten.div.Tensor"] == kinds["aten.pow.Tensor_Scalar"] == "exact or approximate"
    assert "| `aten.bmm.default`, several random arguments | approximate |" in table
    assert "not measured" not in table


def test_the_checks_on_the_page_are_those_that_run() -> None:
    part = PAGE.split("## Checking a rule")[1].split("## Every operation")[0]
    first = re.findall(r"^\| (`.*?`) \| ", part, re.MULTILINE)
    assert [name for cell in first for name in re.findall(r"`(.*?)`", cell)] == list(CHECKS)
