"""DeepLIFT RevealCancel against its published definition, worked examples, captum, shap and exact Shapley values."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.experiments.methods.reveal_cancel import RESCALE, REVEAL_CANCEL, chain, deep_lift
from dasp.experiments.problem import Unsupported

RULES = list(itertools.product((REVEAL_CANCEL, RESCALE), repeat=2))


def layer(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
        made.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))
    return made


def first(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.long)


def explained(model: nn.Sequential, x: list[float], baseline: float | Tensor = 0.0, **rules: str) -> list[float]:
    return deep_lift(model, torch.tensor([x]).double(), first(1), baseline, **rules)[0].tolist()


def smaller() -> nn.Sequential:
    """min(x1, x2) = x1 - max(x1 - x2, 0) for positive x, the example of section 3.5.3."""
    return nn.Sequential(layer([[1.0, 0.0], [1.0, -1.0]]), nn.ReLU(), layer([[1.0, -1.0]]))


@pytest.mark.parametrize("x", [[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [0.5, 4.0]])
def test_the_minimum_of_two_is_shared_as_in_the_paper(x: list[float]) -> None:
    assert explained(smaller(), x) == pytest.approx([min(x) / 2] * 2)


@pytest.mark.parametrize(("x", "shares"), [([3.0, 1.0], [0.0, 1.0]), ([1.0, 3.0], [1.0, 0.0]), ([2.0, 2.0], [2.0, 0.0])])
def test_rescale_gives_all_of_it_to_one_the_smaller_if_there_is_one_as_in_the_paper(
    x: list[float], shares: list[float]
) -> None:
    assert explained(smaller(), x, dense=RESCALE) == pytest.approx(shares)


def test_one_neuron_by_hand() -> None:
    # y = max(x1 + x2 - 1, 0) at (3, -1) from 0: x0 = -1, d+ = 3, d- = -1.
    # d+ of y = (max(2) - max(-1) + max(1) - max(-2)) / 2 = 1.5;  d- of y = (max(-2) - max(-1) + max(1) - max(2)) / 2 = -0.5
    neuron = nn.Sequential(layer([[1.0, 1.0]], [-1.0]), nn.ReLU())
    assert explained(neuron, [3.0, -1.0]) == pytest.approx([1.5, -0.5])
    # Rescale: 1 / 2 of each, as y rises by 1 where its input rises by 2.
    assert explained(neuron, [3.0, -1.0], dense=RESCALE) == pytest.approx([1.5, -0.5])
    # At (4, -2): d+ of y = (3 + 1) / 2, d- of y = (0 - 2) / 2, and Rescale gives (4, -2) / 2.
    assert explained(neuron, [4.0, -2.0]) == pytest.approx([2.0, -1.0])
    # At (5, -2) from (1, 1): x0 = 1, d+ = 4, d- = -3: d+ of y = (4 + 2) / 2, d- of y = (-1 - 3) / 2.
    assert explained(neuron, [5.0, -2.0], torch.ones(2)) == pytest.approx([3.0, -2.0])
    assert explained(neuron, [5.0, -2.0], torch.ones(2), dense=RESCALE) == pytest.approx([4.0, -3.0])


def test_a_maximum_by_hand() -> None:
    pool = nn.Sequential(nn.MaxPool1d(2), nn.Flatten())
    baseline = torch.tensor([[3.0, 0.0]]).double()

    def found(x: list[float]) -> list[float]:
        return deep_lift(pool, torch.tensor([[x]]).double(), first(1), baseline).flatten().tolist()

    assert found([1.0, 5.0]) == [0.0, 2.0]  # 5 instead of 3: the winner at x brings 2 of the 5 it rose
    assert found([1.0, 2.0]) == [-1.0, 0.0]  # 2 instead of 3: the winner at the baseline loses 1 of the 2 it fell
    assert found([3.0, 2.0]) == [0.0, 0.0]


Parts = list[tuple[float, float, float]]  # at the baseline, d+, d-


def published(weights: list[Tensor], biases: list[Tensor], x: Tensor, baseline: Tensor) -> list[float]:
    """Sections 3.3 and 3.5.1 to 3.5.3, one scalar after the other: dense layers with ReLUs between, the first output."""

    def f(value: float) -> float:
        return max(value, 0.0)

    def halved(start: float, part: float, other: float) -> float:
        """Mean effect of adding `part` before and after `other`."""
        return (f(start + part) - f(start)) / 2 + (f(start + other + part) - f(start + other)) / 2

    def rate(start: float, part: float, other: float, sign: int) -> float:
        step = part if part else sign * 2.0**-20
        return halved(start, step, other) / step

    values: Parts = [(float(b), max(float(a - b), 0.0), min(float(a - b), 0.0)) for a, b in zip(x, baseline, strict=True)]
    back: list[Callable[[list[tuple[float, float]]], list[tuple[float, float]]]] = []
    for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if depth:
            inputs = values
            values = [(f(s), halved(s, p, m), halved(s, m, p)) for s, p, m in inputs]

            def nonlinear(m: list[tuple[float, float]], inputs: Parts = inputs) -> list[tuple[float, float]]:
                return [
                    (plus * rate(start, up, down, 1), minus * rate(start, down, up, -1))
                    for (plus, minus), (start, up, down) in zip(m, inputs, strict=True)
                ]

            back.append(nonlinear)
        inputs, w = values, weight.tolist()
        values = []
        for row, b in zip(w, bias.tolist(), strict=True):
            terms = [weight * (up + down) for weight, (_, up, down) in zip(row, inputs, strict=True)]
            start = b + sum(weight * s for weight, (s, _, _) in zip(row, inputs, strict=True))
            values.append((start, sum(t for t in terms if t > 0), sum(t for t in terms if t < 0)))

        def linear(m: list[tuple[float, float]], inputs: Parts = inputs, w: list[list[float]] = w) -> list[tuple[float, float]]:
            found = []
            for i, (_, up, down) in enumerate(inputs):
                both = 0.0
                for row, (plus, minus) in zip(w, m, strict=True):
                    term = row[i] * (up + down)
                    both += row[i] * (plus if term > 0 else minus if term < 0 else (plus + minus) / 2)
                found.append((both, both))
            return found

        back.append(linear)
    multipliers = [(1.0, 1.0) if output == 0 else (0.0, 0.0) for output in range(len(values))]
    for step in reversed(back):
        multipliers = step(multipliers)
    differences = (x - baseline).tolist()
    return [d * (plus if d > 0 else minus) for d, (plus, minus) in zip(differences, multipliers, strict=True)]


@pytest.mark.parametrize("whole", [False, True], ids=["random", "whole numbers, so that differences cancel"])
@pytest.mark.parametrize("seed", range(4))
def test_a_dense_network_against_the_definition_taken_literally(seed: int, whole: bool) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x, baseline = torch.randn(3, 4).double(), torch.randn(4).double()
    if whole:
        x, baseline = torch.randint(-2, 3, (3, 4)).double(), torch.tensor([0.0, 1.0, 0.0, -1.0]).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randint(-1, 2, weight.shape))
        hidden = model[:3](x) - model[:3](baseline)
        assert (hidden == 0).any()  # else the half weights and the limits would not be seen
    dense = [part for part in model if isinstance(part, nn.Linear)]
    weights, biases = [part.weight.detach() for part in dense], [part.bias.detach() for part in dense]
    expected = torch.tensor([published(weights, biases, row, baseline) for row in x], dtype=torch.float64)
    torch.testing.assert_close(deep_lift(model, x, first(3), baseline), expected, rtol=1e-9, atol=1e-9)


def networks() -> dict[str, tuple[nn.Sequential, Tensor]]:
    """Small networks with what the paper's networks have, and odder strides and windows than those."""
    torch.manual_seed(0)
    return {
        "dense": (
            nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
            torch.randn(5, 6),
        ),
        "lenet": (
            nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
            ),
            torch.randn(5, 1, 10, 10),
        ),
        "dna": (
            nn.Sequential(
                nn.Conv1d(4, 5, 3), nn.ReLU(), nn.Conv1d(5, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3),
            ),
            torch.randn(5, 4, 12),
        ),
        "odd": (
            nn.Sequential(
                nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2), groups=2, bias=False),
                nn.MaxPool2d(3, stride=1, padding=1), nn.ReLU(), nn.AvgPool2d(2, stride=1, padding=1), nn.ReLU(),
                nn.Sequential(nn.Conv2d(4, 3, 2, padding=1, padding_mode="reflect"), nn.ReLU()),
                nn.MaxPool2d(2, dilation=2, ceil_mode=True), nn.Flatten(), nn.Identity(), nn.LazyLinear(3),
            ),
            torch.randn(5, 2, 7, 9),
        ),
    }  # fmt: skip


