"""Five tasks from the first page of the documentation, each in a clean environment, with the time from nothing to a picture.

For every task of docs/index.md: a new environment, the `pip install` that stands there, then its code and its commands, in an
empty folder. What is timed is all of it. A task fails if a command does, or if no picture is there in the end.

    python benchmarks/newcomer.py             # prints a table
    python benchmarks/newcomer.py --only text

pip takes its packages from where it is set up to; the time hangs on that, and on whether it has them already. The last column
is the load of the machine over the five minutes before; above the number of its cores the times say little.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds


def tasks() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each task, in order: kind (sh, python, console) and text."""
    sections = re.split(r"^## ", (ROOT / "docs" / "index.md").read_text(), flags=re.MULTILINE)[1:]
    blocks = {
        section.split("\n", 1)[0]: re.findall(r"^```(sh|python|console)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        for section in sections
    }
    return {title: found for title, found in blocks.items() if found}


def timed(blocks: list[tuple[str, str]], folder: Path) -> tuple[float, float]:
    """Seconds until the package is installed, and until the picture is there."""
    start = time.perf_counter()
    venv.create(folder / "env", with_pip=True)
    inside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    inside["PATH"] = f"{folder / 'env' / 'bin'}{os.pathsep}{inside['PATH']}"
    inside["MPLBACKEND"] = "Agg"
    work = folder / "work"
    work.mkdir()
    installed = 0.0
    for number, (kind, text) in enumerate(blocks):
        if kind == "python":
            (work / f"step{number}.py").write_text(text)
            command, where = [str(folder / "env" / "bin" / "python"), f"step{number}.py"], work
        else:
            lines = [line.removeprefix("$ ") for line in text.splitlines() if kind == "sh" or line.startswith("$ ")]
            command, where = ["bash", "-ec", "\n".join(lines)], ROOT if kind == "sh" else work
        done = subprocess.run(command, cwd=where, env=inside, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{text}\nended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        if kind == "sh":
            installed = time.perf_counter() - start
    if not list(work.glob("*.png")):
        sys.exit("there is no picture")
    return installed, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="tasks whose title holds this")
    asked = parser.parse_args()
    print(f"{'task':<44}{'installed':>12}{'picture':>12}{'load':>8}")
    late = False
    for title, blocks in tasks().items():
        if asked.only.lower() not in title.lower():
            continue
        with tempfile.TemporaryDirectory() as folder:
            installed, picture = timed(blocks, Path(folder))
        late |= picture > LIMIT
        print(f"{title:<44}{installed:>10.0f} s{picture:>10.0f} s{os.getloadavg()[1]:>8.1f}", flush=True)
    if late:
        sys.exit(f"a picture took longer than {LIMIT} seconds")


if __name__ == "__main__":
    main()
