"""`dasp report`: what a page holds, that nothing in it runs or loads, and what is refused."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dasp
from dasp.cli import main
from dasp.report import content, of_file
from dasp.report.page import safe_json
from dasp.report.picture import of_labels, of_names, of_patches
from dasp.report.reading import Attributions
from dasp.report.summary import summaries

from .report_pages import HOSTILE, Parsed, parsed, table, write_table

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "dasp" / "report"
NAMES = ("age", "dose", "weight")
"""Names of players."""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_table(tmp_path / "values.parquet", table(10, NAMES, audit=True), {"model": "m.pt2", "method": "Propagation"})


def page_of(result: Any, tmp_path: Path, **options: Any) -> dict[str, Any]:
    """What a page about `result` holds."""
    dasp.report.write(result, tmp_path / "page.html", **options)
    return parsed(tmp_path / "page.html").held()


def said(held: dict[str, Any]) -> str:
    """All sentences and settings of a page."""
    topics = [sentence for topic in held["summaries"].values() for sentence in topic["sentences"]]
    return "\n".join([*held["notes"], *topics, *(f"{name}: {text}" for name, text in held["about"])]).replace("\u00a0", " ")


def column(held: dict[str, Any], name: str) -> Any:
    one = next(one for one in held["columns"] if one["name"] == name)
    found = held["arrays"][f"column-{name}"]
    return np.array(one["levels"])[found] if "levels" in one else found


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    return int(stop.value.code or 0)


# What is in a page


def test_a_page_holds_every_number_of_the_file(made: Path, tmp_path: Path) -> None:
    held, columns = page_of(made, tmp_path), table(10, NAMES, audit=True)
    values = np.stack([columns[name] for name in NAMES], axis=1)
    assert np.array_equal(held["arrays"]["values"].reshape(10, 3), values)
    assert np.allclose(held["arrays"]["importance"], np.abs(values).mean(0))
    assert held["names"] == list(NAMES)
    assert column(held, "sample").tolist() == list(range(10))
    assert set(column(held, "target")) == {"0"}
    for name in ("base_value", "output", "gap", "audit_error", "audit_high"):
        assert np.allclose(column(held, name), columns[name])
    median = f"{100 * np.median(columns['audit_error']):.2g} %"
    assert f"Relative error: median {median}" in said(held)
    assert "with 2,000 evaluations" in said(held)
    assert "Network: m.pt2" in said(held)
    assert sum(held["summaries"]["error"]["histogram"]["counts"]) + held["summaries"]["error"]["histogram"]["beyond"] == 10


def test_without_an_audit_the_page_says_so_and_how_to_get_one(tmp_path: Path) -> None:
    held = page_of(write_table(tmp_path / "v.parquet", table(3, NAMES)), tmp_path)
    assert "No audit was done" in said(held)
    assert "dasp explain ... --audit 2000" in said(held)
    assert "does not say how it was made" in said(held)


def test_a_csv_file_is_read_as_well(tmp_path: Path) -> None:
    columns = table(3, NAMES)
    lines = [columns, *zip(*columns.values(), strict=True)]
    (tmp_path / "v.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    held = page_of(tmp_path / "v.csv", tmp_path)
    assert np.allclose(held["arrays"]["values"].reshape(3, 3).T, [columns[name] for name in NAMES])


class Net(torch.nn.Module):
    """Three features, two outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * x[:, 1] + x[:, 2], 3 * x[:, 0] - x[:, 1] * x[:, 2]], dim=1)


