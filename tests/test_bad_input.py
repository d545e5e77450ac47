"""Bad input: each a clear error of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import dasp

NET = nn.Linear(4, 3)
X = torch.ones(2, 4)


def explain(
    x: Any = X, target: Any = 0, *, net: Any = NET, baseline: Any = 0.0, players: Any = None, **options: Any
) -> dasp.Attribution:
    return dasp.Explainer(net, baseline, method=dasp.Exact(), players=players, **options)(x, target)


def holding(value: float, *, where: tuple[int, ...], shape: tuple[int, ...] = (2, 4)) -> Tensor:
    x = torch.ones(shape)
    x[where] = value
    return x


@pytest.mark.parametrize("options", [{}, {"baseline": torch.zeros(5, 4)}, {"players": torch.arange(4)}])
@pytest.mark.parametrize("row", [X[0], torch.ones(3)])
def test_a_row_without_a_batch_axis(row: Tensor, options: Any) -> None:
    with pytest.raises(dasp.InputError, match="the model Linear fails on") as caught:
        explain(row, **options)
    assert ("give it a batch axis, as x[None]" in str(caught.value)) == (len(row) == 4)


class Words(nn.Module):
    """The mean of embedded ids, of which there are five."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(5, 3), nn.Linear(3, 1)

    def forward(self, ids: Tensor) -> Any:
        return self.last(self.words(ids).mean(1))


@pytest.mark.parametrize(("start", "baseline", "given"), [(1, torch.tensor([9, 7, 2]), "2 to 9"), (3, 0, "3 to 5")])
def test_ids_beyond_the_vocabulary(start: int, baseline: Any, given: str) -> None:
    ids = torch.arange(3).unsqueeze(0) + start
    said = f"given ids from {given}, and its embedding words holds 0 to 4: look at the inputs and at the baseline"
    with pytest.raises(dasp.InputError, match=said):
        explain(ids, None, net=Words(), baseline=baseline, players=dasp.players.tokens())


