"""Checks the built site: every link leads to a page and a place that exist, and no page loads anything from elsewhere.

    python website/links.py out/site

Links to other hosts are listed, not fetched.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
NOT_LOADED = {"canonical", "next", "prev"}
FROM_A_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class Page(HTMLParser):
    """The links of a page, what it loads, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what a tag says."""
        given = {name: value for name, value in attrs if value is not None}
        self.places.update(given[name] for name in ("id", "name") if name in given)
        for name in ("href", "src"):
            if name not in given:
                continue
            loads = (tag, name) in LOADING and not NOT_LOADED & set(given.get("rel", "").split())
            (self.loaded if loads else self.links).append(given[name])


def faults(site: Path) -> tuple[list[str], set[str]]:
    """What is wrong in a site, a line each, and the links to other hosts."""
    pages = {path.resolve(): Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found: list[str] = []
    outside: set[str] = set()
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        found += [f"{where} loads {link}" for link in page.loaded if urlsplit(link).netloc]
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside.add(link)
                continue
            if where.name == "404.html" or link.startswith(("/", "javascript:")):
                continue  # that page is shown at any address, so its links begin at the root
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{where} links to {link}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places | {"__top"}:
                found.append(f"{where} links to {link}, and there is no such place")
    for style in sorted(site.rglob("*.css")):
        found += [f"{style.relative_to(site)} loads {one}" for one in FROM_A_STYLE.findall(style.read_text())]
    return found, outside


def main() -> None:
    """Check the site in the folder that is named."""
    site = Path(sys.argv[1])
    found, outside = faults(site)
    for link in sorted(outside):
        print(f"not looked at: {link}")
    if found or not (site / "index.html").is_file():
        sys.exit("\n".join(found) or f"there is no site in {site}")
    count = len(list(site.rglob("*.html")))
    print(f"{count} pages: every link leads to a place that is there, and nothing is loaded from elsewhere")


if __name__ == "__main__":
    main()