def explained(target: Any = 0, **options: Any) -> dasp.Attribution:
    rows = torch.tensor([[1.0, 2.0, 3.0], [2.0, -1.0, 0.5], [0.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
    return dasp.Explainer(Net(), 0.0, **{"method": dasp.Exact(), "feature_names": list(NAMES)} | options)(rows, target)


def test_a_result_in_memory_shows_what_features_held_and_its_audit(tmp_path: Path) -> None:
    result = explained([0, 1])
    held = page_of(result, tmp_path, audit=result.audit(100))
    assert np.allclose(held["arrays"]["values"].reshape(4, 2, 3), result.values)
    assert np.array_equal(held["arrays"]["data"].reshape(4, 2, 3)[:, 1], result.inputs[0])
    assert column(held, "target").tolist() == ["0", "1"] * 4
    assert "median 0 %" in said(held)


def test_a_saved_result_gives_the_same_page_as_the_one_in_memory(tmp_path: Path) -> None:
    result = explained()
    held = page_of(result.save(tmp_path / "kept"), tmp_path, title="x")
    assert json.dumps(held, default=str) == json.dumps(page_of(result, tmp_path, title="x"), default=str)


def test_standard_errors_and_what_refine_says_are_shown(tmp_path: Path) -> None:
    sampled = page_of(explained(method=dasp.PermutationSampling(permutations=4, seed=0)), tmp_path)
    assert sampled["arrays"]["errors"].shape == (12,)
    held = page_of(explained(method=dasp.Refine(tolerance=0.05)), tmp_path)
    assert "The method measured its own error" in said(held)
    assert "4 rows ended because" in said(held)


def test_another_semivalue_need_not_add_up(tmp_path: Path) -> None:
    held = page_of(explained(semivalue=dasp.Banzhaf()), tmp_path)
    assert "These are not Shapley values" in said(held)
    assert not held["shapley"]
    about = {"run": {"semivalue": "Banzhaf(0.5)", "rows": 3}, "part": {"part": 0}, "settings": {}}
    held = page_of(write_table(tmp_path / "part-00000.parquet", table(3, NAMES), about), tmp_path)
    assert "These are not Shapley values" in said(held)


def test_tokens_are_the_names_of_their_row(tmp_path: Path) -> None:
    from dataclasses import replace

    tokens = tuple(tuple(f"{word}{row}" for word in "abc") for row in range(4))
    held = page_of(replace(explained(), tokens=tokens), tmp_path)
    assert held["tokens"][2] == ["a2", "b2", "c2"]
    assert "data" not in held["arrays"]


def test_what_explain_writes_is_read_with_its_rows(tmp_path: Path) -> None:
    program = torch.export.export(Net(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, tmp_path / "net.pt2")
    rows = np.arange(15.0).reshape(5, 3) / 7
    (tmp_path / "rows.csv").write_text("c,a,b\n" + "".join(f"{r[2]},{r[0]},{r[1]}\n" for r in rows.tolist()))
    command = ["explain", tmp_path / "net.pt2", tmp_path / "rows.csv", "--baseline", "zeros", "--columns", "a,b,c"]
    command += ["--target", "0"]
    for out, more in (("one.parquet", ["--audit", "64"]), ("many/", ["--part-rows", "2"])):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, command), "--out", f"{tmp_path}/{out}", *more])
        assert stop.value.code in (None, 0)
        assert run(tmp_path / out, "--rows", tmp_path / "rows.csv", "--out", tmp_path / "r.html") == 0
        held = parsed(tmp_path / "r.html").held()
        assert np.allclose(held["arrays"]["data"].reshape(5, 3), rows, atol=1e-6)
        assert held["names"] == ["a", "b", "c"]
        assert "Propagation" in said(held)
        assert "not the file that was explained" not in said(held)
        shuffled = tmp_path / "shuffled.csv"
        shuffled.write_text("c,a,b\n" + "".join(f"{r[2]},{r[0]},{r[1]}\n" for r in rows[::-1].tolist()))
        assert run(tmp_path / out, "--rows", shuffled, "--out", tmp_path / "r.html") == 0
        assert "not the file that was explained" in said(parsed(tmp_path / "r.html").held())


def test_a_folder_that_is_not_whole_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run_ = {"rows": 12, "part_rows": 3}
    for part in (0, 2):
        about = {"run": run_, "part": {"part": part, "set_aside": part}, "settings": {"method": "Exact"}}
        write_table(tmp_path / "out" / f"part-0000{part}.parquet", table(3, NAMES), about)
    held = page_of(tmp_path / "out", tmp_path)
    assert held["rows"] == 6
    assert "1 of the parts before the last one are not there" in said(held)
    assert "2 rows of the data set could not be explained" in said(held)
    assert "1 more parts of the run are not there yet" in said(held)


# Images


def test_pixels_and_patches_lie_where_they_are(tmp_path: Path) -> None:
    conv = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2 * 4 * 3, 1))
    images = torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    for players, layers in ((None, 2), (dasp.players.pixels(), 1), (dasp.players.grid(4, 3), 1)):
        method = dasp.VertexGradients(samples=4, seed=0)
        result = dasp.Explainer(conv, 0.0, players=players, method=method)(images)
        held = page_of(result, tmp_path)
        owners = held["arrays"]["owners"].reshape(layers, 6, 5)
        values = held["arrays"]["values"].reshape(3, -1)
        spread = result.as_input()
        assert isinstance(spread, torch.Tensor)
        expected = spread.sum(1) if players is None else spread[:, 0]
        assert np.allclose(values[:, owners].sum(1), expected, atol=1e-6)
        assert ("pictures" in held["arrays"]) == (players is not None)
    grey = images.mean(1)[1]
    shown = (grey - grey.min()) / (grey.max() - grey.min())
    assert np.allclose(held["arrays"]["pictures"].reshape(3, 6, 5)[1] / 255, shown, atol=0.003)


