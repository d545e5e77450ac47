"""Operations taken apart where they stand: the graph computes what the module does, and the program is not traced again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.graph import Graph, capture, layer_of
from dasp.inplace import TWINS

aten = torch.ops.aten
PRODUCTS = {aten.addmm.default, aten.linear.default, aten.mm.default}


class Spelled(nn.Module):
    """A function of a layer and sequences (rows, 5, 4)."""

    def __init__(self, layer: nn.Module, spelling: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer, self.spelling = layer, spelling

    def forward(self, x: Tensor) -> Tensor:
        return self.spelling(self.layer, x)


def states(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def last_state(r: nn.Module, x: Tensor) -> Tensor:
    return states(r(x)[1])[-1].transpose(0, 1).flatten(1)


def linear(spelling: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Spelled(nn.Linear(4, 4), lambda layer, x: spelling(layer(x)).flatten(1))


SPELLED: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Spelled(nn.LSTM(4, 3, batch_first=True), lambda r, x: r(x)[0].flatten(1)),
    "LSTM, two layers, both directions": lambda: Spelled(
        nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True), lambda r, x: r(x)[0].flatten(1)
    ),
    "LSTM, projected, its last state": lambda: Spelled(nn.LSTM(4, 3, batch_first=True, proj_size=2), last_state),
    "LSTM, steps first, no bias": lambda: Spelled(
        nn.LSTM(4, 3, bias=False), lambda r, x: r(x.transpose(0, 1))[0].transpose(0, 1).flatten(1)
    ),
    "GRU": lambda: Spelled(nn.GRU(4, 3, batch_first=True), lambda r, x: r(x)[0].flatten(1)),
    "GRU, both directions, its last states": lambda: Spelled(nn.GRU(4, 3, batch_first=True, bidirectional=True), last_state),
    "RNN": lambda: Spelled(nn.RNN(4, 3, batch_first=True), lambda r, x: r(x)[0].flatten(1)),
    "RNN, relu": lambda: Spelled(nn.RNN(4, 3, batch_first=True, nonlinearity="relu"), last_state),
    "einsum": linear(lambda h: torch.einsum("bij,bkj->bik", h, h)),
    "einsum of three": linear(lambda h: torch.einsum("bij,kj,bk->bi", h, torch.eye(4), h[:, 0])),
    "pad": linear(lambda h: F.pad(h, (1, 0, 2, 1), value=0.5)),
    "tile": linear(lambda h: h.tile(2, 3)),
    "tile of more axes than there are": linear(lambda h: h[:, 0].tile(1, 2)),
    "where with a number": linear(lambda h: torch.where(h > 0, h, 0.5)),
    "where with a number first": linear(lambda h: torch.where(h > 0, -2.0, h)),
    "a cast": linear(lambda h: (h > 0.1).to(h.dtype) * h),
    "and, or, xor": linear(lambda h: torch.where(((h > 0) & (h < 1)) | (h < -1) ^ (h > 2), h, h / 2)),
    "other names": linear(
        lambda h: torch.concat((torch.multiply(h, 2), torch.subtract(h, 1), torch.true_divide(h, 3), torch.clip(h, -0.5, 0.5),
                                torch.absolute(h), torch.negative(h), torch.arctan(h)), 1)
    ),
    "comparisons by other names": linear(
        lambda h: torch.where(torch.greater(h, 0), h, 2 * h) + torch.where(torch.less_equal(h, 0.3), h, h + 1)
        + torch.where(torch.not_equal(h, 0), h, h + 1)
    ),
}  # fmt: skip


def added_to(h: Tensor) -> Tensor:
    h += 1
    h *= h
    return F.relu(h, inplace=True) + h


def seen_before(h: Tensor) -> Tensor:
    before = h.exp()
    h -= 3
    return torch.cat((before, h, h.abs()), 1)


def seen_through_a_view(h: Tensor) -> Tensor:
    view = h.transpose(1, 2)
    h += 1
    return view.exp()


def written_into_a_part(h: Tensor) -> Tensor:
    h[:, 0] *= 2
    return h.exp()


def written_through_a_reshape(h: Tensor) -> Tensor:
    flat = h.reshape(-1, 20)
    flat.add_(1)
    return h * 2


def in_its_own_dtype(h: Tensor) -> Tensor:
    whole = h.long()
    whole += (h > 0).int()
    exact = h.double().exp().float()
    exact += torch.full((4,), 0.1, dtype=torch.float64)
    return exact * whole


def copied_first(h: Tensor) -> Tensor:
    other = h.to(torch.float32, copy=True)
    other += 1
    return h + 2 * other


def moved_to_other_memory_first(h: Tensor) -> Tensor:
    h = h[:, None] * 2
    other = h.to(memory_format=torch.channels_last)
    other += 1
    return h + other


def compared(h: Tensor) -> Tensor:
    h = h * 1
    h.gt_(0)
    return h + h


def compared_constant(h: Tensor) -> Tensor:
    known = torch.linspace(-1, 1, 4) * 1
    known.gt_(0)
    return h * (known + known)


def seen_by_a_grid(h: Tensor) -> Tensor:
    known = torch.arange(4.0)
    one, _ = torch.meshgrid(known, torch.arange(5.0), indexing="xy")
    known += 1
    return h * one


def squared(h: Tensor) -> Tensor:
    h **= 2
    return h + 1


def doubled(h: Tensor) -> Tensor:
    return (h * 1).ldexp_(torch.tensor(2))


IN_PLACE = {
    "powers": (squared, True),
    "copied first": (copied_first, False),
    "moved to other memory first": (moved_to_other_memory_first, False),
    "comparison": (compared, False),
    "comparison of a constant": (compared_constant, False),
    "seen by a grid": (seen_by_a_grid, False),
    "powers of two": (doubled, False),
    "once and again": (added_to, True),
    "seen before": (seen_before, True),
    "dropout": (lambda h: F.dropout(h, training=False, inplace=True) + 1, True),
    "seen through a view": (seen_through_a_view, False),
    "a part": (written_into_a_part, False),
    "through a reshape": (written_through_a_reshape, False),
    "in its own dtype": (in_its_own_dtype, False),
}
"""Functions of the result of a layer, and whether each is read as it was exported."""


def captured(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Graph:
    def never(*_: object) -> None:
        raise AssertionError("the whole program was traced again")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", never)
    return capture(model.eval(), (torch.randn(2, 5, 4),), (), 2)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", SPELLED)
def test_the_graph_computes_what_the_module_does_for_any_number_of_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SPELLED[name]()
    graph = captured(model, monkeypatch)
    for rows in (1, 2, 7):
        x = torch.randn(rows, 5, 4)
        with torch.no_grad():
            torch.testing.assert_close(graph.run([x]), model(x))


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_written_into_a_value_is_seen_where_the_module_sees_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    spelling, as_exported = IN_PLACE[name]
    model = linear(spelling)()
    x = torch.randn(7, 5, 4)
    graph = captured(model, monkeypatch) if as_exported else capture(model.eval(), (x[:2],), (), 2)
    with torch.no_grad():
        torch.testing.assert_close(graph.run([x]), model(x))


def test_what_stands_for_writing_takes_the_same_arguments_and_writes_nothing() -> None:
    def kinds(op: torch._ops.OpOverload) -> list[str]:
        return [str(argument.type) for argument in op._schema.arguments]

    for writes, returns in TWINS.items():
        assert kinds(writes) == kinds(returns), writes
        assert writes._schema.is_mutable
        assert not returns._schema.is_mutable


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_parts_say_which_layer_they_are_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = captured(SPELLED[name](), monkeypatch)
    products = [node for node in graph.nodes if node.target in PRODUCTS]
    assert products
    assert {layer_of(node) for node in products} == {"layer"}


def test_a_part_without_a_rule_is_named_with_its_layer() -> None:
    model = Spelled(nn.Linear(4, 4), lambda layer, x: F.pad(layer(x), (1, 1)).cumprod(1).flatten(1)[:, :1])
    with pytest.raises(dasp.MissingRuleError, match=r"cumprod"):
        dasp.Explainer(model, 0.0)(torch.randn(2, 5, 4))
