"""Files from elsewhere: what would run code or lead out of its folder is refused, by an error of ours, and runs nothing."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import pickle
import re
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dasp
from dasp.batch.images import Images
from dasp.batch.opening import open_source
from dasp.experiments import networks
from dasp.graph import quiet
from dasp.options import players_of

ROOT = Path(__file__).parents[1]
ROWS = torch.ones(2, 3)
Members = dict[str, bytes]
Edit = Callable[[Members, Path], None]


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture(scope="module")
def members() -> Members:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    program = torch.export.export(model, (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def saved(hostile: Any) -> bytes:
    file = io.BytesIO()
    torch.save(hostile, file)
    return file.getvalue()


def edited(members: Members, ending: str, old: str, new: str) -> None:
    name = next(name for name in members if name.endswith(ending))
    text = members[name].decode()
    assert old in text
    members[name] = text.replace(old, new).encode()


def pickled_weight(members: Members, mark: Path) -> None:
    edited(members, "weights_config.json", '"use_pickle": false', '"use_pickle": true')
    members["archive/data/weights/weight_0"] = saved(Hostile(mark))


def old_weights(members: Members, mark: Path) -> None:
    members["archive/data/weights/model.pt"] = saved({"0.weight": Hostile(mark)})


def opaque_constant(members: Members, mark: Path) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    name = next(name for name in members if name.endswith("constants_config.json"))
    members[name] = json.dumps({"config": {"thing": entry}}).encode()
    members["archive/data/constants/opaque_obj_0"] = pickle.dumps(Hostile(mark))


def renamed_constant(members: Members, mark: Path) -> None:
    opaque_constant(members, mark)
    members["archive/data/constants/tensor_0"] = members.pop("archive/data/constants/opaque_obj_0")


def size_in_python(members: Members, mark: Path) -> None:
    found = re.search(r"Symbol\('\w+', positive=True, integer=True\)", next(iter(models(members).values())).decode())
    assert found is not None
    edited(members, "models/model.json", found[0], f"__import__('os').mkdir('{mark}')")


def size_under_another_name(members: Members, mark: Path) -> None:
    name = next(iter(models(members)))
    program = json.loads(members[name])
    evil = {"as_expr": {"expr_str": f"__import__('os').mkdir('{mark}')", "hint": None}}
    program["graph_module"]["graph"]["sym_int_values"] = {"metadata": evil}
    members[name] = json.dumps(program).encode()


def target_outside(members: Members, mark: Path) -> None:
    edited(members, "models/model.json", '"torch.ops.aten.relu.default"', '"torch.serialization.os.mkdir"')


def reads_a_file(members: Members, mark: Path) -> None:
    edited(members, "models/model.json", '"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"')


def of_torchscript(target: str) -> Edit:
    """An edit that calls an operation which networks do not have, though `torch.ops` knows it."""

    def edit(members: Members, mark: Path) -> None:
        edited(members, "models/model.json", '"torch.ops.aten.relu.default"', f'"torch.ops.{target}"')

    edit.__name__ = target
    return edit


def structure_imports(members: Members, mark: Path) -> None:
    context = {"default_factory_module": "antigravity", "default_factory_name": "geohash", "dict_context": []}
    kind = {"type": "collections.defaultdict", "context": json.dumps(context), "children_spec": []}
    graph = json.loads(next(iter(models(members).values())))["graph_module"]
    old = graph["module_call_graph"][0]["signature"]["out_spec"]
    edited(members, "models/model.json", json.dumps(old), json.dumps(json.dumps([1, kind])))


def structure_names_an_enum(members: Members, mark: Path) -> None:
    enum = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
    edited(members, "models/model.json", '\\"context\\": \\"null\\"', '\\"context\\": ' + json.dumps(json.dumps(enum))[1:-1])


def name_is_source(members: Members, mark: Path) -> None:
    edited(members, "models/model.json", '"name": "input"', f"\"name\": \"input=__import__('os').mkdir('{mark}')\"")


def compiled_code(members: Members, mark: Path) -> None:
    members["archive/data/aotinductor/model/model.so"] = b"\x7fELF"


def two_folders(members: Members, mark: Path) -> None:
    members["elsewhere/models/model.json"] = b"{}"


def models(members: Members) -> Members:
    return {name: content for name, content in members.items() if "/models/" in name}


def written(members: Members, path: Path, mode: int = zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", mode) as archive:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path: Path, mark: Path, reason: str = "is refused") -> None:
    with pytest.raises(dasp.ModelFileError, match=reason):
        dasp.Explainer(path, 0.0)(ROWS)
    assert not mark.exists()


RUN_BY_TORCH: list[Edit] = [pickled_weight, old_weights, opaque_constant, size_in_python]
OTHERS: list[Edit] = [
    renamed_constant, size_under_another_name, target_outside, reads_a_file, structure_imports, structure_names_an_enum,
    name_is_source, compiled_code, two_folders,
    *map(of_torchscript, ("aten.save.default", "aten.manual_seed.default", "prim.Print.default", "prim.device.default",
                          "aten._print.default")),
]  # fmt: skip


@pytest.mark.parametrize("edit", [*RUN_BY_TORCH, *OTHERS], ids=lambda edit: edit.__name__)
def test_a_hostile_program_is_refused(edit: Edit, members: Members, tmp_path: Path, mark: Path) -> None:
    hostile = {f"archive/{name.partition('/')[2]}": content for name, content in members.items()}
    edit(hostile, mark)
    refused(written(hostile, tmp_path / "model.pt2"), mark)


@pytest.mark.parametrize("edit", RUN_BY_TORCH, ids=lambda edit: edit.__name__)
def test_torch_alone_runs_what_is_refused_here(edit: Edit, members: Members, tmp_path: Path, mark: Path) -> None:
    hostile = {f"archive/{name.partition('/')[2]}": content for name, content in members.items()}
    edit(hostile, mark)
    written(hostile, tmp_path / "model.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):
            torch.export.load(tmp_path / "model.pt2")
    assert mark.exists(), "torch became safer: see what dasp.archive need no longer refuse"


class Unusual(torch.nn.Module):
    """What sound programs hold besides plain operations: arithmetic on sizes, subgraphs, functions mapped over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = torch.nn.GRU(4, 3, batch_first=True)
        self.register_buffer("scale", torch.arange(3.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            doubled = torch.vmap(lambda row: row.sum(0) * 2)(x)
        halves = x.reshape(x.shape[0] * 2, -1).sum(1).reshape(x.shape[0], 2) + x.shape[0] // 2
        return torch.cat([self.recurrent(x)[0][:, -1] * self.scale, doubled, halves], dim=1)


def test_sound_programs_are_not_refused(tmp_path: Path) -> None:
    model, rows = Unusual().eval(), torch.randn(2, 6, 4)
    with quiet():
        program = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, tmp_path / "model.pt2")
    found = dasp.Model(tmp_path / "model.pt2").source
    assert isinstance(found, torch.export.ExportedProgram)
    assert torch.equal(found.module()(rows), model(rows))


def test_example_inputs_are_never_read(members: Members, tmp_path: Path, mark: Path) -> None:
    name = next(name for name in members if "/sample_inputs/" in name)
    path = written(members | {name: saved(((Hostile(mark),), {}))}, tmp_path / "model.pt2")
    sound = written(members, tmp_path / "sound.pt2")
    assert torch.equal(dasp.Explainer(path, 0.0)(ROWS).values, dasp.Explainer(sound, 0.0)(ROWS).values)
    assert not mark.exists()


def test_checks_of_arguments_are_never_executed(members: Members, tmp_path: Path, mark: Path) -> None:
    name = next(name for name in members if "/models/" in name)
    program = json.loads(members[name]) | {"guards_code": [f"__import__('pathlib').Path({str(mark)!r}).write_text('ran')"]}
    path = written(members | {name: json.dumps(program).encode()}, tmp_path / "model.pt2")
    sound = written(members, tmp_path / "sound.pt2")
    assert torch.equal(dasp.Explainer(path, 0.0)(ROWS).values, dasp.Explainer(sound, 0.0)(ROWS).values)
    assert not mark.exists()


def test_compressed_and_doubled_archives_are_refused(members: Members, tmp_path: Path, mark: Path) -> None:
    refused(written(members, tmp_path / "small.pt2", zipfile.ZIP_DEFLATED), mark, "is compressed")
    path = written(members, tmp_path / "twice.pt2")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(next(iter(members)), b"other")
    refused(path, mark, "have the same name")


def test_programs_of_torch_before_2_8_are_read_unless_their_weights_are_more(
    members: Members, tmp_path: Path, mark: Path
) -> None:
    from torch._export.serde import serialize

    path = written(members, tmp_path / "new.pt2")
    made = serialize.serialize(dasp.Model(path).source)  # type: ignore[arg-type]
    old = {
        "version": ".".join(map(str, serialize.SCHEMA_VERSION)).encode(),
        "serialized_exported_program.json": made.exported_program,
        "serialized_state_dict.pt": made.state_dict,
        "serialized_constants.pt": made.constants,
        "serialized_example_inputs.pt": saved(((Hostile(mark),), {})),
    }
    sound = dasp.Explainer(written(old, tmp_path / "old.pt2"), 0.0)(ROWS)
    assert torch.equal(sound.values, dasp.Explainer(path, 0.0)(ROWS).values)
    for part in ("serialized_state_dict.pt", "serialized_constants.pt"):
        refused(written(old | {part: saved({"x": Hostile(mark)})}, tmp_path / "hostile.pt2"), mark, "more than tensors")


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model.pth", "model.pkl"])
@pytest.mark.parametrize("content", [saved, pickle.dumps], ids=["torch.save", "pickle"])
def test_pickles_are_refused_under_every_name(name: str, content: Any, tmp_path: Path, mark: Path) -> None:
    (tmp_path / name).write_bytes(content(Hostile(mark)))
    refused(tmp_path / name, mark, "is refused|not a program")


def test_arrays_of_objects_are_refused(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([[Hostile(mark)]], dtype=object), allow_pickle=True)
    for read in (open_source, lambda where: players_of(str(where))):
        with pytest.raises(dasp.DataFileError, match=r"not a \.npy array"):
            read(path)
    assert not mark.exists()


def test_weights_of_the_experiments_are_no_pickles(tmp_path: Path, mark: Path) -> None:
    torch.save({"0.weight": Hostile(mark)}, tmp_path / "weights.pt")
    with pytest.raises(dasp.DataFileError, match="holds no weights"):
        networks._loaded(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path / "weights.pt")
    assert not mark.exists()


HEADERS = {
    "too long": (2**62).to_bytes(8, "little") + b"{}",
    "no json": (4).to_bytes(8, "little") + b"oops",
    "outside": (lambda head: len(head).to_bytes(8, "little") + head)(
        b'{"values.0":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    ),
    "short": b"\x01",
    "pickle": pickle.dumps([1]),
}


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.replace(" ", "-"))
def test_safetensors_with_a_wrong_header_are_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "values.safetensors"
    path.write_bytes(HEADERS[header])
    with pytest.raises(dasp.DataFileError, match="cannot read an attribution"):
        dasp.Attribution.load(path)
    explainer = dasp.Explainer(torch.nn.Linear(3, 1), 0.0, method=dasp.Refine(keep=path))
    with pytest.raises(dasp.DataFileError, match="keep: cannot read"):
        explainer(ROWS)


@pytest.mark.parametrize("kind", ["Lambda", "module"])
def test_a_hostile_keras_file_is_refused(kind: str, tmp_path: Path, mark: Path) -> None:
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed: pip install 'dasp[keras]'")
    layer: dict[str, Any] = {"module": "os", "class_name": "mkdir", "config": {"path": str(mark)}, "registered_name": None}
    if kind == "Lambda":
        code = {"class_name": "__lambda__", "config": {"code": "4wAAAAA=", "defaults": None, "closure": None}}
        layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "l", "function": code}}
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
    about = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
    content = {"config.json": config, "metadata.json": about, "model.weights.h5": {}}
    path = written({name: json.dumps(part).encode() for name, part in content.items()}, tmp_path / "model.keras")
    refused(path, mark, "keras could not load it")


