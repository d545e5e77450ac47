"""Explainers saved to a folder and made again: the same values to the bit, and a clear error for everything else."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dasp
from dasp import players

ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([0, 0, 1, 1, 2, 2])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def image_network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    return nn.Sequential(*layers).eval()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x, y], dim=1))


def same(explainer: dasp.Explainer, folder: Path, rows: Any = ROWS, **more: Any) -> dasp.Explainer:
    """The explainer that comes back, once its values were compared bit by bit."""
    before = explainer(rows, 1)
    explainer.save_pretrained(folder, **({"inputs": rows} | more))
    again = dasp.Explainer.from_pretrained(folder)
    after = again(rows, 1)
    assert isinstance(again, dasp.Explainer)
    assert torch.equal(before.per_player, after.per_player)
    assert torch.equal(before.base_value, after.base_value)
    assert torch.equal(before.output, after.output)
    assert before.settings == after.settings
    assert before.player_names == after.player_names
    return again


METHODS = [
    dasp.Propagation(nodes=4, rank=2),
    dasp.Exact(),
    dasp.PermutationSampling(permutations=8, seed=3, tolerance=0.5),
    dasp.Regression(budget=40, prior=(dasp.Propagation(), dasp.Propagation(nodes=3)), seed=2),
    dasp.Refine(tolerance=0.1, budget=60, prior=dasp.Regression(budget=30, prior=dasp.DASP(sizes=3))),
    dasp.DASP(sizes=4),
    dasp.VertexGradients(samples=16, seed=5),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_comes_back_with_its_options_and_its_values(method: dasp.Estimator, tmp_path: Path) -> None:
    again = same(dasp.Explainer(network(), 0.1, method=method, memory=2**22), tmp_path / "kept")
    assert again.method == method
    assert again.memory == 2**22


def test_every_method_of_dasp_has_a_name_in_folders() -> None:
    from dasp import estimators
    from dasp.pretrained import METHODS as NAMED

    kinds = {name for name, kind in vars(estimators).items() if isinstance(kind, type) and issubclass(kind, dasp.Estimator)}
    assert kinds - {"Estimator"} == set(NAMED) == {type(method).__name__ for method in METHODS}


BASELINES = [
    0.1,
    np.float32(0.1),
    ROWS.mean(0),
    ROWS.mean(0).double().numpy(),
    ROWS + 1,
    np.asarray(ROWS),
    dasp.PerRow(ROWS - 1),
    dasp.PerRow(np.asarray(ROWS)),
]


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda one: f"{type(one).__name__}{getattr(one, 'shape', '')}")
def test_every_kind_of_baseline_comes_back(baseline: Any, tmp_path: Path) -> None:
    again = same(dasp.Explainer(network(), baseline, method=dasp.Exact()), tmp_path / "kept")
    assert type(again.baseline) is (float if isinstance(baseline, np.number) else type(baseline))


PLAYERS = [MASK, MASK.numpy(), players.tokens(), players.channels(), players.features(list("abcdef"))]
PLAYERS.append(dasp.Players.from_mask(MASK, [(6,)]))


@pytest.mark.parametrize("asked", PLAYERS, ids=lambda one: type(one).__name__)
def test_every_kind_of_players_comes_back(asked: Any, tmp_path: Path) -> None:
    same(dasp.Explainer(network(), 0.0, players=asked, method=dasp.Exact()), tmp_path / "kept")


IMAGE_PLAYERS = [(players.grid(2, 3), dasp.Propagation(nodes=3)), (players.pixels(), dasp.Regression(budget=80))]


@pytest.mark.parametrize(("asked", "method"), IMAGE_PLAYERS, ids=["grid", "pixels"])
def test_images_come_back(asked: Any, method: dasp.Estimator, tmp_path: Path) -> None:
    same(dasp.Explainer(image_network(), IMAGES[0], players=asked, method=method), tmp_path / "kept", IMAGES)


SEMIVALUES = [dasp.Banzhaf(0.3), dasp.BetaShapley(4, 1), dasp.Semivalue.of_sizes([1 / 6] * 6)]


@pytest.mark.parametrize("semivalue", SEMIVALUES, ids=lambda one: type(one).__name__)
def test_semivalues_and_names_come_back(semivalue: Any, tmp_path: Path) -> None:
    explainer = dasp.Explainer(network(), 0.0, method=dasp.Exact(), semivalue=semivalue, feature_names=["a", *"BCDEF"])
    again = same(explainer, tmp_path / "kept")
    assert again.semivalue == semivalue
    assert again.feature_names == ("a", "B", "C", "D", "E", "F")


def test_several_inputs_with_shared_players_come_back(tmp_path: Path) -> None:
    rows = ROWS[:, :2], ROWS[:, 2:]
    masks = torch.tensor([0, 1]), torch.tensor([0, 1, 2, 2])
    same(dasp.Explainer(Two(), (0.5, rows[1].mean(0)), players=masks), tmp_path / "kept", rows)


def test_a_program_comes_back_and_the_folder_holds_no_row_of_its_example(tmp_path: Path) -> None:
    example = torch.full((2, 6), 12345.678)
    program = torch.export.export(network(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    same(dasp.Explainer(program, 0.0), tmp_path / "kept")
    assert example[:1].numpy().tobytes() not in (tmp_path / "kept" / "model.pt2").read_bytes()


def test_a_model_that_was_propagated_through_needs_no_rows_to_be_exported(tmp_path: Path) -> None:
    same(dasp.Explainer(network(), 0.0), tmp_path / "kept", inputs=None)


def test_a_model_that_was_not_needs_rows(tmp_path: Path) -> None:
    explainer = dasp.Explainer(network(), 0.0, method=dasp.Exact())
    with pytest.raises(dasp.InputError, match="inputs"):
        explainer.save_pretrained(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
    same(explainer, tmp_path / "kept", inputs=ROWS)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if bool((x[:, 0] > -100).all()) else self.inner(-x)


def test_a_model_that_cannot_be_exported_is_left_out_and_given_again(tmp_path: Path) -> None:
    model = Branching()
    explainer = dasp.Explainer(model, 0.0, method=dasp.Exact())
    with pytest.raises(dasp.CaptureError):
        explainer.save_pretrained(tmp_path / "kept", ROWS)
    folder = explainer.save_pretrained(tmp_path / "kept", model=False)
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.safetensors", "config.json"]
    with pytest.raises(dasp.InputError, match="without its model, a Branching: give it"):
        dasp.Explainer.from_pretrained(folder)
    again = dasp.Explainer.from_pretrained(folder, model=model)
    assert torch.equal(again(ROWS, 1).values, explainer(ROWS, 1).values)
    other = Branching()
    other.inner[1] = nn.Sigmoid()
    with pytest.raises(dasp.InputError, match="its layers, or the numbers that they hold beside weights, are not those"):
        dasp.Explainer.from_pretrained(folder, model=other)
    with torch.no_grad():
        model.inner[0].weight[0, 0] += 1e-6
    with pytest.raises(dasp.InputError, match="weights are not those"):
        dasp.Explainer.from_pretrained(folder, model=model)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "kept"
    return dasp.Explainer(network(), ROWS.mean(0)).save_pretrained(folder, ROWS)


@pytest.fixture
def kept(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "kept"))


def changed(folder: Path, **settings: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


@pytest.mark.parametrize("name", ["baseline.safetensors", "model.pt2", "config.json"])
def test_a_missing_file_is_named(kept: Path, name: str) -> None:
    (kept / name).unlink()
    with pytest.raises(dasp.DataFileError, match=f"{name}: no such file"):
        dasp.Explainer.from_pretrained(kept)


@pytest.mark.parametrize("name", ["baseline.safetensors", "model.pt2"])
def test_a_changed_file_is_named(kept: Path, name: str) -> None:
    data = bytearray((kept / name).read_bytes())
    data[-30] ^= 1
    (kept / name).write_bytes(data)
    with pytest.raises(dasp.DataFileError, match=f"{name}: was changed"):
        dasp.Explainer.from_pretrained(kept)


def test_a_later_format_is_named_with_the_version_that_wrote_it(kept: Path) -> None:
    changed(kept, format=7, dasp="3.2.1")
    with pytest.raises(dasp.DataFileError, match=r"format 7, written by dasp '3\.2\.1'.*reads format 1"):
        dasp.Explainer.from_pretrained(kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"name": "os.system", "options": {}}}, "none of this version"),
        ({"method": {"name": "Exact", "options": {"later": 1}}}, "takes no 'later'"),
        ({"method": {"name": "Refine", "options": {"keep": "/tmp/elsewhere.safetensors"}}}, "takes no 'keep'"),
        ({"method": {"name": "Propagation", "options": {"nodes": "many"}}}, "nodes"),
        ({"method": None}, "not a whole explainer"),
        ({"players": {"kind": "spiral"}}, "none of this version"),
        ({"players": {"kind": "grid"}}, "not a whole explainer"),
        ({"semivalue": {"name": "Weighting"}}, "none of this version"),
        ({"baseline": {"several": False, "parts": []}}, "not a whole explainer"),
        ({"files": {"baseline.safetensors": "0", "../../elsewhere": "0"}}, "does not list the files"),
    ],
)
def test_odd_settings_are_refused(kept: Path, settings: dict[str, Any], message: str) -> None:
    changed(kept, **settings)
    with pytest.raises((dasp.DataFileError, dasp.InputError, dasp.InputTypeError), match=message):
        dasp.Explainer.from_pretrained(kept)(ROWS, 1)


def test_a_method_within_a_method_without_end_is_refused(kept: Path) -> None:
    method: dict[str, Any] = {"name": "Regression", "options": {}}
    for _ in range(400):
        method = {"name": "Regression", "options": {"prior": method}}
    changed(kept, method=method)
    with pytest.raises(dasp.DataFileError, match="not a whole explainer saved by dasp"):
        dasp.Explainer.from_pretrained(kept)


@pytest.mark.parametrize("text", ["", "[1]", '{"format"', "\udcff"])
def test_a_config_that_is_none_is_refused(kept: Path, text: str) -> None:
    (kept / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(dasp.DataFileError):
        dasp.Explainer.from_pretrained(kept)


@dataclass(frozen=True, kw_only=True)
class Exact(dasp.Estimator):
    """An estimator of someone's own, which goes by the name of one of dasp's."""

    def estimate(self, game: Any, *, progress: bool = False) -> dasp.Estimate:
        raise AssertionError


def test_what_only_code_can_say_is_refused(tmp_path: Path) -> None:
    own = dasp.Explainer(network(), 0.0, method=Exact())
    with pytest.raises(dasp.InputError, match="Exact is an estimator of your own"):
        own.save_pretrained(tmp_path / "kept", ROWS)
    keeping = dasp.Explainer(network(), 0.0, method=dasp.Refine(keep=tmp_path / "pairs"))
    with pytest.raises(dasp.InputError, match="names a file of this machine"):
        keeping.save_pretrained(tmp_path / "kept", ROWS)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_explainer_is_replaced_and_nothing_else_is(kept: Path, tmp_path: Path) -> None:
    other = dasp.Explainer(network(), 0.7, method=dasp.Exact())
    other.save_pretrained(kept, ROWS)
    assert dasp.Explainer.from_pretrained(kept).baseline == 0.7
    (kept / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_text("")
    for place in (kept, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(dasp.OutputFileError, match="is not an explainer that dasp saved"):
            other.save_pretrained(place, ROWS)
    assert (kept / "thesis.tex").read_text() == "years of work"
    with pytest.raises(dasp.OutputFileError, match="cannot be written"):
        other.save_pretrained(tmp_path / "no" / "folder", ROWS)


def test_an_interrupt_leaves_the_folder_as_it_was(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dasp.Explainer(network(), 0.7).save_pretrained(kept, ROWS)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def test_a_save_that_was_killed_between_its_two_renames_says_where_the_old_one_is(kept: Path) -> None:
    old = kept.rename(kept.with_name(".kept.k2x.old"))
    with pytest.raises(dasp.DataFileError, match=r"no such folder.*what was there is now .*\.kept\.k2x\.old; rename that"):
        dasp.Explainer.from_pretrained(kept)
    old.rename(kept)
    dasp.Explainer.from_pretrained(kept)


def test_a_result_logs_to_mlflow_with_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'dasp[mlflow]'")
    import importlib.util

    path = Path(__file__).parents[1] / "examples" / "mlflow_run.py"
    spec = importlib.util.spec_from_file_location("mlflow_run", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own
        spec.loader.exec_module(example)
        found = example.main(tmp_path / "store")
    assert sorted(path.name for path in found.iterdir()) == ["explainer", "values.png", "values.safetensors"]
    assert (found / "values.png").read_bytes().startswith(b"\x89PNG")
    loaded = dasp.Attribution.load(found / "values.safetensors")
    again = dasp.Explainer.from_pretrained(found / "explainer")
    assert torch.equal(again(loaded.inputs[0], loaded.target).values, loaded.values)
