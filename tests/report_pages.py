"""Attributions for report pages, and what is inside a page."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = (
    "</script><img src=x onerror=ran()>",
    "<svg onload=ran()>",
    "\"><script>ran()</script><a href='javascript:ran()'>",
    "&lt;b&gt;${ran()}{{ran()}}",
    "<!--<script>",
    "__proto__",
    "\u2028\u2029\u202e\x01\t",
)
"""Names that would run something where they were taken for HTML or for a script."""
KINDS = {"f4": "<f4", "f8": "<f8", "u4": "<u4", "i4": "<i4", "u1": "u1"}


class Parsed(HTMLParser):
    """The elements of a page, and the texts of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self._open: tuple[str, dict[str, str | None], list[str]] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self._open = (tag, dict(attrs), [])

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open[2].append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._open is not None and tag == self._open[0]:
            self.texts.append((tag, self._open[1], "".join(self._open[2])))
            self._open = None

    def held(self) -> dict[str, Any]:
        """What the page holds, its arrays as numpy arrays."""
        texts = {about.get("id"): text for tag, about, text in self.texts if tag == "script" and about.get("id")}
        found: dict[str, Any] = json.loads(texts["content"])
        for name, kind in found["arrays"].items():
            found["arrays"][name] = np.frombuffer(base64.b64decode(texts[f"array-{name}"]), KINDS[kind])
        return found


def parsed(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def table(rows: int, names: tuple[str, ...], *, targets: int = 1, audit: bool = False, seed: int = 0) -> dict[str, Any]:
    """Columns as `dasp explain` writes them, of random numbers."""
    random = np.random.default_rng(seed)
    values = (random.normal(size=(rows * targets, len(names))) * np.exp(-np.arange(len(names)) / 5)).astype("f4")
    columns: dict[str, Any] = {
        "sample": np.repeat(np.arange(rows), targets),
        "target": np.tile(np.arange(targets), rows),
        **dict(zip(names, values.T, strict=True)),
        "base_value": np.full(rows * targets, 0.5, "f4"),
        "output": (0.5 + values.sum(1)).astype("f4"),
        "gap": (random.normal(size=rows * targets) * 1e-3).astype("f4"),
    }
    if audit:
        error = random.random(rows * targets) * 0.05
        columns |= {"audit_error": error, "audit_low": error / 2, "audit_high": 2 * error}
        columns["audit_evaluations"] = np.full(rows * targets, 2000)
    return columns


def write_table(path: Path, columns: dict[str, Any], about: Any = None) -> Path:
    """A parquet file with `about` as dasp's metadata, JSON or text."""
    import pyarrow
    from pyarrow import parquet

    made = pyarrow.table(columns)
    if about is not None:
        made = made.replace_schema_metadata({"dasp": about if isinstance(about, str) else json.dumps(about)})
    parquet.write_table(made, path)
    return path
