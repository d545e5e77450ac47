"""Capture: whatever the spelling of a network, its graph computes what it computes; anything else is refused in our words.

The oracle is exact enumeration: with all players enumerated, propagation is exact if capture and marking are right.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import dasp
from dasp.graph import graph_of

ROWS = 3


def joined(result: dasp.Attribution) -> Tensor:
    values = result.values if isinstance(result.values, tuple) else (result.values,)
    return torch.cat([v.flatten(1) for v in values], 1)


def assert_right(
    model: Any, x: Tensor | tuple[Tensor, ...], target: Any = None, *, players: Any = None, rank: Any = 2, **extra: Any
) -> None:
    """Exact by enumeration of every player, and near the truth by propagation with an active subspace."""
    source = model if isinstance(model, dasp.Model) else dasp.Model(model)

    def values(method: dasp.Estimator) -> Tensor:
        explainer = dasp.Explainer(source, method=method, players=players)
        return joined(explainer(x, target, **extra)).double()

    exact = values(dasp.Exact())
    loose = 1e-9 if source.dtype is torch.float64 or source.dtype is None else 1e-5
    n = exact.shape[1]
    assert (values(dasp.Propagation(mixture=n, rule="legendre", rank=0)) - exact).norm() <= loose * exact.norm() + 1e-12
    assert (values(dasp.Propagation(rule="legendre", rank=rank)) - exact).norm() <= 0.35 * exact.norm() + 1e-12


class Network(nn.Module):
    """Three layers and a spelling: the function that says how forward is written."""

    def __init__(self, spelling: Callable[..., Any]) -> None:
        super().__init__()
        generator = torch.random.get_rng_state()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 1)
        self.register_buffer("buffer", torch.randn(4))
        self.scale = 2.0
        torch.random.set_rng_state(generator)
        self.spelling = spelling
        self.double()
        self.constant = torch.linspace(-1, 2, 6, dtype=torch.float64)

    def forward(self, x: Tensor) -> Any:
        return self.spelling(self, x)


def rows(seed: int = 0, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, *(shape or (4,)), generator=generator, dtype=torch.float64)


def in_place(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    h.relu_()
    h += 1  # autograd refuses this; the graph does not mind
    h *= 0.5
    return s.c(F.relu(s.b(h), inplace=True))


def joined_ones(s: Any, x: Tensor) -> Tensor:
    ones = torch.ones(x.shape[0], 1, dtype=x.dtype)
    return s.c(F.relu(s.b(torch.cat([F.relu(s.a(x))[:, :5], ones], 1))))


def views(s: Any, x: Tensor) -> Tensor:
    h = F.relu(s.a(x)).view(x.shape[0], 2, 3).permute(0, 2, 1).contiguous().view(x.size(0), -1)
    return s.c(s.b(h.flatten(1)))


def gates(s: Any, x: Tensor) -> Tensor:
    h, gate = s.a(x).chunk(2, -1)
    return s.c(s.b(torch.cat([F.relu(h) * torch.sigmoid(gate), gate], -1)))


def pieces(s: Any, x: Tensor) -> Tensor:
    h, i, j = s.a(x).split([1, 2, 3], -1)
    k, _ = s.a(x).view(-1, 2, 3).unbind(1)
    return s.c(s.b(torch.cat([F.relu(h), i, torch.tanh(j)], -1))) + k.sum(-1, keepdim=True)


SPELLINGS: dict[str, tuple[Callable[..., Any], Any]] = {
    "squeeze to (rows,)": (lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x))))).squeeze(), None),
    "(rows, a, b)": (lambda s, x: s.b(F.relu(s.a(x))).view(-1, 2, 2).repeat(1, 1, 2), (1, 2)),
    "in place": (in_place, None),
    "arange": (lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x)))) * torch.arange(4)), None),
    "cat with ones": (joined_ones, None),
    "new_zeros": (lambda s, x: s.c(x.new_zeros(x.size(0), 4) + s.b(F.relu(s.a(x)))), None),
    "like a random value": (lambda s, x: s.c(torch.ones_like(h := s.b(F.relu(s.a(x)))) + h), None),
    "buffer and constant": (lambda s, x: s.c(s.b(F.relu(s.a(x) * s.constant)) * s.buffer), None),
    "views": (views, None),
    "rows folded into an axis": (lambda s, x: s.c(s.b(F.relu(s.a(x).reshape(x.size(0) * 2, 3) + 1).view(-1, 6))), None),
    "chunk": (gates, None),
    "split and unbind": (pieces, None),
    "tied weights": (lambda s, x: s.c(F.relu(F.linear(F.relu(s.a(x)), s.a.weight.T))), None),
    "reused layers": (lambda s, x: s.c(s.b(s.a(F.relu(s.b(s.a(x))))).relu()), None),
    "matrix from the left": (lambda s, x: (s.b.weight @ F.relu(s.a(x)).T).T[:, 0], None),
    "einsum": (lambda s, x: torch.einsum("bi,ji->bj", F.relu(s.a(x)), s.b.weight)[:, 0], None),
    "clamp": (lambda s, x: s.c(s.b(s.a(x).clamp(min=0))), None),
    "the input itself": (lambda s, x: x, 2),
    "ignores its input": (lambda s, x: torch.zeros(x.shape[0], 1, dtype=x.dtype), None),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_any_spelling_of_forward(name: str) -> None:
    spelling, target = SPELLINGS[name]
    assert_right(Network(spelling), rows(), target)


class Signature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Network(lambda s, x: s.c(s.b(F.relu(s.a(x)))))


class Variadic(Signature):
    def forward(self, *xs: Tensor) -> Any:
        return self.layer(xs[0])


class Keywords(Signature):
    def forward(self, x: Tensor, *, scale: float = 2.0, flag: bool = False) -> Any:
        return self.layer(x) * (0 if flag else scale)


class Optional(Signature):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return self.layer(x if mask is None else x * mask)


class Unrecorded(Signature):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("kind", [Variadic, Keywords, Optional, Unrecorded])
def test_signatures(kind: type[nn.Module]) -> None:
    assert_right(kind(), rows())


class TwoInputs(nn.Module):
    def __init__(self, *, ignore: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.a, self.b, self.c = nn.Linear(2, 5), nn.Linear(2, 5), nn.Linear(5, 1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        self.ignore = ignore
        self.double()

    def forward(self, x: Tensor, y: Tensor, scale: Any = None) -> Any:
        h = F.relu(self.a(x)) if self.ignore else F.relu(self.a(x)) * torch.tanh(self.b(y))
        return self.c(h if scale is None else h * scale)


@pytest.mark.parametrize(
    "extra",
    [None, 2.5, (None,), rows(5, 1), rows(5, 5)[0]],
    ids=["nothing", "number", "None", "tensor per row", "one tensor for all"],
)
def test_several_inputs_and_further_arguments(extra: Any) -> None:
    assert_right(TwoInputs(), (rows(1, 2), rows(2, 2)), additional_forward_args=extra)


def test_a_further_argument_goes_with_its_row() -> None:
    model, x, y, scale = TwoInputs(), rows(1, 2), rows(2, 2), rows(3, 1)
    explainer = dasp.Explainer(model)
    together = joined(explainer((x, y), additional_forward_args=scale))
    alone = [joined(explainer((x[i : i + 1], y[i : i + 1]), additional_forward_args=scale[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-12)


def test_an_ignored_input_gets_zeros() -> None:
    first, second = dasp.Explainer(TwoInputs(ignore=True))((rows(1, 2), rows(2, 2))).values
    assert first.abs().min() > 0
    assert second.abs().max() == 0


def mlp() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))


def parametrised(kind: str) -> nn.Module:
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old forms are deprecated, and still met
        if kind == "weight_norm":
            parametrizations.weight_norm(model[0])
        elif kind == "spectral_norm":
            parametrizations.spectral_norm(model[0])
        elif kind == "old weight_norm":
            nn.utils.weight_norm(model[0])
        else:
            nn.utils.spectral_norm(model[0])
    return model


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm"])
def test_parametrised_weights(kind: str) -> None:
    assert_right(parametrised(kind), rows().float())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: torch.compile(m, backend="eager"),
        nn.DataParallel,
        torch.fx.symbolic_trace,
        lambda m: nn.Sequential(m, nn.Dropout(0.5), nn.Identity()),
    ],
    ids=["torch.compile", "DataParallel", "torch.fx", "dropout"],
)
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert_right(wrap(mlp()), rows().float())


def test_a_forward_hook_counts() -> None:
    model = mlp()
    model[0].register_forward_hook(lambda layer, given, result: result * 3)
    assert_right(model, rows().float())


def test_scripted_models_are_refused_by_propagation_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(mlp(), rows().float())
    with pytest.raises(dasp.CaptureError, match="could not capture"):
        dasp.Explainer(traced)(rows().float())
    assert dasp.Explainer(traced, method=dasp.Exact())(rows().float()).gap.abs().max() < 1e-6


def test_a_lazy_layer_must_have_run() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 1))
    with pytest.raises(dasp.InputError, match="lazy"):
        dasp.Explainer(model)(rows().float())
    model(rows().float())
    assert_right(model, rows().float())


def test_half_precision_is_explained_in_half_precision() -> None:
    x = rows().bfloat16()
    result = dasp.Explainer(mlp().bfloat16(), method=dasp.Propagation(rank=2))(x)
    wide = dasp.Explainer(mlp().bfloat16().double(), method=dasp.Exact())(x.double())
    assert joined(result).dtype is torch.bfloat16
    assert (joined(result).double() - joined(wide)).norm() < 0.15 * joined(wide).norm()


def test_autocast_inside_is_refused() -> None:
    class Cast(Signature):
        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer.a(x).float().relu()

    model = Cast().float()
    with pytest.raises(dasp.CaptureError, match="bfloat16"):
        dasp.Explainer(model)(rows().float(), 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad_and_inference_mode(mode: Callable[[], Any]) -> None:
    model = mlp()
    expected = joined(dasp.Explainer(model)(rows().float()))
    with mode():
        torch.testing.assert_close(joined(dasp.Explainer(model)(rows().float())), expected)


def test_inputs_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x = rows().float()
    assert x.is_inference()
    assert_right(mlp(), x)


def test_a_model_made_in_inference_mode_must_be_copied() -> None:
    with torch.inference_mode():
        model = mlp()
    with pytest.raises(dasp.InputError, match="deepcopy"):
        dasp.Explainer(model)(rows().float())
    assert_right(copy.deepcopy(model), rows().float())


# Caching, and what changes between two calls


def test_captured_once_and_again_when_shape_dtype_or_rank_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    export = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 1))
    explainer = dasp.Explainer(model)
    for count in (3, 1, 7):  # any number of rows, one graph
        explainer(torch.randn(count, 1, 5))
    assert len(calls) == 1
    explainer(torch.randn(3, 1, 6))
    assert len(calls) == 2
    model.double()
    explainer(torch.randn(3, 1, 5, dtype=torch.float64))
    assert len(calls) == 3
    explainer(torch.randn(2, 1, 5, dtype=torch.float64))
    assert len(calls) == 3


def replace_weights(model: nn.Sequential, how: str) -> None:
    torch.manual_seed(9)
    other = nn.Linear(4, 6)
    with torch.no_grad():
        if how == "in place":
            model[0].weight.copy_(other.weight)
        elif how == ".data":
            model[0].weight.data = other.weight.data
        elif how == "new parameter":
            model[0].weight = other.weight
        else:
            model[0].load_state_dict(other.state_dict(), assign=how.endswith("assign"))


@pytest.mark.parametrize("how", ["in place", ".data", "new parameter", "load_state_dict", "load_state_dict assign"])
def test_changed_weights_are_followed(how: str) -> None:
    model = mlp()
    source = dasp.Model(model)
    before = joined(dasp.Explainer(source)(rows().float()))
    replace_weights(model, how)
    after = joined(dasp.Explainer(source)(rows().float()))
    assert (after - before).norm() > 0.1 * before.norm()
    torch.testing.assert_close(after, joined(dasp.Explainer(model)(rows().float())), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["layer", "number"])
def test_a_change_that_capture_cannot_see_is_refused_not_ignored(what: str) -> None:
    model = Network(lambda s, x: s.c(s.b(F.relu(s.a(x)))) * s.scale)
    explainer = dasp.Explainer(model)
    explainer(rows())
    if what == "layer":
        model.b.register_forward_hook(lambda layer, given, result: result.tanh())
    else:
        model.scale = 3.0
    with pytest.raises(dasp.CaptureError, match="make a new Explainer"):
        explainer(rows())
    assert_right(model, rows())


@pytest.mark.parametrize(
    "spelling",
    [lambda s, x: s.c(F.relu(s.a(x - x.mean(0)))[:, :4]), lambda s, x: F.softmax(s.c(s.a(x)[:, :4]), 0)],
    ids=["mean", "softmax"],
)
def test_rows_that_depend_on_each_other_are_refused(spelling: Callable[..., Any]) -> None:
    for count in (1, 3):
        with pytest.raises(dasp.InputError, match=r"the rows of the model Network depend on each other"):
            dasp.Explainer(Network(spelling))(rows()[:count])


# What cannot be captured


def test_a_branch_on_values_names_its_reason_and_leaves_the_other_estimators(capfd: pytest.CaptureFixture[str]) -> None:
    model = Network(lambda s, x: s.c(F.relu(s.a(x))[:, :4]) if x.sum() > 0 else s.c(s.a(x)[:, :4]))
    with pytest.raises(dasp.CaptureError, match=r"data-dependent(.|\n)*torch.where(.|\n)*PermutationSampling"):
        dasp.Explainer(model)(rows())
    assert capfd.readouterr().err == ""  # the exporter prints half a graph
    for method in (dasp.Exact(), dasp.PermutationSampling(permutations=2)):
        assert dasp.Explainer(model, method=method)(rows()).values.isfinite().all()


@pytest.mark.parametrize(
    ("spelling", "error", "says"),
    [
        (lambda s, x: (s.c(s.b(s.a(x))), s.a(x)), dasp.InputTypeError, "returns tuple"),
        (lambda s, x: {"logits": s.c(s.b(s.a(x)))}, dasp.InputTypeError, "returns dict"),
        (lambda s, x: s.c(s.b(s.a(x))).view(5, 1), dasp.InputError, "any number of them"),
        (lambda s, x: s.a(x.numpy()), dasp.InputError, "Network fails on"),
        (lambda s, x: s.b(x), dasp.InputError, "cannot be multiplied"),
    ],
    ids=["tuple", "dict", "rows written into the code", "numpy", "wrong shape"],
)
def test_models_refused_in_our_words(spelling: Callable[..., Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        dasp.Explainer(Network(spelling))(rows())
    assert isinstance(caught.value, dasp.DaspError)


def test_a_model_that_changes_its_buffers_is_refused() -> None:
    model = Network(lambda s, x: s.c(s.b(F.relu(s.a(x)))) + 0 * s.buffer.add_(1e-9).sum())
    with pytest.raises(dasp.CaptureError, match="changes buffer while it runs"):
        dasp.Explainer(model)(rows())


def test_dropout_that_never_stops_is_refused() -> None:
    model = Network(lambda s, x: s.c(s.b(F.dropout(F.relu(s.a(x)), training=True))))
    with pytest.raises(dasp.InputError, match=r"is random.*dropout"):
        dasp.Explainer(model)(rows())


def test_missing_rules_are_listed_at_once_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lift, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Any:
            return self.last(torch.sort(self.lift(self.first(x)).round(), -1).values.sinc())

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("propagated before the rules were checked")

    monkeypatch.setattr("dasp.estimators.propagation.propagate", never)
    explainer = dasp.Explainer(Odd())
    with pytest.raises(dasp.MissingRuleError) as caught:
        explainer(rows().float())
    message = str(caught.value)
    for line in ("aten.round.default (layer Odd)", "aten.sort.default (layer Odd)"):
        assert line in message
    assert "CONTRIBUTING.md" in message
    assert "PermutationSampling" in message
    missing = [one.op for one in explainer.check(rows().float()) if one.support is dasp.Support.MISSING]
    assert all(op in message for op in missing)
    assert len(missing) >= 3


@pytest.mark.parametrize("name", ["cholesky", "inv", "lu_factor"])
def test_a_checked_decomposition_is_named_and_of_a_known_matrix_right(name: str) -> None:
    def taken(matrix: Tensor) -> Tensor:
        found = getattr(torch.linalg, name)(matrix)
        return found if isinstance(found, Tensor) else found[0]

    random = Network(lambda s, x: taken(torch.diag_embed(F.relu(s.a(x)) + 1)).sum((1, 2)))
    with pytest.raises(dasp.MissingRuleError, match=rf"aten.linalg_{name}_ex.default \(layer Network\)\n    a decomposition"):
        dasp.Explainer(random)(rows())
    assert_right(Network(lambda s, x: s.c(F.relu(s.b(s.a(x))) @ taken(s.b.weight @ s.b.weight.T))), rows())


def test_an_operation_with_effects_is_named() -> None:
    model = Network(lambda s, x: (torch.ops.aten._print("here"), s.c(s.b(s.a(x))))[1])
    with pytest.raises(dasp.CaptureError, match=r"something beside its result in aten._print.default \(layer"):
        dasp.Explainer(model)(rows())


def test_a_number_that_a_program_holds_fixed_cannot_be_changed() -> None:
    batch = torch.export.Dim("batch")
    x, y = rows(1, 2), rows(2, 2)
    program = torch.export.export(TwoInputs(), (x, y, 3.0), dynamic_shapes=({0: batch}, {0: batch}, None))
    assert_right(program, (x, y), additional_forward_args=3.0)
    with pytest.raises(dasp.InputError, match=r"scale = 3.0.*got 4.0"):
        dasp.Explainer(program)((x, y), additional_forward_args=4.0)


def test_moving_statistics_of_a_constant_are_left_alone() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.arange(8.0).reshape(2, 4))
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("var", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.nn.functional.batch_norm(self.table, self.mean, self.var, training=True)[0]).sum(1)

    batch = torch.export.Dim("batch")
    program = torch.export.export(Table(), (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
    with pytest.raises(dasp.CaptureError, match="the model changes mean, var while it runs"):
        graph_of(program)


def test_an_instance_norm_that_moves_its_statistics_is_refused() -> None:
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    model, x = nn.Sequential(nn.Conv1d(1, 2, 3), norm, nn.Flatten(), nn.Linear(12, 1)), torch.randn(3, 1, 8)
    program = torch.export.export(model.train(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    with pytest.raises(dasp.CaptureError, match=r"the model changes .*running_mean, .*running_var while it runs"):
        dasp.Explainer(program, 0.0)(x)
    assert dasp.Explainer(model, 0.0)(x).values.isfinite().all()  # a module is explained in evaluation mode
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict(prefix="1.").items() if name in before)
