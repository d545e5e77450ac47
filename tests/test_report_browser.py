"""Report pages in Chromium: how fast they open and filter, by mouse and by keyboard, whether everybody can read them, and that
nothing from data runs.

`make report-test` runs these; without playwright or Chromium they are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dasp

from .report_pages import HOSTILE, table, write_table

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make report-test")


def _files(package: str) -> list[Path]:
    """The files of an installed package, none where it is not."""
    try:
        return [Path(str(file.locate())) for file in metadata.files(package) or ()]
    except metadata.PackageNotFoundError:
        return []


CHROMIUM = os.environ.get("DASP_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium, or name one by DASP_CHROMIUM"
)

AXE = next((str(path) for path in _files("axe-playwright-python") if path.name == "axe.min.js"), None)
FEATURES = tuple(f"feature {i}" for i in range(18))
OPEN, FILTER = 3.0, 0.3  # seconds, most
Page = Any
Opener = Callable[..., Page]

FILTERED = """async ([name, text]) => {
  const input = document.querySelector(`input[aria-label="Filter ${name}"]`), count = document.getElementById("count");
  const before = count.textContent, start = performance.now();
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  while (count.textContent === before && performance.now() - start < 5000) await new Promise((go) => setTimeout(go, 1));
  await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
  return (performance.now() - start) / 1000;
}"""
"""Seconds from the last key to the painted table."""
OPENED = """async () => {
  while (!document.querySelector("#table .tabulator-row")) await new Promise((go) => setTimeout(go, 1));
  await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
  return performance.now() / 1000;
}"""
"""Seconds from the start of loading to the painted table."""


TOPS = """window.tops = [];
const look = () => {
  const row = document.querySelector("#table .tabulator-row"), top = row && row.getBoundingClientRect().top + scrollY;
  if (row && window.tops.at(-1) !== top) window.tops.push(top);
  requestAnimationFrame(look);
};
look();"""
"""Notes where the first row was seen, from frame to frame."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Opener]:
    """Opens a page in a fresh context; at the end nothing was asked of the network, and no script failed or was refused."""
    contexts, faults = [], []

    def requested(request: Any) -> None:
        if not request.url.startswith("file:"):
            faults.append(f"asked for {request.url}")

    def show(path: Path, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", requested)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.add_init_script("window.ran = () => { window.didRun = true; }")
        page.goto(path.as_uri())
        page.wait_for_selector("#table .tabulator-row")
        return page

    yield show
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hundred")
    about = {"model": "net.pt2", "method": "Propagation", "settings": {"nodes": 4}}
    values = write_table(folder / "values.parquet", table(100, FEATURES, audit=True), about)
    np.save(folder / "rows.npy", np.arange(1800.0).reshape(100, 18))
    return dasp.report.write(values, folder / "r.html", rows=folder / "rows.npy").path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    names = tuple(f"p_{i}_{j}" for i in range(8) for j in range(8))
    np.save(folder / "rows.npy", np.random.default_rng(0).random((12, 1, 8, 8)))
    values = write_table(folder / "values.parquet", table(12, names, targets=2))
    return dasp.report.write(values, folder / "r.html", rows=folder / "rows.npy").path


def rows_of(page: Page) -> Any:
    return page.locator("#table .tabulator-table .tabulator-row")


def column_of(page: Page, field: str) -> list[str]:
    return list(page.locator(f"#table .tabulator-table [tabulator-field={field}]").all_inner_texts())


def headline(page: Page) -> str:
    return str(page.inner_text("#detail-head"))


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.dataset.line ?? document.activeElement.id"))


SIZES = [(100, 18), (20_000, 18), pytest.param(20_000, 200, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "players"), SIZES)
def test_a_page_opens_in_3_seconds_and_filters_in_a_third(
    count: int, players: int, opened: Opener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(f"feature {i}" for i in range(players))
    values = write_table(tmp_path / "v.parquet", table(count, names, audit=True))
    path = dasp.report.write(values, tmp_path / "r.html").path
    opening, filtering = [], []
    for _ in range(3):  # the machine may be busy with other things
        page = opened(path)
        opening.append(page.evaluate(OPENED))
        page.wait_for_timeout(300)
        filtering.append(max(page.evaluate(FILTERED, ["feature 0", text]) for text in ("> 0.5", "-1..1", "< 0")))
    with capsys.disabled():
        print(f"\n{count:,} rows x {players}: opens in {min(opening):.2f} s, filters in {min(filtering):.3f} s")
    assert min(opening) < OPEN
    assert min(filtering) < FILTER


def test_the_page_says_what_it_is_about(hundred: Path, opened: Opener) -> None:
    page = opened(hundred)
    assert page.inner_text("h1") == "Attributions in values.parquet"
    assert "nodes=4" in page.inner_text("#about")
    assert "Relative error: median" in page.inner_text("#summaries")
    assert page.inner_text("#count") == "100 rows"
    page.wait_for_selector("#importance svg")
    order = page.locator("#importance svg text.name").all_text_contents()
    columns = table(100, FEATURES)
    assert order == sorted(FEATURES, key=lambda name: -float(np.abs(columns[name]).mean()))


def test_filters_leave_the_right_rows_and_say_how_many(hundred: Path, opened: Opener) -> None:
    page, columns = opened(hundred), table(100, FEATURES)
    page.wait_for_selector("#importance svg")
    page.get_by_label("Filter feature 0", exact=True).fill("> 1")
    want = int((columns["feature 0"] > 1).sum())
    page.get_by_text(f"{want} of 100 rows", exact=True).wait_for()
    assert all(float(text) >= 1 for text in column_of(page, "v0"))
    page.get_by_text(f"over the {want} rows that the filters leave").wait_for()
    page.get_by_label("Filter feature 1", exact=True).fill("-0.2 .. 0.2")
    want = int(((columns["feature 0"] > 1) & (np.abs(columns["feature 1"]) <= 0.2)).sum())
    page.get_by_text(f"{want} of 100 rows", exact=True).wait_for()
    page.click("#clear")
    page.locator("#count").get_by_text("100 rows", exact=True).wait_for()
    odd = page.get_by_label("Filter feature 0", exact=True)
    odd.fill("about one")
    page.wait_for_selector("input[aria-invalid=true]")
    assert "Not understood" in odd.get_attribute("title")
    assert page.inner_text("#count") == "100 rows"
    odd.fill("> 99")
    page.get_by_text("No row passes the filters.").wait_for()
    assert page.inner_text("#count") == "0 of 100 rows"


@pytest.mark.parametrize("text", [">= 2.5 %", ">= 2.5", "2.5 .. 100", "2.5%..100"])
def test_a_filter_of_a_share_is_in_percent_as_it_is_shown(text: str, hundred: Path, opened: Opener) -> None:
    page = opened(hundred)
    page.get_by_label("Filter audited error").fill(text)
    want = int((table(100, FEATURES, audit=True)["audit_error"] >= 0.025).sum())
    page.get_by_text(f"{want} of 100 rows", exact=True).wait_for()
    page.get_by_label("Filter output").fill("> 1 %")
    page.wait_for_selector("input[aria-label='Filter output'][aria-invalid=true]")


def test_heads_sort_by_mouse_and_keyboard(hundred: Path, opened: Opener) -> None:
    page, values = opened(hundred), table(100, FEATURES)["feature 0"]
    head = page.get_by_role("button", name="feature 0", exact=True)
    head.click()
    assert float(column_of(page, "v0")[0]) == pytest.approx(values.max(), rel=5e-3)
    head.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[tabulator-field=v0][aria-sort=ascending]")
    assert float(column_of(page, "v0")[0]) == pytest.approx(values.min(), rel=5e-3)


def test_a_row_opens_by_click_with_its_numbers(hundred: Path, opened: Opener) -> None:
    page, columns = opened(hundred), table(100, FEATURES)
    rows_of(page).nth(3).click()
    assert headline(page) == "Row 3"
    drawn = page.locator("#detail-body svg[role=img]").get_attribute("aria-label")
    assert f"from base 0.5 to output {columns['output'][3]:.4g}" in drawn.replace("base 0.5000", "base 0.5")
    largest = max(FEATURES, key=lambda name: abs(float(columns[name][3])))
    place = FEATURES.index(largest)
    assert f"Largest: {largest} = {3 * 18 + place} " in drawn
    page.get_by_text("All 18 contributions as a table").click()
    first = page.locator("#detail-body tbody tr").first.inner_text().split("\t")
    assert first[0] == largest
    assert float(first[2]) == pytest.approx(float(columns[largest][3]), rel=5e-3)
    steps = page.locator("#detail-body svg text.name").all_text_contents()
    assert len(steps) >= 11
    assert "8 others" in steps


def test_rows_stay_where_they_appear(hundred: Path, browser: Any) -> None:
    """Else a click that comes early falls beside its row: they were pushed down by 561 pixels once importance was drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(TOPS)
    page.goto(hundred.as_uri())
    page.wait_for_selector("#importance svg")
    page.wait_for_timeout(600)
    assert len(page.evaluate("window.tops")) == 1
    page.close()


def test_everything_by_keyboard(hundred: Path, opened: Opener) -> None:
    page = opened(hundred)
    row = rows_of(page).first
    assert page.locator("#table .tabulator-row[tabindex='0']").count() == 1
    row.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.activeElement.dataset.line === '1'")
    page.keyboard.press("Enter")
    assert headline(page) == "Row 1"
    page.keyboard.press("ArrowRight")
    assert headline(page) == "Row 2"
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.dataset.line === '2'")
    page.keyboard.press("Space")
    page.keyboard.press("End")
    page.wait_for_function("() => document.activeElement.dataset.line === '99'")
    page.keyboard.press("Space")
    assert page.inner_text("#compare") == "Compare (2 of 2 marked)"
    page.focus("#compare")
    page.keyboard.press("Enter")
    assert headline(page) == "Compare row 2 with row 99"
    page.keyboard.press("Escape")
    assert focused(page) == "compare"
    assert page.locator("#table .tabulator-row[tabindex='0']").count() == 1


def test_what_has_the_focus_can_be_seen(hundred: Path, opened: Opener) -> None:
    page = opened(hundred)
    page.keyboard.press("Tab")
    for _ in range(12):
        page.keyboard.press("Tab")
        style, what = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [s.outlineStyle + s.outlineWidth, e.outerHTML.slice(0, 99)] }"
        )
        assert style == "solid3px", what


def test_two_rows_are_compared_on_one_scale(hundred: Path, opened: Opener) -> None:
    page, columns = opened(hundred), table(100, FEATURES)
    assert page.is_disabled("#compare")
    for place in (5, 1, 2):  # a third takes the place of the first
        rows_of(page).nth(place).locator("input").check()
    assert page.locator("#table .marked").count() == 2
    page.click("#compare")
    assert headline(page) == "Compare row 1 with row 2"
    falls = page.locator("#detail-body .side svg[role=img]")
    names = [falls.nth(side).locator("text.name").all_text_contents() for side in (0, 1)]
    assert [name.split(" = ")[0] for name in names[0]] == [name.split(" = ")[0] for name in names[1]]
    page.get_by_text("All 18 differences as a table").click()
    first = page.locator("#detail-body tbody tr").first.inner_text().split("\t")
    apart = {name: float(columns[name][2] - columns[name][1]) for name in FEATURES}
    largest = max(apart, key=lambda name: abs(apart[name]))
    assert first[0] == largest
    assert float(first[-1]) == pytest.approx(apart[largest], rel=5e-3)
    widths = page.evaluate("""() => [...document.querySelectorAll('#detail-body .side svg[role=img]')].map(svg => {
      const bars = [...svg.querySelectorAll('rect')], texts = [...svg.querySelectorAll('text.small')];
      const said = texts.slice(texts.length - bars.length).map(text => Math.abs(Number(text.textContent)));
      return bars.map((bar, i) => [Number(bar.getAttribute('width')), said[i]])
    })""")
    scales = [width / number for side in widths for width, number in side if width > 20]
    assert max(scales) / min(scales) < 1.01


def test_images_are_drawn_over_what_they_explain(images: Path, opened: Opener) -> None:
    page = opened(images)
    rows_of(page).nth(1).click()
    assert headline(page) == "Row 0, target 1"
    names = tuple(f"p_{i}_{j}" for i in range(8) for j in range(8))
    columns = table(12, names, targets=2)
    values = np.array([columns[name][1] for name in names])
    pixels = np.array(
        page.evaluate("""() => { const c = document.querySelector('canvas.heat');
      return [...c.getContext('2d').getImageData(0, 0, 8, 8).data] }""")
    ).reshape(64, 4)
    strong = np.abs(values) > 0.5 * np.abs(values).max()
    redder = pixels[:, 0].astype(int) - pixels[:, 2].astype(int)
    assert strong.sum() >= 3
    assert np.array_equal(redder[strong] > 0, values[strong] > 0)
    held = np.load(images.parent / "rows.npy")[0, 0].reshape(64)
    faint = np.abs(values) < 0.003 * np.abs(values).max()
    assert np.corrcoef(held[faint], pixels[faint, 1])[0, 1] < -0.9  # bright in the data is dark ink on a light page
    box = page.locator("canvas.heat").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 2.5 / 8)
    assert page.inner_text(".tip").startswith("row 2, column 3: ")
    shown = float(page.inner_text(".tip").split(": ")[1])
    assert shown == pytest.approx(float(values[2 * 8 + 3]), rel=5e-3)


def test_targets_are_filtered_and_sorted_as_numbers(opened: Opener, tmp_path: Path) -> None:
    values = write_table(tmp_path / "v.parquet", table(3, FEATURES, targets=12))
    page = opened(dasp.report.write(values, tmp_path / "r.html").path)
    page.get_by_role("button", name="target", exact=True).click()
    page.wait_for_selector("[tabulator-field=target][aria-sort=ascending]")
    assert column_of(page, "target")[:9] == ["0", "0", "0", "1", "1", "1", "2", "2", "2"]
    page.get_by_label("Filter target").fill("1")
    page.locator("#count").get_by_text("9 of 36 rows").wait_for()
    page.get_by_label("Filter target").fill("= 1")
    page.locator("#count").get_by_text("3 of 36 rows").wait_for()


def test_columns_are_chosen_and_said(hundred: Path, opened: Opener) -> None:
    page = opened(hundred)
    assert page.inner_text("#choose") == "Columns (8 of 18 features)"
    page.click("#choose")
    page.get_by_label("Find a feature").fill("feature 17")
    page.get_by_label("contribution of feature 17").check()
    assert page.inner_text("#choose") == "Columns (9 of 18 features)"
    page.get_by_label("what was held by feature 17").check()
    page.wait_for_selector("[tabulator-field=x17]")
    assert float(column_of(page, "x17")[1]) == 35
    assert float(column_of(page, "v17")[1]) == pytest.approx(float(table(100, FEATURES)["feature 17"][1]), rel=5e-3)
    page.get_by_label("contribution of feature 17").uncheck()
    page.wait_for_selector("[tabulator-field=v17]", state="detached")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_follow_the_system_and_can_be_switched(theme: str, hundred: Path, opened: Opener) -> None:
    page = opened(hundred, color_scheme=theme)
    grounds = []
    for now in (theme, "dark" if theme == "light" else "light"):
        assert page.evaluate("document.documentElement.dataset.theme") == now
        grounds.append(page.evaluate("getComputedStyle(document.querySelector('#table .tabulator-row')).backgroundColor"))
        page.click("#theme")
    assert sorted(grounds) == ["rgb(255, 255, 255)", "rgb(28, 28, 28)"]


def test_a_page_fits_a_phone(hundred: Path, opened: Opener) -> None:
    page = opened(hundred, viewport={"width": 390, "height": 844})
    page.wait_for_selector("#importance svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    rows_of(page).first.click()
    assert page.evaluate("document.getElementById('detail').scrollWidth <= document.getElementById('detail').clientWidth")


def test_hostile_texts_are_shown_and_never_run(opened: Opener, tmp_path: Path) -> None:
    columns = table(9, HOSTILE)
    columns["target"] = np.array([*HOSTILE, "0", "1"], dtype=object)
    columns = {"sample": columns.pop("sample"), "file": np.array([*HOSTILE, "a", "b"], dtype=object), **columns}
    about = {"model": HOSTILE[0], "settings": dict.fromkeys(HOSTILE, HOSTILE[1]), HOSTILE[2]: HOSTILE[3]}
    values = write_table(tmp_path / f"{HOSTILE[1]}.parquet", columns, about)
    np.save(tmp_path / "rows.npy", np.ones((9, len(HOSTILE))))
    page = opened(dasp.report.write(values, tmp_path / "r.html", title=HOSTILE[0]).path)
    assert page.inner_text("h1") == HOSTILE[0]
    page.wait_for_selector("#importance svg")
    page.click("#choose")
    for summary in page.locator("summary").all():
        summary.click()
    rows_of(page).nth(0).locator("input").check()
    rows_of(page).nth(1).locator("input").check()
    rows_of(page).first.click()
    for _ in range(8):
        page.locator("#detail-body summary").click()
        page.hover("#detail-body svg text.name >> nth=0")
        page.click("#next")
    page.keyboard.press("Escape")
    page.click("#compare")
    page.locator("#detail-body summary").click()
    assert HOSTILE[0] in page.inner_text("#detail-head")
    page.keyboard.press("Escape")
    page.get_by_label("Filter file").fill(HOSTILE[0])
    page.get_by_text("1 of 9 rows", exact=True).wait_for()
    assert HOSTILE[0] in page.inner_text("#table .tabulator-table .tabulator-row")
    for name in ("HTML", "SVG"):
        assert page.evaluate("window.didRun") is None, name
    assert page.locator("img, iframe, object, embed, a:not(.skip), [onload], [onerror], [onclick]").count() == 0
    assert page.locator("#table svg, dl svg, h1 *, h2 *").count() == 0


def test_a_page_is_refused_the_network_and_other_scripts(hundred: Path, browser: Any) -> None:
    tries = """() => { const add = (tag, set) => document.body.append(Object.assign(document.createElement(tag), set));
      add('script', { textContent: 'window.didRun = true' }); add('img', { src: 'file:///x.png' });
      const box = document.createElement('div'); box.innerHTML = '<b onclick="window.didRun = true">x</b>';
      box.firstChild.click();
      return new Promise(go => setTimeout(() => go([window.didRun ?? null, [...refused].sort()]), 200)) }"""
    context = browser.new_context()
    page = context.new_page()
    page.goto(hundred.as_uri())
    page.evaluate(
        "() => { window.refused = [];"
        " document.addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective)) }"
    )
    assert page.evaluate(tries) == [None, ["img-src", "script-src-attr", "script-src-elem"]]
    context.close()


@pytest.mark.skipif(AXE is None, reason="axe-playwright-python, which brings axe.min.js, is not installed")
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing(theme: str, hundred: Path, images: Path, browser: Any) -> None:
    for path in (hundred, images):
        context = browser.new_context(color_scheme=theme, bypass_csp=True)
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("#importance svg")
        page.add_script_tag(path=AXE)

        def violations(page: Page = page) -> list[str]:
            found = page.evaluate("axe.run().then(found => found.violations)")
            return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]

        assert violations() == []
        rows_of(page).first.click()
        page.locator("#detail-body summary").click()
        assert violations() == []
        page.keyboard.press("Escape")
        rows_of(page).nth(0).locator("input").check()
        rows_of(page).nth(1).locator("input").check()
        page.click("#compare")
        assert violations() == []
        context.close()
