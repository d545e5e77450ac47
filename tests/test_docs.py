"""What the pages show is run: the code of README, CONTRIBUTING and docs/plots.md, and the command lines' options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib as mpl
import pytest

import dasp
from dasp.cli import cli
from dasp.rules.registry import RULES

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/plots.md")
CONTINUES = "<!-- continues -->\n"


def examples() -> list[tuple[str, str]]:
    """Page with line, and code, of every python block; a block that continues is joined to the one before."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for block in re.finditer(rf"({CONTINUES})?```python\n(.*?)```", text, re.DOTALL):
            if block[1]:
                place, before = found.pop()
                found.append((place, before + block[2]))
            else:
                found.append((f"{page}:{text[: block.start()].count(chr(10)) + 1}", block[2]))
    return found


@pytest.mark.parametrize(("place", "code"), examples(), ids=[place for place, _ in examples()])
def test_examples_run_when_pasted(place: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RULES, "_rules", dict(RULES._rules))  # an example may add a rule; it goes away again
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_every_kind_of_addition_is_shown() -> None:
    assert sum(place.startswith("README") for place, _ in examples()) >= 1
    assert sum(place.startswith("CONTRIBUTING") for place, _ in examples()) == 3


def test_the_first_example_has_about_ten_lines() -> None:
    code = next(code for place, code in examples() if place.startswith("README"))
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_command_lines_have_options_that_exist() -> None:
    shown = re.findall(r"^\$ dasp (\w+) (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _ in shown} == {"explain", "check", "report", "reproduce"}
    for name, rest in shown:
        cli.commands[name].make_context(name, shlex.split(rest, comments=True))


def test_names_of_the_public_face_in_the_readme_exist() -> None:
    for dotted in re.findall(r"`?\bdasp\.((?:[a-zA-Z]\w*)(?:\.[a-z]\w*)?)", (ROOT / "README.md").read_text()):
        value: object = dasp
        for name in dotted.split("."):
            value = getattr(value, name)
