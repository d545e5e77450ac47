"""`dasp check` on exported models, through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dasp.check_command import check
from dasp.cli import main
from dasp.measured import figures
from dasp.remedies import USUAL, instead
from dasp.rules import RULES

from .rule_rows import TABLE, Row, X

Capture = pytest.CaptureFixture[str]


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU()
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Refused(nn.Module):
    """Two operations without rules, one of them in two layers, and one that the unknown needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Ordered(), Ordered()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x.cumsum(1)))
        return torch.where(x > 0, x, -2 * x) + torch.special.i0(x)


class Ordered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values * 2


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.mT.exp()).sum((1, 2))


class Calls(nn.Module):
    """The same operations with one random argument and with two."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.known, self.both = nn.Linear(4, 4), Known(), Both()

    def forward(self, x: Tensor) -> Tensor:
        return self.both(self.known(self.mix(x)))


class Known(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Buffer(torch.arange(1.0, 17.0).reshape(4, 4) / 16)

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.weight) * self.weight[0] + self.weight[1]) / self.weight[2] + x**2


class Both(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        square = x.unsqueeze(1) * y.unsqueeze(2) + x.unsqueeze(1)
        return (square @ square.mT).sum((1, 2)) + (x / y + y**-1.5).sum(1)


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "cnn": (Cnn, (1, 8, 8)),
    "lstm": (Recurrent, (4, 3)),
    "encoder": (Encoder, (4, 8)),
    "refused": (Refused, (4,)),
    "product": (Product, (2, 3)),
    "calls": (Calls, (4,)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def path(name: str) -> Path:
        file = folder / f"{name}.pt2"
        if not file.exists():
            kind, shape = MODELS[name]
            batch = ({0: torch.export.Dim.AUTO},)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The tensor attributes self.lstm._flat_weights")  # torch's own, of its LSTM
                program = torch.export.export(kind().eval(), (torch.zeros(2, *shape),), dynamic_shapes=batch)
            torch.export.save(program, file)
        return file

    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, arguments)])
    return int(stop.value.code or 0)


def as_json(capsys: Capture, *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def supports(report: dict[str, Any]) -> dict[str, str]:
    return {one["op"]: one["support"] for one in report["operations"]}


def test_a_cnn_layer_by_layer(saved: Callable[[str], Path], capsys: Capture) -> None:
    assert run(saved("cnn")) == 0
    shown = capsys.readouterr().out.splitlines()
    found = [line.split() for line in shown]
    assert found[0] == ["layer", "operation", "times", "support", "error", "of", "mean,", "deviation"]
    assert found[1] == ["body.0", "aten.convolution.default", "1", "exact"]
    assert ["body.2", "aten.relu.default", "1", "exact"] in found
    pool = next(line for line in found if line[0] == "body.3")
    assert pool[1].startswith("aten.max_pool2d")
    assert pool[3] == "approximate"
    gelu = next(line for line in found if line[0] == "body.5")
    assert gelu[1:] == ["aten.gelu.default", "1", "approximate", "<", "0.001", "%,", "<", "0.001", "%"]
    counts = next(line for line in shown if "operations:" in line)
    assert counts.endswith("2 approximate, 0 missing")
    assert shown[-1].startswith("exact: mean and variance are exact for a Gaussian argument. The values are still approximate")


def test_an_lstm_counts_its_steps(saved: Callable[[str], Path], capsys: Capture) -> None:
    code, report = as_json(capsys, saved("lstm"))
    assert code == 0
    assert report["covered"] is True
    tanh = [one for one in report["operations"] if one["op"] == "aten.tanh.default"]
    assert [(one["layer"], one["times"], one["support"]) for one in tanh] == [("lstm", 8, "approximate")]
    assert tanh[0]["error"]["mean"] < 1e-6
    assert tanh[0]["instead"] is None
    assert report["counts"] == {"exact": report["counts"]["exact"], "approximate": 8 + 12, "missing": 0}
    assert sum(one["times"] for one in report["operations"]) == sum(report["counts"].values())


def test_players_decide_what_meets_random_values(saved: Callable[[str], Path], capsys: Capture) -> None:
    """While every element belongs to one token, the layers before attention need no rule."""
    code, every = as_json(capsys, saved("encoder"))
    assert code == 0
    fewer = as_json(capsys, saved("encoder"), "--players", "tokens")[1]
    assert sum(fewer["counts"].values()) < sum(every["counts"].values())
    assert supports(every)["aten.layer_norm.default"] == supports(fewer)["aten.layer_norm.default"] == "approximate"
    errors = {one["op"]: one["error"] for one in fewer["operations"] if one["support"] == "approximate"}
    assert all(error is not None and 0 < error["mean"] < 0.3 for error in errors.values())


def test_products_of_two_random_values_show_their_error(saved: Callable[[str], Path], capsys: Capture) -> None:
    code, report = as_json(capsys, saved("product"))
    assert code == 0
    (product,) = (one for one in report["operations"] if one["op"] in ("aten.bmm.default", "aten.matmul.default"))
    several = figures()[product["op"]].several
    assert several is not None
    assert (product["support"], product["random_arguments"]) == ("approximate", 2)
    assert product["error"] == {"mean": several.mean, "deviation": several.deviation, "noise": several.noise}
    assert run(saved("product")) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if product["op"] in line)
    assert line.endswith(f"approximate  < 0.9 %, {100 * several.deviation:.2g} % (2 random arguments)")


def test_exact_or_not_is_told_for_each_call(saved: Callable[[str], Path], capsys: Capture) -> None:
    code, report = as_json(capsys, saved("calls"))
    assert code == 0
    found = {(one["layer"], one["op"].split(".")[1], one["random_arguments"]): one for one in report["operations"]}
    support = {key: one["support"] for key, one in found.items()}
    products = {name for _, name, _ in support} & {"mm", "matmul", "bmm", "linear"}
    (first,) = (name for name in products if ("known", name, 1) in support)
    (second,) = (name for name in products if ("both", name, 2) in support)
    assert support["known", first, 1] == "exact"
    assert support["both", second, 2] == "approximate"
    for name, layer, count in (("mul", "known", 1), ("mul", "both", 2), ("add", "both", 2), ("div", "known", 1)):
        assert support[layer, name, count] == "exact"
    assert support["known", "pow", 1] == "exact"  # x^2
    assert support["both", "pow", 1] == "approximate"  # x^-1.5
    assert support["both", "div", 2] == "approximate"
    assert {one["error"] is None for one in found.values() if one["support"] == "exact"} == {True}
    assert {one["error"] is None for one in found.values() if one["support"] == "approximate"} == {False}
    assert found["both", "div", 2]["error"]["deviation"] == 0.025


def test_missing_operations_are_all_named_with_what_to_do(saved: Callable[[str], Path], capsys: Capture) -> None:
    code, report = as_json(capsys, saved("refused"))
    assert code == 1
    assert report["covered"] is False
    missing = {(one["layer"], one["op"]): one["instead"] for one in report["operations"] if one["support"] == "missing"}
    assert {("first", "aten.sort.default"), ("second", "aten.sort.default")} <= set(missing)
    assert ("Refused", "aten.gt.Scalar") in missing
    assert ("Refused", "aten.i0.default") in missing
    assert "explain the scores" in missing["first", "aten.sort.default"]
    assert "relu" in missing["Refused", "aten.gt.Scalar"]
    assert missing["Refused", "aten.i0.default"] == USUAL
    assert run(saved("refused")) == 1
    shown = capsys.readouterr().out
    assert shown.count("missing aten.sort.default: ") == 1
    assert "--method permutation" in shown


def test_the_program_itself_ends_with_the_code(saved: Callable[[str], Path], tmp_path: Path) -> None:
    def program(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dasp.cli", "check", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = program(saved("refused"), "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["counts"]["missing"] >= 4
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.pt2"], "absent.pt2"),
        (["broken.pt2"], "broken.pt2"),
        (["MODEL", "--players", "grid:2"], "--players 'grid:2'"),
        (["MODEL", "--players", "mask.npy"], "mask.npy"),
        (["MODEL", "--rows", "3"], "No such option"),
    ],
)
def test_errors_end_with_2_and_print_no_report(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("broken.pt2").write_bytes(b"PK\x03\x04 torn")
    np.save("mask.npy", np.zeros(3))
    model = saved("cnn")
    assert run(*[model if one == "MODEL" else one for one in arguments], "--json") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert "Traceback" not in told.err


def test_exit_codes_are_in_the_help(capsys: Capture) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for line in ("0  every operation is covered", "1  at least one has no rule", "2  the model cannot be read"):
        assert line in shown
    assert check.name == "check"


HEAVY_TAILS = {torch.ops.aten.sinh.default, torch.ops.aten.cosh.default}  # exact, but samples see too little of their tails


def calls() -> Iterator[tuple[Row, list[int], bool]]:
    """Every sample call of the table of rules, the positions of its random arguments, and whether it is exact."""
    for row in TABLE:
        rule = RULES.find(row.op)
        assert rule is not None
        lists = [one if isinstance(one, list) else [one] for one in row.args]
        random = [i for i, several in enumerate(lists) if any(isinstance(one, X) for one in several)]
        yield row, random, rule.is_exact(random, row.args)


def test_calls_that_are_told_to_be_exact_are_tested_without_tolerance() -> None:
    """`tests/test_rules.py` compares them: affine ones with their matrix, others with samples, within standard errors."""
    several = 0
    for row, random, exact in calls():
        assert exact or not row.affine, row.name
        assert not (exact and row.tolerance) or row.op in HEAVY_TAILS, row.name
        several += exact and len(random) > 1
    assert several > 20


def test_every_approximate_rule_was_measured() -> None:
    approximate = {(str(row.op), len(random)) for row, random, exact in calls() if not exact}
    for op, count in approximate:
        entry = figures().get(op)
        assert entry is not None, f"{op}: run python benchmarks/rules.py --new"
        assert entry.of(count) is not None, f"{op} with {count} random arguments: remove it from measured.json, and run it"
    assert set(figures()) <= {str(op) for op in RULES.ops()}
    measured = {(op, count) for op, entry in figures().items() for count in (1, 2) if entry.of(count) is not None}
    assert measured == {(op, min(count, 2)) for op, count in approximate}
    for entry in figures().values():
        for found in (entry.one, entry.several):
            assert found is None or max(found.mean, found.deviation, found.covariance) < 0.5


def test_advice_is_by_operation() -> None:
    assert "pooled" in instead("aten.max_pool2d_with_indices.default (indices)")
    assert "target=" in instead("aten.argmax.default")
    assert instead("mylib.secret.default") == USUAL
