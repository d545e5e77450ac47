"""A report's content as the bytes of one HTML file, which loads nothing and runs only the scripts of this folder.

Everything that comes from data is inside elements that hold data: JSON in which no character can end an element, and base64.
The scripts write it with `textContent`. A policy in the page's head allows these scripts by their digests, and no connections.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from ..plots import _common as colours
from ..tables import Array
from .content import Content

MARK = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="dasp report">\n'
"""What a report starts with, by which an existing one is known."""
SCRIPTS = (
    "vendor/tabulator.min.js", "page/content.js", "page/elements.js", "page/bars.js", "page/heat.js", "page/rows.js",
    "page/detail.js", "page/page.js",
)  # fmt: skip
STYLES = ("vendor/tabulator_simple.min.css", "page/page.css")
_TEXT = ("file", "target", "ended")
_TINY, _HUGE = 1e-30, 3e38  # single precision ends a little beyond these
_IN_DOUBLE = ("sample",)  # row numbers may be larger than what float32 counts


def as_page(content: Content) -> bytes:
    """The page. The same content gives the same bytes."""
    arrays: dict[str, Array] = {}
    described = _described(content, arrays)
    held = {name: array.dtype.str[1:] for name, array in arrays.items()}
    data = [_data("content", "application/json", safe_json(described | {"arrays": held}))]
    data += [_data(f"array-{name}", "text/plain", _base64(array)) for name, array in arrays.items()]
    style = _style()
    scripts = [_asset(name) for name in SCRIPTS]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; style-src {_digest(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    head = (
        f'{MARK}<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(content.title)}</title>\n<style>{style}</style>\n</head>\n"
    )
    body = _asset("page/body.html") + "\n".join(data)
    run = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"{head}<body>\n{body}\n{run}\n</body>\n</html>\n".encode()


def safe_json(value: Any) -> str:
    """JSON in ASCII that no HTML parser can leave: without <, > and &, and without NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _described(content: Content, arrays: dict[str, Array]) -> dict[str, Any]:
    """What the page holds as JSON; numbers of which there are many go to `arrays`."""
    arrays |= {"values": _float(content.values), "importance": _float(content.importance)}
    for name in ("errors", "data"):
        if (found := getattr(content, name)) is not None:
            arrays[name] = _float(found)
    columns = []
    for name, column in content.columns.items():
        one: dict[str, Any] = {"name": name}
        if name in _TEXT:
            # As objects: numpy gives every cell of a text column the size of the longest.
            levels, codes = np.unique(np.array([str(cell) for cell in column], dtype=object), return_inverse=True)
            one["levels"] = levels.tolist()
            arrays[f"column-{name}"] = codes.astype("<u4")
        else:
            arrays[f"column-{name}"] = column.astype("<f8") if name in _IN_DOUBLE else _float(column)
        columns.append(one)
    grid = None
    if content.grid is not None:
        arrays["owners"] = content.grid.owners.astype("<i4")
        height, width = content.grid.size
        grid = {"layers": len(content.grid.owners), "height": height, "width": width}
    if content.pictures is not None:
        arrays["pictures"] = content.pictures
    return {
        "title": content.title,
        "about": content.about,
        "notes": content.notes,
        "names": content.names,
        "rows": len(content.values),
        "total": content.total,
        "columns": columns,
        "summaries": content.summaries,
        "shapley": content.shapley,
        "tokens": content.tokens,
        "grid": grid,
        "licence": _asset("vendor/tabulator.LICENSE"),
    }


def _data(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _base64(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _float(array: Array) -> Array:
    """In single precision, where that holds the largest of the numbers; else in double."""
    largest = np.abs(array).max(where=np.isfinite(array), initial=0)
    found: Array = array.astype("<f4" if _TINY < largest < _HUGE or not largest else "<f8")
    return found


def _text(text: str) -> str:
    """Text in HTML; what UTF-8 cannot hold becomes a question mark."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    """A file of this folder, without the line that has browsers fetch a map of it."""
    text = (files(__package__) / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "sourceMappingURL=" not in line[:40]]
    return "\n".join(lines) + "\n"


def _style() -> str:
    """All rules, with the colours of the package's plots."""
    light = {"positive": colours.POSITIVE, "negative": colours.NEGATIVE, "neutral": colours.NEUTRAL}
    dark = {"positive": colours.POSITIVE_ON_DARK, "negative": colours.NEGATIVE_ON_DARK, "neutral": "#9a9a9a"}
    on_light, on_dark = ("".join(f"--{name}:{colour};" for name, colour in set_.items()) for set_ in (light, dark))
    own = f":root{{{on_light}}}\n:root[data-theme=dark]{{{on_dark}}}\n"
    return own + "".join(map(_asset, STYLES))