def test_names_that_say_a_place_make_an_image(tmp_path: Path) -> None:
    names = [f"p_{i}_{j}" for i in range(3) for j in range(4)]
    assert (grid := of_names(names)) is not None
    assert grid.owners.tolist() == np.arange(12).reshape(1, 3, 4).tolist()
    assert of_names([f"x[{c}, {i}, {j}]" for c in range(3) for i in range(2) for j in range(2)]).size == (2, 2)  # type: ignore[union-attr]
    for other in (names[:-1], names[::-1], [f"p{i}" for i in range(12)], [*names[:-1], "age"], ["p_9999999_1"] * 4):
        assert of_names(other) is None
    assert of_labels(np.arange(5)) is None


def test_patches_of_a_file_find_their_pixels_by_the_option_that_made_them() -> None:
    grid = of_names([f"patch_{i}_{j}" for i in range(2) for j in range(2)])
    assert grid is not None
    assert grid.patches
    found = of_patches(grid, "grid:3x2", (1, 5, 4))
    assert found is not None
    assert found.owners[0].tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 2
    for spec in (None, "grid:2x2", "../../mask.npy", "grid:0x0", 7):  # 5 pixels are two patches of 3 or of 4
        assert of_patches(grid, spec, (1, 5, 4)) is None
    only = of_patches(grid, None, (3, 3))
    assert only is not None
    assert only.owners[0].tolist() == [[0, 0, 1]] * 2 + [[2, 2, 3]]


def test_images_go_under_the_patches_of_a_file(tmp_path: Path) -> None:
    names = tuple(f"patch_{i}_{j}" for i in range(2) for j in range(2))
    path = write_table(tmp_path / "v.parquet", table(3, names), {"players": "grid:2x2"})
    np.save(tmp_path / "rows.npy", np.arange(48.0).reshape(3, 4, 4))
    held = page_of(path, tmp_path, rows=tmp_path / "rows.npy")
    assert held["grid"] == {"layers": 1, "height": 4, "width": 4}
    assert held["arrays"]["pictures"].reshape(3, 16)[0].tolist() == [17 * i for i in range(16)]
    path = write_table(tmp_path / "v.parquet", table(3, names))
    np.save(tmp_path / "rows.npy", np.zeros((3, 7, 7)))
    held = page_of(path, tmp_path, rows=tmp_path / "rows.npy")
    assert "not known which pixels belong to which patch" in said(held)


def test_a_folder_of_images_says_its_patches_in_words(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((3, 1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    explainer = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=dasp.players.grid(2, 3))
    dasp.batch.explain(explainer, tmp_path / "rows.npy", tmp_path / "out", progress=False)
    held = page_of(tmp_path / "out", tmp_path, rows=tmp_path / "rows.npy")
    assert "Players: patches of 2 x 3\n" in said(held)
    assert held["grid"] == {"layers": 1, "height": 4, "width": 4}


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (dasp.players.grid(2, 3), "grid:2x3"),
        (dasp.players.pixels(), "pixels"),
        (dasp.players.channels(), "channels"),
        (dasp.players.tokens(1), "tokens along axis 1"),
        (dasp.players.features(["a", "b"]), "features a, b"),
    ],
    ids=str,
)
def test_players_are_printed_as_the_command_line_has_them(layout: Any, text: str) -> None:
    assert repr(layout) == text


@pytest.mark.parametrize("scale", [1e300, 1e-60])
def test_values_beyond_single_precision_are_shown(scale: float, tmp_path: Path) -> None:
    columns = table(4, NAMES) | {name: scale * np.arange(1.0, 5.0) for name in (*NAMES, "output")}
    held = page_of(write_table(tmp_path / "v.parquet", columns), tmp_path)
    np.testing.assert_array_equal(held["arrays"]["values"].reshape(4, 3)[:, 0], columns["age"])
    np.testing.assert_array_equal(column(held, "output"), columns["output"])
    assert held["arrays"]["column-gap"].dtype == np.float32


