"""The documentation site: its pages are run, nothing public is left out of it, and its links lead somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import pytest

from dasp import errors
from dasp.rules.registry import RULES

pytest.importorskip("latex2mathml")
mpl.use("Agg")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GAP = "\x00"
INNER = {"dasp.shap.BehindLayer", "dasp.shap.Layers"}
"""Classes that only serve a public one."""


def script(name: str, folder: str = "website") -> ModuleType:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pages, hooks, links, docstrings = (script(name) for name in ("pages", "hooks", "links", "docstrings"))


@pytest.mark.slow
@pytest.mark.parametrize("page", pages.executed(), ids=lambda page: page.stem)
def test_pages_show_what_their_code_gives(
    page: Path, paper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASP_DATA", str(paper_data.resolve()))
    monkeypatch.setattr(RULES, "_rules", dict(RULES._rules))  # a page may add a rule; it goes away again
    pages.check(page, tmp_path)


def test_outputs_are_compared_by_words_and_numbers() -> None:
    assert pages.same("error 0.31 of 20 rows", "error 0.33 of 20 rows")
    assert not pages.same("error 0.31 of 20 rows", "error 0.93 of 20 rows")
    assert not pages.same("age +3.7", "sex +3.7")
    assert pages.same("2 % of it", "6 % of it")


def test_a_page_that_shows_something_else_is_stale(tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "run"
    folder.mkdir()
    page.write_text("```python\nprint('a', 1)\n```\n\n```text\nb 1\n```\n")
    with pytest.raises(pages.Stale, match="its code gives"):
        pages.check(page, folder)
    page.write_text("```python\nprint('a', 1)\n```\n")
    with pytest.raises(pages.Stale):
        pages.check(page, folder)
    page.write_text("```python\nx = 1\n```\n\n![a picture](none.png)\n")
    with pytest.raises(pages.Stale, match=r"none\.png"):
        pages.check(page, folder)


def test_commands_are_run_and_must_succeed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo here\n```\n")
    assert "$ echo here\nhere\n" in pages.run(page, tmp_path).text
    page.write_text("```console\n$ false\n```\n")
    with pytest.raises(RuntimeError, match="ended with 1"):
        pages.run(page, tmp_path)


@pytest.mark.parametrize("module", [pages, hooks, docstrings], ids=lambda module: module.__name__)
def test_examples_of_the_scripts_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def files_of_the_site() -> set[str]:
    return {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | set(hooks.OUTSIDE.values())


def test_the_menu_lists_every_page_once() -> None:
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().split("nav:")[1].split("validation:")[0])
    assert sorted(listed) == sorted(files_of_the_site())


def test_the_first_page_has_five_tasks_that_end_in_a_picture() -> None:
    tasks = script("newcomer", "benchmarks").tasks()
    assert len(tasks) == 5
    for title, blocks in tasks.items():
        assert blocks[0][0] == "sh", title
        assert "pip install" in blocks[0][1], title
        assert "savefig" in blocks[-1][1], title


def public_names() -> list[str]:
    """Everything that a package says is public (`x as x`), and what the modules that are called by users define."""
    found = []
    for package in ("", "plots", "batch", "axioms", "captum", "testing", "rules"):
        prefix = ".".join(part for part in ("dasp", package) if part)
        tree = ast.parse((ROOT / "src" / "dasp" / package / "__init__.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:  # `from . import x` are modules
                found += [f"{prefix}.{name.asname}" for name in node.names if name.asname == name.name]
    for module in ("huggingface", "shap", "players"):
        tree = ast.parse((ROOT / "src" / "dasp" / f"{module}.py").read_text())
        found += [
            f"dasp.{module}.{node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        ]
    return found


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    found = re.findall(r"^::: (\S+)\n(?:    options: \{ heading: ([\w.]+))?", text, re.MULTILINE)
    shown = [heading or name for name, heading in found]
    assert len(shown) == len(set(shown))
    missing = [name for name in public_names() if name not in shown and f"`{name}`" not in text]
    assert [name for name in missing if name not in INNER] == []


def test_every_error_is_in_the_troubleshooting_and_in_the_reference() -> None:
    classes = [
        name for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DaspError | Warning) and value is not errors.DaspError
    ]  # fmt: skip
    headings = re.findall(r"^## (\w+)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert set(headings) == set(classes)


def told() -> str:
    """Every text in the source, with a mark where a value is filled in."""

    def joined(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(joined(part) for part in node.values)
        return str(node.value) if isinstance(node, ast.Constant) else GAP

    texts = []
    for path in (ROOT / "src" / "dasp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                texts.append(joined(node))
    return "\n".join(texts)


def test_messages_in_the_troubleshooting_are_those_of_the_source() -> None:
    source = told()
    shown = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(shown) > 60
    lost = [
        message for message in shown
        if not re.search(f"[^\n]*{GAP}[^\n]*".join(re.escape(part) for part in message.strip("…").split("…")), source)
    ]  # fmt: skip
    assert lost == []


def places(page: Path) -> set[str]:
    """The places of a page that links can lead to, as they are named on the web."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


IN_THE_REPOSITORY = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in hooks.OUTSIDE)]


@pytest.mark.parametrize("page", IN_THE_REPOSITORY, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository_too(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in places(target), link


def test_the_site_is_built_without_warnings_and_loads_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found, _ = links.faults(tmp_path)
    assert found == []
    assert "<math" in (tmp_path / "mathematics.html").read_text()
    reference = (tmp_path / "reference" / "explaining.html").read_text()
    assert 'id="dasp.Explainer.__call__"' in reference
    # A function whose file has its name would be taken for the file.
    assert [page.name for page in (tmp_path / "reference").glob("*.html") if "doc-module" in page.read_text()] == []


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<script src="https://cdn.example/x.js"></script><a href="none.html">a</a><a href="#here">b</a><a href="https://x.example">c</a>'
    )
    (tmp_path / "site.css").write_text("body { background: url(https://fonts.example/f) }")
    found, outside = links.faults(tmp_path)
    assert len(found) == 4
    assert outside == {"https://x.example", "https://cdn.example/x.js"}


@pytest.mark.parametrize("page", ["comparison.md", "choose.md"])
def test_figures_that_are_quoted_stand_where_they_were_measured(page: str) -> None:
    text = (DOCS / page).read_text().split("## What goes wrong elsewhere")[0]
    places = ("README.md", "docs/frontier.md", "docs/architectures.md", "docs/paper.md")
    measured = "".join((ROOT / name).read_text() for name in places)
    quoted = re.findall(r"\b[01]\.\d{3}\b|\b\d+,\d{3}\b", text)
    assert len(quoted) > 8
    assert [figure for figure in quoted if figure not in measured] == []