@pytest.mark.parametrize(("dense", "conv"), RULES)
@pytest.mark.parametrize("name", ["dense", "lenet", "dna", "odd"])
def test_contributions_add_up_to_the_difference_of_the_output(name: str, dense: str, conv: str) -> None:
    model, x = networks()[name]
    model(x)  # the lazy layer learns its width
    model, x = model.double().eval(), x.double()
    targets = torch.arange(5) % 3
    for baseline in (0.0, torch.randn(x.shape[1:]).double(), torch.randn(x.shape).double()):
        found = deep_lift(model, x, targets, baseline, dense=dense, conv=conv)
        start = torch.as_tensor(baseline).double().expand_as(x)
        expected = (model(x) - model(start)).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(found.flatten(1).sum(1), expected, rtol=1e-11, atol=1e-12)
        assert found.isfinite().all()
    alone = torch.cat([deep_lift(model, x[i : i + 1], targets[i : i + 1], dense=dense, conv=conv) for i in range(5)])
    torch.testing.assert_close(alone, deep_lift(model, x, targets, dense=dense, conv=conv))


def test_in_single_precision_a_large_offset_costs_little() -> None:
    model, x = networks()["lenet"]
    rough = deep_lift(model, x, first(5), 30.0)
    fine = deep_lift(copy.deepcopy(model).double(), x.double(), first(5), 30.0)
    assert float((rough - fine).norm() / fine.norm()) < 1e-5