# Bounded


def test_rows_that_are_left_out_are_told_and_targets_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table(tmp_path / "v.parquet", table(50, NAMES, targets=2))
    assert run(path, "--out", tmp_path / "r.html", "--rows-limit", 20) == 0
    held = parsed(tmp_path / "r.html").held()
    assert (held["rows"], held["total"]) == (20, 100)
    assert "20 of 100 rows are in this page, chosen evenly" in said(held)
    assert "--rows-limit" in capsys.readouterr().err
    assert column(held, "target").tolist() == ["0", "1"] * 10
    assert np.diff(np.unique(column(held, "sample"))).tolist() == pytest.approx([5.44] * 9, abs=1)
    columns = table(50, NAMES, targets=2)
    assert np.allclose(held["arrays"]["importance"], [np.abs(columns[name]).mean() for name in NAMES])


def test_a_page_does_not_grow_beyond_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"n{i}" for i in range(40))
    path = write_table(tmp_path / "v.parquet", table(300, names))
    monkeypatch.setattr(content, "MOST_BYTES", 20_000)
    held = page_of(path, tmp_path)
    assert 100 < held["rows"] < 125
    assert "to keep the page small" in said(held)
    monkeypatch.setattr(content, "LARGEST_BYTES", 30_000)
    with pytest.raises(dasp.CostError, match=r"rows_limit: a page of 300 rows.*ask for 1\d\d or fewer"):
        dasp.report.write(path, tmp_path / "page.html", rows_limit=300)


# Nothing runs, nothing loads


def test_hostile_texts_are_data_wherever_they_stand(tmp_path: Path) -> None:
    evil = HOSTILE[0]
    plain = write_table(tmp_path / "plain.parquet", table(4, tuple(f"n{i}" for i in range(len(HOSTILE)))))
    dasp.report.write(plain, tmp_path / "plain.html")
    columns = table(4, HOSTILE)
    columns["target"] = np.array([*HOSTILE[:3], "0"], dtype=object)
    columns = {"sample": columns.pop("sample"), "file": np.array(HOSTILE[:4], dtype=object), **columns}
    about = {"model": evil, "method": evil, evil: evil, "settings": {evil: [evil]}, "rows": {evil: evil}}
    path = write_table(tmp_path / "<img src=x onerror=ran()>.parquet", columns, about)
    dasp.report.write(path, tmp_path / "evil.html", title=evil + HOSTILE[4] + "\ud800")
    page = parsed(tmp_path / "evil.html")
    tags = [[tag for tag, _ in one.elements if tag != "script"] for one in (page, parsed(tmp_path / "plain.html"))]
    assert tags[0] == tags[1]
    assert {tag for tag, about in page.elements for name in about if name.startswith("on")} == set()
    held = page.held()
    assert held["names"] == list(HOSTILE)
    assert column(held, "file").tolist() == list(HOSTILE[:4])
    assert evil in said(held)
    source = (tmp_path / "evil.html").read_text(encoding="utf-8")
    assert "<img" not in source
    assert "ran()</script>" not in source


@pytest.mark.parametrize("text", HOSTILE)
def test_json_cannot_end_its_element(text: str) -> None:
    written = safe_json({text: [text, "\u2028\ud800"]})
    assert json.loads(written) == {text: [text, "\u2028\ud800"]}
    assert not set(written) & set("<>&\u2028")


