"""What mkdocs does beyond its own: pages that lie outside of docs, links between them, formulas as MathML."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "project/overview.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changes.md",
}
"""Pages of the repository's root, and where they stand in the site."""

LINK = re.compile(r"(\]\()([^()\s]+)(\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for name, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository become links as they are in the site."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, uri: str) -> str:
    """The text of the page `uri` with its links turned from the repository's folders to those of the site.

    >>> linked("[a](../SECURITY.md#files) [b](plots.md) [c](#here)", "choose.md")
    '[a](project/security.md#files) [b](plots.md) [c](#here)'
    >>> linked("![a](docs/digits.png)", "project/overview.md")
    '![a](../digits.png)'
    """
    places = {site: name for name, site in OUTSIDE.items()}
    source = places.get(uri, f"docs/{uri}")

    def turned(link: re.Match[str]) -> str:
        path, mark, anchor = link[2].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        site = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        if site is None:
            return link[0]  # mkdocs says that it leads nowhere
        return f"{link[1]}{posixpath.relpath(site, posixpath.dirname(uri) or '.')}{mark}{anchor}{link[3]}"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)  # code is left as it is
    return "".join(part if i % 2 else LINK.sub(turned, part) for i, part in enumerate(parts))


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        latex = html.unescape(found[2].strip())
        block = found[1] == "div"
        inner = latex.removeprefix(r"\[" if block else r"\(").removesuffix(r"\]" if block else r"\)")
        made = convert(inner.strip(), display="block" if block else "inline")
        return f'<div class="formula">{made}</div>' if block else made

    return FORMULA.sub(drawn, content)