@pytest.mark.parametrize("name", ["dense", "dna"])
def test_rescale_is_what_captum_has(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = networks()[name]
    model, x = model.double().eval(), x.double()
    baseline = torch.randn(1, *x.shape[1:]).double()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
        expected = captum.DeepLift(model).attribute(x.clone().requires_grad_(), baseline, 1).detach()
    found = deep_lift(model, x, first(5) + 1, baseline, dense=RESCALE, conv=RESCALE)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float((deep_lift(model, x, first(5) + 1, baseline) - found).norm() / found.norm()) > 0.05


def test_rescale_with_maxima_is_what_captum_has_where_no_relu_stands_before_them() -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 1))
    model, x, baseline = model.double(), torch.randn(4, 1, 10, 10).double(), torch.randn(1, 1, 10, 10).double()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
        expected = captum.DeepLift(model).attribute(x.clone().requires_grad_(), baseline, 0).detach()
    found = deep_lift(model, x, first(4), baseline, dense=RESCALE, conv=RESCALE)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_exact_where_each_neuron_meets_two_players_of_opposite_sign() -> None:
    torch.manual_seed(0)
    pairs = list(itertools.combinations(range(5), 2))
    x = torch.tensor([[1.0, 2.0, 0.5, 1.5, 3.0], [2.0, 0.1, 1.0, 0.3, 0.7]]).double()  # all above the baseline
    hidden, last = nn.Linear(5, len(pairs)).double(), nn.Linear(len(pairs), 1).double()
    with torch.no_grad():
        hidden.weight.zero_()
        for neuron, (i, j) in enumerate(pairs):
            up, down = torch.rand(2).double() + 0.1
            hidden.weight[neuron, i], hidden.weight[neuron, j] = up, -down
    model = nn.Sequential(hidden, nn.ReLU(), last)
    truth = dasp.Explainer(model, 0.0, method=dasp.Exact())(x).values
    assert isinstance(truth, Tensor)
    torch.testing.assert_close(deep_lift(model, x, first(2)), truth, rtol=1e-10, atol=1e-12)
    assert float((deep_lift(model, x, first(2), dense=RESCALE) - truth).norm() / truth.norm()) > 0.05


def test_which_relu_belongs_to_a_convolution() -> None:
    model, x = networks()["lenet"]
    everywhere, on_dense, on_conv, nowhere = (
        deep_lift(model, x, first(5), dense=dense, conv=conv)
        for dense, conv in ((REVEAL_CANCEL,) * 2, (REVEAL_CANCEL, RESCALE), (RESCALE, REVEAL_CANCEL), (RESCALE,) * 2)
    )
    for one, other in itertools.combinations((everywhere, on_dense, on_conv, nowhere), 2):
        assert float((one - other).norm() / other.norm()) > 0.01
    body = model[:6].append(nn.Flatten())
    torch.testing.assert_close(deep_lift(body, x, first(5), dense=RESCALE, conv=REVEAL_CANCEL), deep_lift(body, x, first(5)))
    dense, x = networks()["dense"]
    torch.testing.assert_close(deep_lift(dense, x, first(5), conv=RESCALE), deep_lift(dense, x, first(5)))


def test_a_module_used_twice_is_applied_twice() -> None:
    act, middle = nn.ReLU(), layer([[1.0, -1.0], [-2.0, 0.5]], [0.5, 0.25])
    again = nn.Sequential(middle, act, middle, act, layer([[1.0, 1.0]]))
    apart = nn.Sequential(*(copy.deepcopy(part) for _, part in chain(again)))
    assert len(chain(again)) == 5
    assert explained(again, [1.0, -3.0]) == explained(apart, [1.0, -3.0])
    assert sum(explained(again, [1.0, -3.0])) == pytest.approx(
        float((again(torch.tensor([1.0, -3.0]).double()) - again(torch.zeros(2).double())).detach())
    )


class Halved(nn.Linear):
    """A dense layer that is something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 1)), r"layer 1 \(GELU\)"),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), nn.Linear(4, 1)), r"layer 0\.1 \(Sigmoid\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), r"layer 1 \(Softmax\)"),
        (nn.Sequential(Halved(4, 1)), r"layer 0 \(Halved\)"),
        (nn.Sequential(nn.LSTM(4, 2)), r"layer 0 \(LSTM\)"),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2, return_indices=True)), r"layer 0 \(Unflatten\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), r"layer 1 \(Flatten from axis 0\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_rule_is_refused_by_name(model: nn.Sequential, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        deep_lift(model, torch.ones(2, 4), first(2))


def test_further_refusals() -> None:
    with pytest.raises(Unsupported, match=r"layer 0 \(MaxPool with return_indices\)"):
        deep_lift(nn.Sequential(nn.MaxPool1d(2, return_indices=True)), torch.ones(2, 1, 4), first(2))
    with pytest.raises(dasp.InputError, match="conv is 'rescale' or 'reveal-cancel', got 'both'"):
        deep_lift(nn.Sequential(nn.Linear(4, 1)), torch.ones(2, 4), first(2), conv="both")