def test_the_policy_allows_the_scripts_of_the_page_alone(made: Path, tmp_path: Path) -> None:
    dasp.report.write(made, tmp_path / "r.html")
    page = parsed(tmp_path / "r.html")
    policy = next(about["content"] for tag, about in page.elements if about.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert not re.search("unsafe|https?:|data:|blob:|[*]", policy)

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = [digest(text) for tag, about, text in page.texts if tag == "script" and "type" not in about]
    styles = [digest(text) for tag, about, text in page.texts if tag == "style"]
    assert policy == (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src {styles[0]}; base-uri 'none'; form-action 'none'"
    )
    assert len(styles) == 1


def test_a_page_names_no_other_place(made: Path, tmp_path: Path) -> None:
    dasp.report.write(made, tmp_path / "r.html")
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'`)]*", source)) == {"http://www.w3.org/2000/svg"}  # a name, never loaded
    assert "sourceMappingURL" not in source
    every = [pair for _, about in Parsed(source).elements for pair in about.items()]
    assert [value for name, value in every if name in ("src", "href", "srcset", "action")] == ["#rows"]
    assert "url(" not in source.split("<style>")[1].split("</style>")[0]


def test_our_scripts_never_read_text_as_html() -> None:
    barred = r"(inner|outer|Adjacent)HTML|document\.write|\beval\b|Function\(|DOMParser|srcdoc|fetch\(|XMLHttp|WebSocket"
    scripts = list((FOLDER / "page").glob("*.js"))
    assert len(scripts) > 5
    assert [path.name for path in scripts if re.search(barred, path.read_text())] == []


def test_paths_in_a_file_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("age,dose,weight\n" + "424242,1,1\n" * 4)
    about = {"rows": str(secret), "baseline": str(secret), "players": str(tmp_path / "mask.npy"), "model": str(secret)}
    columns = table(4, NAMES)
    columns = {"sample": columns.pop("sample"), "file": np.array([str(secret)] * 4, dtype=object), **columns}
    path = write_table(tmp_path / "v.parquet", columns, about)
    monkeypatch.setattr(of_file, "open_source", lambda *given, **more: pytest.fail("a path from the file was followed"))
    held = page_of(path, tmp_path)
    assert "data" not in held["arrays"]
    assert "424242" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("about", ["{", "[]", "[" * 9999, '{"run": 1, "part": 2}', '{"part": {"part": "../x"}}', "{}"])
def test_odd_metadata_are_shown_or_passed_over(about: str, tmp_path: Path) -> None:
    held = page_of(write_table(tmp_path / "v.parquet", table(3, NAMES), about), tmp_path)
    assert held["rows"] == 3
    assert len(said(held)) < 2000


def test_long_metadata_have_an_end(tmp_path: Path) -> None:
    about = {"model": "x" * 100_000, "settings": {f"n{i}": i for i in range(100_000)}}
    assert len(said(page_of(write_table(tmp_path / "v.parquet", table(3, NAMES), about), tmp_path))) < 3000


# What the page is built on


def test_what_is_shipped_is_what_was_published() -> None:
    listed = dict(re.findall(r"\| `([\w.]+)` \| `([0-9a-f]{64})` \|", (FOLDER / "vendor" / "README.md").read_text()))
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "vendor").iterdir()}
    there.pop("README.md")
    assert listed == there
    assert "MIT License" in (FOLDER / "vendor" / "tabulator.LICENSE").read_text()


def test_a_wheel_has_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dasp"]
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    inside = [path.relative_to(ROOT / "src" / "dasp").as_posix() for path in files]
    assert [path for path in inside if not any(fnmatch.fnmatch(path, one) for one in patterns)] == []


def test_the_page_carries_the_licence_of_what_it_is_built_on(made: Path, tmp_path: Path) -> None:
    assert page_of(made, tmp_path)["licence"] == (FOLDER / "vendor" / "tabulator.LICENSE").read_text() + "\n"


