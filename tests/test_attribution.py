"""The result: its shapes, names, table and file."""

from __future__ import annotations

import json
import math
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import dasp
from dasp.columns import columns_of


class TwoInputs(nn.Module):
    """(rows, 2): the sum of both inputs, and the sum of the first times that of the second."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = a.flatten(1).sum(1), b.flatten(1).sum(1)
        return torch.stack((left + right, left * right), 1)


A = torch.arange(6.0).reshape(2, 3)
B = torch.ones(2, 1, 2)


def explain(inputs: Any, target: Any, **options: Any) -> dasp.Attribution:
    return dasp.Explainer(TwoInputs(), 0.0, method=dasp.Exact(), **options)(inputs, target)


def test_a_tuple_in_gives_a_tuple_out() -> None:
    found = explain((A, B), 0)
    assert isinstance(found.values, tuple)
    assert torch.allclose(found.values[0], A)
    assert torch.allclose(found.values[1], B)
    assert found.per_player.shape == (2, 1, 5)
    single = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact())((A,))
    assert isinstance(single.values, tuple)
    assert single.values[0].shape == (2, 3)


def test_several_targets_add_an_axis_after_the_rows() -> None:
    found = explain((A, B), [0, 1])
    assert isinstance(found.values, tuple)
    assert [v.shape for v in found.values] == [(2, 2, 3), (2, 2, 1, 2)]
    assert found.base_value.shape == found.output.shape == found.gap.shape == (2, 2)
    assert found.several
    one = explain((A, B), [1])
    assert one.base_value.shape == (2, 1)
    assert torch.allclose(one.per_player, found.per_player[:, 1:])


def test_players_give_one_value_each_and_spread_over_their_elements() -> None:
    found = explain((A, B), 1, players=(torch.tensor([0, 0, 1]), torch.tensor([[2, 1]])))
    # Row 1 is (3 + 4 + 5) * (1 + 1); pairs (a part, b part) are shared by their owners: player 0 owns a = 7, player 1
    # a = 5 and b = 1, player 2 b = 1. 0-1 share 7, 0-2 share 7, 1 alone has 5, 1-2 share 5.
    assert isinstance(found.values, Tensor)
    assert found.values[1].tolist() == pytest.approx([7.0, 3.5 + 5 + 2.5, 3.5 + 2.5])
    first, second = found.as_input()
    assert first[1].tolist() == pytest.approx([7.0, 7.0, 11.0])
    assert second[1].tolist() == [pytest.approx([6.0, 11.0])]
    several = explain((A, B), [0, 1], players=(torch.tensor([0, 0, 1]), torch.tensor([[2, 1]])))
    assert [v.shape for v in several.as_input()] == [(2, 2, 3), (2, 2, 1, 2)]


def test_gap_is_relative_and_signed() -> None:
    class Half(dasp.Estimator):
        def estimate(self, game: Any, *, progress: bool = False) -> dasp.Estimate:
            exact = dasp.Exact().estimate(game)
            return dasp.Estimate(exact.values / 2, None, 0.0, {})

    found = dasp.Explainer(TwoInputs(), 0.0, method=Half())((A, -B), 0)
    # Row 1: values 3/2, 4/2, 5/2, -1/2, -1/2; they miss 10 by 5 of 7.
    assert found.gap[1].item() == pytest.approx((5 - 10) / 7)


def test_names_of_players() -> None:
    assert explain((A, B), 0).player_names == ("x0[0]", "x0[1]", "x0[2]", "x1[0, 0]", "x1[0, 1]")
    assert explain((A, B), 0, feature_names=list("abcde")).player_names == tuple("abcde")
    masks = (torch.tensor([3, 3, 1]), torch.tensor([[1, 1]]))
    assert explain((A, B), 0, players=masks).player_names == ("player 1", "player 3")
    single = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact(), players=dasp.players.features(["u", "v", "w"]))
    assert single(A).player_names == ("u", "v", "w")


def test_frame_has_a_row_for_each_sample_and_target() -> None:
    frame = explain((A, B), [0, 1], feature_names=list("abcde")).to_frame()
    assert list(frame.columns) == ["sample", "target", *"abcde", "base_value", "output", "gap"]
    assert frame["sample"].tolist() == [0, 0, 1, 1]
    assert frame["target"].tolist() == [0, 1, 0, 1]
    assert frame["b"].tolist() == pytest.approx([1.0, 1.0, 4.0, 4.0])
    assert frame["output"].tolist() == [5.0, 6.0, 14.0, 24.0]
    assert explain((A, B), torch.tensor([1, 0])).to_frame()["target"].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_in_tables_and_stays_in_files(dtype: torch.dtype, tmp_path: Path) -> None:
    explainer = dasp.Explainer(nn.Linear(3, 2).to(dtype), 0.0, method=dasp.PermutationSampling(permutations=4))
    result = explainer(A.to(dtype), [0, 1])
    assert isinstance(result.values, Tensor)
    frame, columns = result.to_frame(), columns_of(result, 0, None)
    assert frame["x[1]"].tolist() == result.values[..., 1].flatten().tolist()
    held = [frame[name].dtype for name in ("x[0]", "base_value", "output", "gap")]
    held += [columns[name].dtype for name in ("p0", "p0_se", "base_value", "output", "gap")]
    assert set(held) == {np.dtype("float32")}
    loaded = dasp.Attribution.load(result.save(tmp_path / "result")).values
    assert isinstance(loaded, Tensor)
    assert loaded.dtype == dtype
    assert torch.equal(loaded, result.values)
    pairs = dasp.Explainer(nn.Linear(3, 1).to(dtype), 0.0, method=dasp.Exact()).interactions(A.to(dtype))
    assert pairs.to_frame()["value"].dtype == np.dtype("float32")


def test_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(dasp.MissingExtraError, match=r"pip install 'dasp\[table\]'"):
        explain((A, B), 0).to_frame()


@pytest.mark.parametrize("players", [None, (torch.tensor([0, 0, 1]), torch.tensor([[2, 1]]))])
@pytest.mark.parametrize("target", [0, [0, 1], torch.tensor([1, 0])])
def test_saved_is_loaded(tmp_path: Path, players: Any, target: Any) -> None:
    method = dasp.PermutationSampling(permutations=4)
    saved = dasp.Explainer(TwoInputs(), 0.5, method=method, players=players)((A, B), target)
    loaded = dasp.Attribution.load(saved.save(tmp_path / "result"))
    assert (tmp_path / "result.safetensors").is_file()
    assert type(loaded.values) is type(saved.values)
    for name in ("base_value", "output", "gap", "targets", "per_player"):
        assert torch.equal(getattr(loaded, name), getattr(saved, name)), name
    for name in ("target", "feature_names", "method", "settings", "evaluations", "propagations", "seconds", "as_tuple"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.player_names == saved.player_names
    for name in ("inputs", "baselines", "standard_errors"):
        ours, theirs = getattr(loaded, name), getattr(saved, name)
        assert type(ours) is type(theirs)
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert all(torch.equal(a, b) for a, b in zip(loaded.players.labels, saved.players.labels, strict=True))
    assert [v.shape for v in loaded.as_input()] == [v.shape for v in saved.as_input()]


def test_a_loaded_attribution_cannot_be_audited_and_says_so(tmp_path: Path) -> None:
    saved = explain((A, B), 0)
    assert saved.audit(200).high.max() < 0.01
    with pytest.raises(dasp.InputError, match="came from a file and carries no model"):
        dasp.Attribution.load(saved.save(tmp_path / "result")).audit()


def test_save_replaces_and_leaves_the_rights_of_a_new_file(tmp_path: Path) -> None:
    explain((A, B), 0).save(tmp_path / "result")
    path = explain((A, B), 1).save(tmp_path / "result.safetensors")
    assert dasp.Attribution.load(path).target == 1
    other = tmp_path / "other"
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "missing" / "result", tmp_path / "file" / "result", tmp_path / "folder"):
        with pytest.raises(dasp.OutputFileError, match="cannot write the attribution to"):
            explain((A, B), 0).save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def test_interrupted_save_leaves_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = explain((A, B), 0).save(tmp_path / "result")
    before = path.read_bytes()

    def interrupted(tensors: Any, name: str, metadata: Any) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("dasp.attribution.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain((A, B), 1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.safetensors"]


def test_files_that_are_no_attributions(tmp_path: Path) -> None:
    with pytest.raises(dasp.DataFileError, match="cannot read an attribution"):
        dasp.Attribution.load(tmp_path / "missing")
    (tmp_path / "corrupt.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(dasp.DataFileError, match="cannot read an attribution"):
        dasp.Attribution.load(tmp_path / "corrupt")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(dasp.DataFileError, match="not an attribution saved by dasp"):
        dasp.Attribution.load(tmp_path / "foreign")
    save_file({"weight": torch.zeros(2)}, tmp_path / "newer.safetensors", metadata={"dasp": '{"format": 99}'})
    with pytest.raises(dasp.DataFileError, match="format 99"):
        dasp.Attribution.load(tmp_path / "newer")


def without(name: str) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def remove(about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        (about if name in about else tensors).pop(name)

    return remove


def with_entry(**entries: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda about, tensors: about.update(entries)


@pytest.mark.parametrize(
    "spoil",
    [
        *map(without, ("format", "split", "count", "names", "settings", "target", "seconds", "feature_names")),
        *map(without, ("base_value", "gap", "targets", "values.0", "values.1", "labels.0", "inputs.1", "baselines.0")),
        with_entry(count="many"),
        with_entry(count=None),
        with_entry(count=4),
        with_entry(names=3),
        with_entry(feature_names=True),
        with_entry(split=False),
        lambda about, tensors: tensors.update(base_value=torch.zeros(3)),
        lambda about, tensors: tensors.update({"values.0": torch.zeros(())}),
        lambda about, tensors: tensors.update(targets=torch.zeros(())),
        with_entry(feature_names=["a", "b"]),
        with_entry(names=[1, 2, 3, 4, 5]),
        with_entry(tokens=[["a"] * 5]),
        with_entry(tokens=[["a"] * 5, ["a"] * 4]),
        lambda about, tensors: tensors.update(output=torch.zeros(3)),
        lambda about, tensors: tensors.update({"inputs.0": tensors["inputs.0"][:1].clone()}),
        lambda about, tensors: tensors.update({"labels.0": tensors["labels.0"] + 5}),
        lambda about, tensors: tensors.update({"labels.1": tensors["labels.1"].double()}),
    ],
)  # fmt: skip
def test_attributions_that_lack_something(tmp_path: Path, spoil: Any) -> None:
    path = explain((A, B), 0).save(tmp_path / "result")
    with safe_open(path, framework="pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["dasp"])  # noqa: SIM118
    spoil(about, tensors)
    save_file(tensors, path, metadata={"dasp": json.dumps(about)})
    with pytest.raises(dasp.DataFileError, match=r"result.safetensors is not a whole attribution saved by dasp"):
        dasp.Attribution.load(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", '"format"', "{}", '{"format": 1}', "\x00"])
def test_metadata_that_are_no_description_of_an_attribution(tmp_path: Path, text: str) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"dasp": text})
    with pytest.raises(dasp.DataFileError, match="is not a whole attribution saved by dasp"):
        dasp.Attribution.load(tmp_path / "foreign")


def test_result_carries_what_was_chosen_and_reads_well() -> None:
    found = explain((A, B), (1,))
    assert found.method == "Exact"
    assert found.settings == {"force": False}
    assert found.target == [1]
    assert found.targets.tolist() == [[[1]]]
    assert found.seconds["total"] >= found.seconds["estimate"] > 0
    assert repr(found).startswith("Attribution(Exact, rows=2, players=5, targets=1, largest gap=")
    assert math.isfinite(float(found.gap.abs().max()))