def test_types_in_parquet_metadata_are_not_unpickled(tmp_path: Path, mark: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
    from pyarrow import parquet

    about = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Hostile(mark)),
    }
    field = pyarrow.field("a", pyarrow.float64(), metadata=about)
    table = pyarrow.table([pyarrow.array([1.0])], schema=pyarrow.schema([field]))
    parquet.write_table(table, tmp_path / "rows.parquet")
    with contextlib.suppress(dasp.DataFileError):
        open_source(tmp_path / "rows.parquet").read(0, 1)
    assert not mark.exists()


def picture(path: Path, level: int = 0) -> Path:
    from PIL import Image

    Image.new("L", (3, 3), level).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    pytest.importorskip("PIL", reason="pillow is not installed: pip install 'dasp[images]'")
    (tmp_path / "data").mkdir()
    picture(tmp_path / "data" / "a.png")
    picture(tmp_path / "secret.png", 200)
    return tmp_path / "data"


def test_pictures_of_other_formats_start_no_program(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("subprocess.Popen", lambda *command, **options: started.append(command))
    monkeypatch.setattr("subprocess.check_call", lambda *command, **options: started.append(command))
    (pictures / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    source = open_source(pictures)
    chunk = source.read(0, len(source))
    assert list(chunk.bad) == [1]
    assert not started


@pytest.mark.parametrize("target", ["../secret.png", "absolute", "../data/../secret.png"])
def test_links_out_of_a_folder_are_not_followed(target: str, pictures: Path) -> None:
    (pictures / "b.png").symlink_to(pictures.parent / "secret.png" if target == "absolute" else target)
    with pytest.raises(dasp.DataFileError, match=r"b\.png: is a link out of the folder"):
        open_source(pictures)


def test_linked_folders_are_named_and_not_silently_left_out(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    picture(tmp_path / "more" / "c.png")
    (pictures / "more").symlink_to(tmp_path / "more")
    with pytest.raises(dasp.DataFileError, match="more: is a link to a folder"):
        open_source(pictures)


def test_links_inside_a_folder_and_the_folder_itself_are_followed(pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to(pictures)
    assert len(open_source(pictures)) == len(open_source(tmp_path / "link")) == 2
    assert not open_source(tmp_path / "link").read(0, 2).bad


def test_a_picture_that_becomes_a_link_later_or_is_named_outside_is_a_bad_row(pictures: Path) -> None:
    source = open_source(pictures)
    (pictures / "a.png").unlink()
    (pictures / "a.png").symlink_to("../secret.png")
    assert source.read(0, 1).bad == {0: "cannot be read (it leads out of the folder)"}
    assert list(Images(pictures, ["../secret.png"], (1, 3, 3)).read(0, 1).bad) == [0]


def test_tables_behind_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "secret.npy", np.ones((1, 3)))
    (tmp_path / "data" / "a.npy").symlink_to("../secret.npy")
    with pytest.raises(dasp.DataFileError, match="link out of the folder"):
        open_source(tmp_path / "data")


def test_cells_that_look_like_paths_are_no_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
    (tmp_path / "secret.csv").write_text("1\n")
    (tmp_path / "rows.csv").write_text(f"a,b\n1,{tmp_path / 'secret.csv'}\n2,../secret.csv\n")
    source = open_source(tmp_path / "rows.csv")
    assert sorted(source.read(0, 2).bad) == [0, 1]


@pytest.mark.parametrize("inside", ["_set-aside", ".lock", "part-00000.parquet"])
def test_an_output_folder_with_links_is_not_written_through(inside: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".part-1.tmp").write_text("kept")
    (tmp_path / "out" / inside).symlink_to(tmp_path / "precious")
    np.save(tmp_path / "rows.npy", np.ones((2, 3), dtype=np.float32))
    with pytest.raises(dasp.OutputFileError):
        dasp.batch.explain(torch.nn.Linear(3, 1), tmp_path / "rows.npy", tmp_path / "out")
    assert [path.name for path in (tmp_path / "precious").iterdir()] == [".part-1.tmp"]


@pytest.mark.parametrize(
    "about",
    ["{", "[]", '{"run": 1, "part": 2}', '{"run": {}, "part": {}}', '{"run": {}, "part": {"part": "../../x"}}', "[" * 9999],
)  # fmt: skip
def test_parts_with_odd_metadata_are_refused(about: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dasp[table]'")
    from pyarrow import parquet

    (tmp_path / "out").mkdir()
    table = pyarrow.table({"a": [1.0]}).replace_schema_metadata({"dasp": about})
    parquet.write_table(table, tmp_path / "out" / "part-00000.parquet")
    np.save(tmp_path / "rows.npy", np.ones((2, 3), dtype=np.float32))
    with pytest.raises(dasp.OutputFileError):
        dasp.batch.explain(torch.nn.Linear(3, 1), tmp_path / "rows.npy", tmp_path / "out")


FILES = [path for folder in ("src", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
PICKLES = {
    "src/dasp/batch/shipping.py": "what a process packs for its own workers",
    "src/dasp/batch/ray_engine.py": "what its own workers send back",
    "src/dasp/experiments/networks.py": "the name of an error",
}
PROGRAMS = {"src/dasp/model.py": "a copy that dasp.archive looked through", "src/dasp/batch/shipping.py": "its own workers"}
BARRED = {"joblib", "dill", "cloudpickle", "shelve", "marshal", "yaml"}


def loads(tree: ast.AST) -> list[tuple[str, dict[str, Any]]]:
    """Every call whose name says that it reads objects, with its constant keywords."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("eval", "exec", "compile") or name.rpartition(".")[2] in ("load", "loads", "load_model", "read_pickle"):
                words = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
                found.append((name, words))
    return found


def faults(path: str, source: str) -> list[str]:
    """The reads of a file that may run code."""
    tree = ast.parse(source)
    wrong = []
    for name, words in loads(tree):
        fine = {
            "torch.load": words.get("weights_only") is True,
            "np.load": words.get("allow_pickle") is False,
            "numpy.load": words.get("allow_pickle") is False,
            "keras.saving.load_model": words.get("safe_mode") is True,
            "torch.export.load": path in PROGRAMS,
            "pickle.loads": path in PICKLES,
            "json.loads": True,
            "json.load": True,
            "Attribution.load": True,
            "dasp.Attribution.load": True,
            "top.load": True,  # a function of a rule
            "load": True,  # the file's own
        }.get(name, False)
        wrong += [] if fine else [name]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and {name.name for name in node.names} & {"load", "loads"}:
            wrong.append(f"from {node.module}")
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        roots = {name.partition(".")[0] for name in names}
        wrong += sorted(roots & BARRED) + (["pickle"] if "pickle" in roots and path not in PICKLES else [])
    return wrong


def test_nothing_here_unpickles_a_file() -> None:
    found = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
    assert {path: wrong for path, source in found.items() if (wrong := faults(path, source))} == {}
    assert set(PICKLES) | set(PROGRAMS) <= found.keys()


def test_the_search_finds_what_it_looks_for() -> None:
    source = "import pickle, joblib\nfrom torch import load\ntorch.load(p)\nnp.load(p, allow_pickle=True)\npickle.load(f)\n"
    found = {"torch.load", "np.load", "pickle.load", "eval", "torch.export.load", "joblib", "pickle", "from torch"}
    assert set(faults("src/x.py", source + "eval(x)\ntorch.export.load(p)\n")) == found


def test_the_core_needs_five_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=]", need)[0] for need in project["dependencies"]}
    assert names == {"torch", "numpy", "safetensors", "tqdm", "click"}
