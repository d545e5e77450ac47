"""Programs and their .pt2 files: the same values as the module, and whatever is no program refused."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp


def joined(result: dasp.Attribution) -> Tensor:
    values = result.values if isinstance(result.values, tuple) else (result.values,)
    return torch.cat([v.flatten(1) for v in values], 1)


def mlp() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))


def rows(seed: int = 0, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *(shape or (4,)), generator=generator, dtype=torch.float64)


def cnn() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(3, 4), nn.Softmax(-1),
    )  # fmt: skip
    model(torch.randn(20, 1, 3, 3))  # statistics that are not 0 and 1
    return model.eval()


COLUMNS = dasp.players.grid(3, 1)


def exported(model: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (torch.randn(3, *shape),), dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return exported(cnn(), 1, 3, 3)


@pytest.fixture(scope="module")
def saved(program: torch.export.ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "cnn.pt2"
    torch.export.save(program, path)
    return path


def explained(model: Any, method: dasp.Estimator | None = None) -> Tensor:
    x = rows(6, 1, 3, 3).float()
    return joined(dasp.Explainer(model, method=method, players=COLUMNS)(x, 1))


@pytest.mark.parametrize("form", ["program", "path", "text", "core ops"])
def test_a_program_or_its_file_gives_what_the_module_gives(
    form: str, program: torch.export.ExportedProgram, saved: Path
) -> None:
    source: Any = {"program": program, "path": saved, "text": str(saved)}.get(form)
    if form == "core ops":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = program.run_decompositions()
        targets = {str(node.target) for node in source.graph.nodes}
        assert {"aten.addmm.default", "aten._softmax.default", "aten.max_pool2d_with_indices.default"} <= targets
    torch.testing.assert_close(explained(source), explained(cnn()), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(explained(source, dasp.Exact()), explained(cnn(), dasp.Exact()), rtol=1e-5, atol=1e-7)


def test_a_program_exported_for_a_fixed_batch_is_refused() -> None:
    fixed = torch.export.export(mlp(), (rows().float(),))
    with pytest.raises(dasp.CaptureError, match=r"fixed batch size(.|\n)*Dim"):
        dasp.Explainer(fixed)(rows().float())


def test_a_program_with_other_open_sizes_is_refused() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().mean((1, 2))

    shapes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("width")},)
    program = torch.export.export(Mean(), (torch.randn(3, 4, 5),), dynamic_shapes=shapes)
    with pytest.raises(dasp.CaptureError, match="other open sizes"):
        dasp.Explainer(program)(torch.randn(3, 4, 2))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.5)], ids=["BatchNorm", "Dropout"])
def test_a_program_exported_in_training_mode_is_refused(layer: nn.Module) -> None:
    program = exported(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 1)).train(), 4)
    with pytest.raises((dasp.CaptureError, dasp.InputError), match=r"model.eval\(\)"):
        dasp.Explainer(program)(rows().float())


def test_a_program_checks_its_arguments(saved: Path) -> None:
    for x, says in [
        (torch.randn(2, 1, 4, 4), r"\(2, 1, 3, 3\)"),
        ((torch.randn(2, 1, 3, 3),) * 2, "1 arguments, got 2"),
        (torch.randn(2, 1, 3, 3, dtype=torch.float64), "float64"),
    ]:
        with pytest.raises(dasp.InputError, match=says):
            dasp.Explainer(saved)(x, 1)


def spoil(kind: str, saved: Path, path: Path) -> None:
    content = saved.read_bytes()
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a model")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 200]) + content[middle + 200 :])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hi")
    elif kind == "state_dict":
        torch.save(mlp().state_dict(), path)
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(mlp(), torch.zeros(2, 4)), str(path))
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "empty", "text", "cut", "flipped", "zip", "state_dict", "torchscript"]
)
def test_what_is_no_program_is_refused(kind: str, saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt2"
    spoil(kind, saved, path)
    with pytest.raises(dasp.ModelFileError, match=r"torch\.export\.save") as caught:
        dasp.Explainer(path)
    assert str(path) in str(caught.value)
    assert capfd.readouterr().err == ""  # the loader logs a traceback


@pytest.mark.parametrize("model", [None, 3, "", lambda x: x, {}])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises((dasp.InputTypeError, dasp.ModelFileError)):
        dasp.Explainer(model)
