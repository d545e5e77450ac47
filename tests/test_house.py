"""The order of the house: which module may import which, and what importing dasp may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "dasp"

# From the ground up: a module imports only what stands above it here, a folder also from itself.
ORDER = (
    "errors",
    "whole",
    "semivalues",
    "special",
    "bounds",
    "truncated",
    "jets",
    "memory",
    "tables",
    "gaussian",
    "grouping",
    "law",
    "background_law",
    "size_law",
    "rules",
    "measured",
    "testing",
    "remedies",
    "rewrite",
    "composite",
    "inplace",
    "ready",
    "graph",
    "folding",
    "states",
    "propagate",
    "foreign",
    "archive",
    "model",
    "fingerprint",
    "targets",
    "background",
    "partition",
    "game",
    "background_game",
    "parts",
    "players",
    "handover",
    "notebook",
    "attribution",
    "interactions",
    "estimators",
    "audit",
    "checks",
    "baselines",
    "pretrained",
    "explainer",
    "options",
    "flags",
    "columns",
    "batch",
    "explain_command",
    "check_command",
    "huggingface",
    "captum",
    "shap",
    "axioms",
    "plots",
    "report",
    "experiments",
    "cli",
)
PLOTS_KNOW = {"attribution", "errors", "interactions", "plots"}
OPTIONAL = {
    "matplotlib", "pandas", "pyarrow", "captum", "shap", "shapiq", "sklearn", "scipy", "click", "keras", "transformers",
    "skorch", "pytorch_lightning", "onnx", "PIL", "ray", "mlflow",
}  # fmt: skip


def part_of(path: Path) -> str:
    """Name of the module or folder directly under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports when it runs; imports for type checkers do not count."""
    package = ["dasp", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(name.name.split(".")[1] for name in node.names if name.name.startswith("dasp."))
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full[:1] == ["dasp"]:
                found.update([full[1]] if len(full) > 1 else [name.name for name in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in ORDER, f"{part} has no place in the order of imports; give it one in this test"
    allowed = {*ORDER[: ORDER.index(part)], part}
    if part == "plots":
        allowed = PLOTS_KNOW
    assert imported(path) <= allowed


def test_the_order_names_only_what_exists() -> None:
    assert set(ORDER) == {part_of(path) for path in FILES}


def test_the_reader_of_imports_sees_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "rules").mkdir()
    file = tmp_path / "rules" / "one.py"
    file.write_text(
        "import dasp.game\nfrom dasp.law import x\nfrom dasp import model\nfrom .two import y\n"
        "from ..special import z\nfrom .. import plots\ndef f():\n    from ..cli import main\n"
        "if TYPE_CHECKING:\n    from ..audit import Audit\n"
    )
    assert imported(file) == {"game", "law", "model", "rules", "special", "plots", "cli"}


def test_importing_dasp_needs_no_extra() -> None:
    code = f"import sys, dasp; print(sorted({OPTIONAL!r} & {{name.split('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