def test_the_same_input_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        dasp.report.write(made, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# Errors


def without(name: str) -> dict[str, Any]:
    return {key: column for key, column in table(3, NAMES).items() if key != name}


BAD: list[tuple[str, Any, str]] = [
    ("no sample", without("sample"), "is no file of attributions, for it has no column 'sample'. Give what `dasp explain"),
    ("no gap", without("gap"), "it has no column 'gap'"),
    ("order", dict(reversed(table(3, NAMES).items())), "in this order"),
    ("no players", table(3, ()), "in this order"),
    ("other column", table(3, NAMES) | {"extra": np.ones(3)}, "'extra' after gap is none that dasp writes"),
    ("half an audit", table(3, NAMES) | {"audit_error": np.ones(3)}, "has 'audit_error' but no 'audit_evaluations'"),
    ("text", table(3, NAMES) | {"dose": np.array(["a", "b", "c"], dtype=object)}, "column 'dose' holds string, not numbers"),
    ("NaN", table(3, NAMES) | {"dose": np.array([1, np.nan, 2])}, "column 'dose' holds a cell that is nan"),
    ("sample", table(3, NAMES) | {"sample": np.array([-1, 0, 1])}, "something else than row numbers"),
    ("no rows", {name: column[:0] for name, column in table(3, NAMES).items()}, "holds no rows"),
]


@pytest.mark.parametrize(("columns", "message"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_other_tables_are_refused(columns: Any, message: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "v.parquet", columns)
    with pytest.raises(dasp.DataFileError, match=re.escape(message)) as found:
        dasp.report.write(path, tmp_path / "r.html")
    assert str(path) in str(found.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["v.parquet"]


def test_files_that_are_no_tables_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("not a table")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "x.safetensors").write_text("no")
    (tmp_path / "folder").mkdir()
    for name in ("empty.parquet", "text.parquet", "empty.csv", "x.safetensors", "folder", "absent.parquet", "page.xlsx"):
        assert run(tmp_path / name, "--out", tmp_path / "r.html") == 2
        assert "error: " in (message := capsys.readouterr().err)
        assert name in message
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_two_runs_or_with_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    first = write_table(tmp_path / "out" / "part-00000.parquet", table(3, NAMES), {"run": {"a": 1}, "part": {"part": 0}})
    second = write_table(tmp_path / "out" / "part-00001.parquet", table(3, NAMES), {"run": {"a": 2}, "part": {"part": 1}})
    with pytest.raises(dasp.DataFileError, match="is of another run than"):
        dasp.report.write(tmp_path / "out", tmp_path / "r.html")
    write_table(second, table(3, ("x",)), {"run": {"a": 1}, "part": {"part": 1}})
    with pytest.raises(dasp.DataFileError, match="has other columns than"):
        dasp.report.write(tmp_path / "out", tmp_path / "r.html")
    second.unlink()
    second.symlink_to(first)
    with pytest.raises(dasp.DataFileError, match="is a link, and those are not followed"):
        dasp.report.write(tmp_path / "out", tmp_path / "r.html")


def test_every_reason_that_refine_ends_for_is_counted() -> None:
    reasons = ["tolerance", "exact", "budget", "memory", "rounding", "something new"]
    columns = {name: np.full(6, 0.1) for name in ("measured_error", "measured_bound", "row_evaluations", "gap")}
    said = summaries(columns | {"ended": np.array(reasons, dtype=object)}, shapley=True, hint="")["refined"]["sentences"]
    assert len([sentence for sentence in said if "ended" in sentence]) == 6


def test_rows_that_do_not_go_with_the_values_are_refused(made: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.ones((4, 3)))
    with pytest.raises(dasp.DataFileError, match="has 4 rows, but 10 were explained"):
        dasp.report.write(made, tmp_path / "r.html", rows=tmp_path / "few.npy")
    np.save(tmp_path / "wide.npy", np.ones((10, 4)))
    with pytest.raises(dasp.DataFileError, match=r"rows of shape \(4,\) do not go with 3 players such as 'age'"):
        dasp.report.write(made, tmp_path / "r.html", rows=tmp_path / "wide.npy")
    (tmp_path / "other.csv").write_text("a,b,c\n" + "1,2,3\n" * 10)
    with pytest.raises(dasp.DataFileError, match="do not go with 3 players"):
        dasp.report.write(made, tmp_path / "r.html", rows=tmp_path / "other.csv")
    (tmp_path / "hole.csv").write_text("age,dose,weight\n" + "1,2,3\n" * 6 + "1,,3\n" * 4)
    with pytest.raises(dasp.DataFileError, match="row 7: column 'dose' is empty"):
        dasp.report.write(made, tmp_path / "r.html", rows=tmp_path / "hole.csv")


def test_pages_go_only_where_nothing_is_lost(made: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("<!doctype html> mine")
    (tmp_path / "folder.html").mkdir()
    for name, message in (
        ("notes.html", "is there already and is no report of dasp. Name another file"),
        ("folder.html", "is a folder"),
        ("r.pdf", "give a name that ends in .html"),
        ("absent/r.html", "does not exist; make it first"),
    ):
        with pytest.raises(dasp.OutputFileError, match=re.escape(message)):
            dasp.report.write(made, tmp_path / name)
    assert (tmp_path / "notes.html").read_text() == "<!doctype html> mine"
    os.link(made, tmp_path / "values.html")
    with pytest.raises(dasp.OutputFileError, match="is read from, and would be lost"):
        dasp.report.write(made, tmp_path / "values.html")


def test_an_older_page_is_replaced_whole_or_not_at_all(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "r.html"
    dasp.report.write(made, out, title="old")
    before = out.read_bytes()

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(dasp.OutputFileError, match=r"writing failed .No space left"):
            dasp.report.write(made, out, title="new")
    with pytest.raises(dasp.DataFileError):
        dasp.report.write(tmp_path / "absent.parquet", out)
    assert out.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["r.html", "values.parquet"]
    dasp.report.write(made, out, title="new")
    assert out.read_bytes() != before
    assert out.stat().st_mode & 0o777 == made.stat().st_mode & 0o777


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"result": 3}, dasp.InputTypeError, "result: expected an Attribution or a path, got int"),
    ({"rows": 3}, dasp.InputTypeError, "rows: expected a path"),
    ({"rows": "x.npy"}, dasp.InputError, "holds its inputs; leave rows out"),
    ({"audit": 3}, dasp.InputTypeError, "audit: expected what result.audit"),
    ({"title": 3}, dasp.InputTypeError, "title: expected a string"),
    ({"rows_limit": 0}, dasp.InputError, "show at least 1 row"),
    ({"rows_limit": 1.5}, dasp.InputTypeError, "rows_limit: expected a whole number"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG)
def test_wrong_arguments_are_named(given: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path) -> None:
    result = given.pop("result", explained())
    with pytest.raises(kind, match=re.escape(message)):
        dasp.report.write(result, tmp_path / "r.html", **given)


def test_an_audit_of_another_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dasp.InputError, match="made for values of"):
        dasp.report.write(explained(), tmp_path / "r.html", audit=explained([0, 1]).audit(100))
    with pytest.raises(dasp.InputError, match="made for values other than these"):
        dasp.report.write(explained(0), tmp_path / "r.html", audit=explained(1).audit(100))
    result = explained(0)
    result.save(tmp_path / "kept")
    dasp.report.write(dasp.Attribution.load(tmp_path / "kept"), tmp_path / "r.html", audit=result.audit(100))
    with pytest.raises(dasp.InputError, match="a file has its own columns"):
        dasp.report.write("v.parquet", tmp_path / "r.html", audit=explained().audit(100))


def test_half_precision_is_reported(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [2.0, -1.0, 0.5]], dtype=torch.bfloat16)
    sampling = dasp.PermutationSampling(permutations=4)
    result = dasp.Explainer(torch.nn.Linear(3, 2).bfloat16(), 0.0, method=sampling)(rows, [0, 1])
    held = page_of(result, tmp_path)
    assert np.array_equal(held["arrays"]["values"].reshape(4, 3), result.per_player.float().reshape(4, 3).numpy())
    assert np.array_equal(held["arrays"]["data"].reshape(-1, 3)[0], rows[0].float().numpy())
    assert page_of(result.save(tmp_path / "saved"), tmp_path)["arrays"].keys() == held["arrays"].keys()


def test_a_csv_file_is_read_in_steps_with_the_types_of_its_columns(tmp_path: Path) -> None:
    columns = table(40_000, NAMES)
    columns["target"] = ["0"] * 39_999 + ["1,2"]
    columns["dose"][:] = 1  # text and fractions come after the first megabyte
    columns["dose"][-1] = 0.25
    lines = [columns, *zip(*columns.values(), strict=True)]
    quoted = "".join(",".join(f'"{cell}"' if isinstance(cell, str) else f"{cell:g}" for cell in line) + "\n" for line in lines)
    (tmp_path / "v.csv").write_text(quoted)
    found = Attributions.open(tmp_path / "v.csv")
    blocks = list(found.blocks())
    assert len(blocks) > 1
    assert np.allclose(np.concatenate([b.values for b in blocks]), np.stack([columns[n] for n in NAMES], 1), rtol=1e-4)
    assert [blocks[0].columns["target"][0], blocks[-1].columns["target"][-1]] == ["0", "1,2"]
    assert found.samples().tolist() == list(range(40_000))
    for cell, said in (("1.5", "1.5"), ("x", "x"), ("", "empty")):
        (tmp_path / "v.csv").write_text(f"sample,target,a,base_value,output,gap\n{cell},0,1,0,1,0\n")
        with pytest.raises(dasp.DataFileError, match=f"v.csv: .*{said}"):
            dasp.report.write(tmp_path / "v.csv", tmp_path / "r.html")