class Taking2(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.sum(-1) + b.sum(-1)


class Giving(nn.Module):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(x)


INPUTS: list[tuple[str, Any, type[Exception], str]] = [
    ("a string", "x", dasp.InputTypeError, "inputs: expected a tensor or a numpy array, got str"),
    ("a list", [X], dasp.InputTypeError, r"got list. Use torch.tensor\(...\), and a tuple for several inputs"),
    ("a table of pandas", pandas.DataFrame(X.numpy()), dasp.InputTypeError, r"got DataFrame. Use .to_numpy\(dtype='float32'\)"),
    ("an empty tuple", (), dasp.InputError, "the tuple is empty"),
    ("text in numpy", np.array([["a"] * 4]), dasp.InputTypeError, "holds no numbers"),
    ("sparse", X.to_sparse(), dasp.InputTypeError, "dense real tensor"),
    ("complex", X.to(torch.complex64), dasp.InputTypeError, "dense real tensor"),
    ("no batch axis", torch.tensor(1.0), dasp.InputError, "has no batch axis"),
    (
        "float64 for a float32 model",
        X.double(),
        dasp.InputError,
        r"inputs: torch.float64, .* Use x.to\(torch.float32\)",
    ),
    ("float16", X.half(), dasp.InputError, r"Use x.to\(torch.float32\)"),
    ("integers without players", X.long(), dasp.InputError, "torch.int64 without players"),
    ("another device", X.to("meta"), dasp.InputError, r"inputs: on meta, but the model is on cpu. Use x.to\('cpu'\)"),
    ("NaN", holding(float("nan"), where=(1, 2)), dasp.InputError, r"in 1 place\(s\), the first at \(1, 2\)"),
    ("infinity", holding(float("inf"), where=(0, 3)), dasp.InputError, r"first at \(0, 3\)"),
    ("an empty batch", torch.ones(0, 4), dasp.InputError, r"inputs: empty, shape \(0, 4\)"),
    ("no features", torch.ones(2, 0), dasp.InputError, r"inputs: empty, shape \(2, 0\)"),
]


@pytest.mark.parametrize(("x", "error", "message"), [case[1:] for case in INPUTS], ids=[case[0] for case in INPUTS])
def test_inputs(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(x)


def test_inputs_with_different_rows() -> None:
    with pytest.raises(dasp.InputError, match=r"inputs\[1\]: 3 rows, but inputs\[0\] has 2"):
        explain((torch.ones(2, 4), torch.ones(3, 4)), None, net=Taking2())


BASELINES: list[tuple[str, Any, type[Exception], str]] = [
    ("a string", "mean", dasp.InputTypeError, "baseline: expected a number, a tensor"),
    ("a bool", True, dasp.InputTypeError, "got bool"),
    ("None", None, dasp.InputTypeError, "got NoneType"),
    ("a table of pandas", pandas.DataFrame(X.numpy()), dasp.InputTypeError, r"got DataFrame. Use .to_numpy\("),
    ("integers of numpy", np.zeros((5, 4), dtype=np.int64), dasp.InputError, r"Use baseline.astype\('float32'\)"),
    ("wrong shape", torch.zeros(3), dasp.InputError, r"shape \(3,\) does not fit an input of shape \(2, 4\)"),
    ("a shape that would broadcast", torch.zeros(2, 1), dasp.InputError, "does not fit"),
    ("another number of rows", dasp.PerRow(torch.zeros(3, 4)), dasp.InputError, "one baseline for each row"),
    ("another dtype", torch.zeros(4).double(), dasp.InputError, r"Use baseline.to\(torch.float32\)"),
    ("integers", torch.zeros(4).long(), dasp.InputError, "torch.int64, but the input is torch.float32"),
    ("another device", torch.zeros(4, device="meta"), dasp.InputError, "baseline: on meta, but the input is on cpu"),
    ("NaN", float("nan"), dasp.InputError, "must be finite"),
    ("NaN in a tensor", holding(float("nan"), where=(2,), shape=(4,)), dasp.InputError, "baseline: holds NaN"),
    (
        "infinity in a tensor",
        holding(float("inf"), where=(2,), shape=(4,)),
        dasp.InputError,
        "baseline: holds NaN or inf",
    ),
    ("too many", (0.0, 0.0), dasp.InputError, r"2 baselines for 1 input\(s\)"),
]


@pytest.mark.parametrize(
    ("baseline", "error", "message"), [case[1:] for case in BASELINES], ids=[case[0] for case in BASELINES]
)
def test_baseline(baseline: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(baseline=baseline)


def test_one_baseline_tensor_for_two_inputs() -> None:
    with pytest.raises(dasp.InputError, match="one tensor for 2 inputs"):
        explain((X, X), None, net=Taking2(), baseline=torch.zeros(4))


def test_a_fraction_cannot_be_the_baseline_of_whole_numbers() -> None:
    with pytest.raises(dasp.InputError, match="Give a whole number"):
        explain(torch.ones(2, 4).long(), net=nn.Embedding(3, 1), baseline=0.5, players=dasp.players.tokens())


MASKS: list[tuple[str, Any, type[Exception], str]] = [
    ("floats", torch.zeros(4), dasp.InputTypeError, r"a tensor of integers .* got torch.float32. Use mask.long\(\)"),
    ("bools", torch.zeros(4, dtype=torch.bool), dasp.InputTypeError, "got torch.bool"),
    ("a list", [0, 0, 1, 1], dasp.InputTypeError, "expected an integer tensor, a tuple of them, or a layout"),
    ("lists in a tuple", ([0, 0, 1, 1],), dasp.InputTypeError, "expected an integer tensor, got list"),
    ("text in numpy", np.array(["a"] * 4), dasp.InputTypeError, "array of integers"),
    ("does not broadcast", torch.zeros(3).long(), dasp.InputError, r"\(3,\) does not broadcast to \(4,\)"),
    ("one mask per row", torch.zeros(2, 4).long(), dasp.InputError, "One mask serves the whole batch"),
    ("negative", torch.tensor([0, -1, 1, 1]), dasp.InputError, "must be 0 or more, the mask holds -1"),
    ("too many", (torch.zeros(4).long(),) * 2, dasp.InputError, r"2 mask\(s\) for 1 input\(s\)"),
    ("another device", torch.zeros(4, device="meta").long(), dasp.InputError, "the mask is on meta, the input on cpu"),
    ("a layout without its axes", dasp.players.grid(2, 2), dasp.InputError, "need two axes"),
    ("a missing axis", dasp.players.tokens(3), dasp.InputError, r"no axis 3 in an input of shape \(4,\)"),
    ("too few names", dasp.players.features(["a"]), dasp.InputError, "1 feature names for 4"),
    ("players of another shape", dasp.Players.elements([(5,)]), dasp.InputError, r"shapes \[\(5,\)\], and these"),
]


@pytest.mark.parametrize(("mask", "error", "message"), [case[1:] for case in MASKS], ids=[case[0] for case in MASKS])
def test_players(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(players=mask)


@pytest.mark.parametrize(
    ("size", "error"), [((0, 2), dasp.InputError), ((2.0, 2), dasp.InputTypeError), ((True, 2), dasp.InputTypeError)]
)
def test_grid_sizes(size: tuple[Any, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="height"):
        dasp.players.grid(*size)


def test_feature_names_of_a_layout_are_strings() -> None:
    with pytest.raises(dasp.InputTypeError, match="sequence of strings"):
        dasp.players.features("abc")


TARGETS: list[tuple[str, Any, type[Exception], str]] = [
    ("missing", None, dasp.InputError, "none given, but the model gives 3 outputs a row"),
    ("too large", 3, dasp.InputError, "3 is out of range; the outputs are numbered 0 to 2"),
    ("negative", -1, dasp.InputError, "-1 is out of range; the outputs are numbered 0 to 2"),
    ("a float", 1.0, dasp.InputTypeError, "got float"),
    ("a bool", True, dasp.InputTypeError, "got bool"),
    ("a string", "cat", dasp.InputTypeError, "got str"),
    ("a float in a list", [0, 1.0], dasp.InputTypeError, "got float"),
    ("an empty list", [], dasp.InputError, "the list is empty"),
    ("too many axes", (0, 1), dasp.InputError, r"\(0, 1\) names 2 axis\(es\)"),
    ("one of several out of range", [0, 7], dasp.InputError, "7 is out of range"),
    ("a float tensor", torch.tensor([0.0, 1.0]), dasp.InputTypeError, "got torch.float32"),
    ("a float scalar", torch.tensor(1.0), dasp.InputTypeError, "torch.float32"),
    ("wrong rows", torch.tensor([0, 1, 2]), dasp.InputError, "its first axis must be 2"),
    ("too many axes per row", torch.zeros(2, 2).long(), dasp.InputError, r"each row names 2 axis\(es\)"),
    ("a row out of range", torch.tensor([0, 3]), dasp.InputError, "row 1 asks for 3; the outputs are numbered 0 to 2"),
    ("a negative row", torch.tensor([-1, 0]), dasp.InputError, "row 0 asks for -1"),
]


@pytest.mark.parametrize(
    ("target", "error", "message"), [case[1:] for case in TARGETS], ids=[case[0] for case in TARGETS]
)
def test_target(target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(target=target)


def test_a_target_for_a_single_number() -> None:
    with pytest.raises(dasp.InputError, match=r"the model gives one number a row\. Leave target out"):
        explain(net=Giving(lambda x: x.sum(-1)), target=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[2].bias[1] = value
    with pytest.raises(dasp.InputError, match=r"the weights 2\.bias hold NaN or infinity"):
        explain(net=net)


def test_nan_in_buffers_is_refused_and_infinity_is_not() -> None:
    class Masked(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, value, 0.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.mask).amax(-1)

    assert explain(net=Masked(-float("inf")), target=None).gap.abs().max() < 1e-6
    with pytest.raises(dasp.InputError, match="the weights mask"):
        explain(net=Masked(float("nan")), target=None)


def test_a_model_that_gives_nan_at_the_baseline() -> None:
    with pytest.raises(
        dasp.InputError, match="gives NaN for row 0 with 0 of 4 players present, the others at the base"
    ):
        explain(net=Giving(lambda x: (x.sum(-1) - 1).log()), target=None)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda x: (x, x), dasp.InputTypeError, "tuple"),
        (lambda x: x.sum(), dasp.InputError, r"an output of shape \(\) came out"),
        (lambda x: x.sum(0), dasp.InputError, r"2 rows went in and an output of shape \(4,\) came out"),
        (lambda x: x.argmax(-1), dasp.InputError, "torch.int64. Explain scores, not classes"),
    ],
)
def test_outputs_that_cannot_be_explained(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(net=Giving(result), target=None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "exact"}, dasp.InputTypeError, r"an estimator such as dasp.Exact\(\), got 'exact'"),
        ({"method": dasp.Exact}, dasp.InputTypeError, r"Write Exact\(\)"),
        ({"memory": 0}, dasp.InputError, "above 0 bytes"),
        ({"memory": 1e9}, dasp.InputTypeError, "got float"),
        ({"feature_names": "abcd"}, dasp.InputTypeError, "a sequence of strings"),
        ({"feature_names": ["a", "a", "b", "c"]}, dasp.InputError, "'a' comes twice"),
        ({"feature_names": ["a", "gap", "b", "c"]}, dasp.InputError, "'gap' is a column of the result"),
        ({"feature_names": ["a"]}, dasp.InputError, "1 names for 4 players"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dasp.Explainer(NET, 0.0, **options)(X, 0)


def test_every_error_is_ours_and_the_built_in_one() -> None:
    assert issubclass(dasp.InputError, dasp.DaspError)
    assert issubclass(dasp.InputError, ValueError)
    assert issubclass(dasp.InputTypeError, dasp.DaspError)
    assert issubclass(dasp.InputTypeError, TypeError)


def test_arrays_of_another_byte_order_and_targets_of_numpy() -> None:
    model, x = nn.Linear(4, 2), torch.randn(6, 4)
    explainer = dasp.Explainer(model, method=dasp.Exact())
    known = explainer(x, 1).per_player
    assert torch.equal(explainer(x.numpy().astype(">f4"), np.full(6, 1)).per_player, known)
    with pytest.raises(dasp.InputTypeError, match="target: expected integers"):
        explainer(x, np.full(6, 1.0))


@pytest.mark.parametrize("path", [".", "", "a\0b"])
def test_names_that_are_no_files(path: str) -> None:
    result = dasp.Explainer(nn.Linear(4, 1), method=dasp.Exact())(torch.randn(2, 4))
    with pytest.raises(dasp.OutputFileError, match="not the name of a file"):
        result.save(path)
    with pytest.raises(dasp.DataFileError, match="not the name of a file"):
        dasp.Attribution.load(path)


def test_more_arguments_of_the_wrong_kind() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(dasp.InputError, match="beyond the range"):
        dasp.Explainer(nn.Linear(4, 1), 1e300)(x)
    with pytest.raises(dasp.InputTypeError, match="feature_names"):
        dasp.Explainer(nn.Linear(4, 1), feature_names=5)  # type: ignore[arg-type]
    with pytest.raises(dasp.InputTypeError, match="confidence"):
        dasp.Explainer(nn.Linear(4, 1), method=dasp.Exact())(x).audit(1000, confidence="x")  # type: ignore[arg-type]
