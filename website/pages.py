"""Runs the code of a page and puts what it prints, and the pictures it saves, into the page; or checks that they still hold.

A page is Markdown. Its blocks of Python are run from top to bottom as one program, its blocks of console line by line, all in
one empty folder. What a Python block prints follows it as a block of text; what a command prints follows its line.

    python website/pages.py docs/tutorials/table.md            # run, and write outputs and pictures into docs
    python website/pages.py --check docs/tutorials/table.md    # run, and compare

Numbers may differ between processors: two outputs are the same if their words are, and their numbers are near.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\(([\w./-]+\.png)\)")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
NEAR, CLOSE, POINTS = 0.5, 0.1, 6.0
"""Numbers differ that are further apart than half the larger, than a tenth, and where they are percent than six."""
COLOURS = 160


class Stale(AssertionError):
    """A page shows something else than its code gives."""


@dataclass(frozen=True)
class Ran:
    """A page that was run: its text with the outputs of this run, the pictures it made, and the processor's seconds."""

    text: str
    pictures: dict[str, bytes]
    seconds: float


def run(page: Path, folder: Path) -> Ran:
    """Run the blocks of a page in `folder`, which is empty."""
    source, start = page.read_text(), _spent()
    names: dict[str, object] = {"__name__": "__main__"}

    def again(block: re.Match[str]) -> str:
        kind, code = block[1], block[2]
        line = source[: block.start()].count("\n") + 1
        if kind == "console":
            return f"```console\n{''.join(_commands(code))}```\n"
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile("\n" * line + code, str(page), "exec"), names)
        told = "".join(line.rstrip() + "\n" for line in printed.getvalue().splitlines())
        return f"```python\n{code}```\n" + (f"\n```text\n{told}```\n" if told else "")

    with _inside(folder):
        text = BLOCK.sub(again, source)
    missing = [name for name in PICTURE.findall(source) if "/" not in name and not (folder / name).is_file()]
    if missing:
        raise Stale(f"{page.name} shows {', '.join(missing)}, which its code does not make")
    pictures = {name: _small(folder / name) for name in PICTURE.findall(source) if "/" not in name}
    return Ran(text, pictures, _spent() - start)


def check(page: Path, folder: Path) -> Ran:
    """Run a page, and raise `Stale` where it shows something else than its code gives."""
    ran = run(page, folder)
    shown, given = ([b[3] or b[2] for b in BLOCK.finditer(text)] for text in (page.read_text(), ran.text))
    for before, now in zip(shown, given, strict=True):
        if not same(before, now):
            raise Stale(f"{page.name} shows\n{before}\nand its code gives\n{now}\nRun: python website/pages.py {page}")
    lacking = [name for name in ran.pictures if not (page.parent / name).is_file()]
    if lacking:
        raise Stale(f"{page.name}: {', '.join(lacking)} does not lie beside it. Run: python website/pages.py {page}")
    return ran


def same(one: str, other: str) -> bool:
    """Whether two outputs have the same words and nearly the same numbers.

    >>> same("error 0.31 of 20 rows", "error 0.33 of 20 rows"), same("error 0.3", "error 0.9"), same("a 1", "b 1")
    (True, False, False)
    >>> same("0 % of it", "5 % of it"), same("0 of it", "5 of it")
    (True, False)
    """
    one, other = (" ".join(text.split()) for text in (one, other))
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    for a, b in zip(NUMBER.finditer(one), NUMBER.finditer(other), strict=True):
        x, y = (float(found[0].replace(",", "")) for found in (a, b))
        least = POINTS if re.match(r" ?%", one[a.end() :]) else CLOSE
        if abs(x - y) > max(NEAR * max(abs(x), abs(y)), least):
            return False
    return True


def _commands(code: str) -> Iterator[str]:
    """The lines of a block of console, with what each command prints now."""
    lines = re.findall(r"^\$ (?:.*\\\n)*.*\n", code, re.MULTILINE)
    for line in lines:
        done = subprocess.run(["bash", "-c", line[2:]], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{line}ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        yield line + done.stdout


def _small(picture: Path) -> bytes:
    """A picture of few colours, a third as large as one of all."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _spent() -> float:
    """Seconds of the processor that this process and those that it ran have taken."""
    return sum(os.times()[:4])


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, where the commands of this environment are found."""
    before, path = Path.cwd(), os.environ["PATH"]
    os.chdir(folder)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    try:
        yield
    finally:
        os.chdir(before)
        os.environ["PATH"] = path


def main() -> None:
    """The pages named, run and written or checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="*", help="default: every page that is run")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    asked = parser.parse_args()
    import matplotlib as mpl

    mpl.use("Agg")
    for page in asked.pages or executed():
        page = page.resolve()
        with tempfile.TemporaryDirectory() as folder:
            try:
                ran = (check if asked.check else run)(page, Path(folder))
            except Stale as error:
                sys.exit(str(error))
        if not asked.check:
            page.write_text(ran.text)
            for name, picture in ran.pictures.items():
                (page.parent / name).write_bytes(picture)
        print(f"{page.relative_to(ROOT)}: {ran.seconds:.1f} s", flush=True)


def executed() -> list[Path]:
    """Every page whose code is run, in the order of the site."""
    tutorials = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
    return [ROOT / "docs" / "index.md", *tutorials, ROOT / "docs" / "add_a_rule.md"]


if __name__ == "__main__":
    main()
