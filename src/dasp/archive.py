"""`.pt2` files, looked through before torch reads them: `torch.export.load` alone runs what a hostile one says.

It unpickles constants, example inputs and weights that the file marks so; it evaluates sizes as Python; it resolves the
target of a node to anything below `torch`; it imports modules that the structure of the arguments names; it loads compiled
code; it executes checks of the arguments; and names end up in source that `torch.fx` executes. An archive that needs any of
that is refused. What is left is data and calls of known operations. torch gets a copy without the example inputs and checks,
made from the very bytes that were looked at. Weights in the format of torch before 2.8 are pickles, which are read by
`torch.load(weights_only=True)` only.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import zipfile
from typing import Any

import torch

from .errors import ModelFileError

PLAIN = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
    r"|data/weights/(weight_\d+|\w+_weights_config\.json)|data/constants/(tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/\w+\.pt|models/\w+\.json|extra/.*"
)
"""Members of an archive that hold no code."""
OLD = re.compile(r"version|extra_files/.*|serialized_(exported_program\.json|(state_dict|constants|example_inputs)\.(json|pt))")
"""Members of an archive that torch before 2.8 wrote, whose weights are pickled."""
OPERATION = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)")
HIGHER = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "scan", "associative_scan"})
REFUSED = frozenset(
    {"aten.from_file", "aten._print", "c10d", "_c10d_functional", "_dtensor", "debugprims", "inductor", "profiler", "symm_mem"}
)
"""Operations and groups of them that reach outside of the computation."""
SYMBOLIC = re.compile(
    r"math\.[a-z0-9]+|torch\.sym_\w+|torch\._sym_\w+|torch\._C\._set_grad_enabled"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\._functorch\.predispatch\.(_(add|remove)_batch_dim|_vmap_(in|de)crement_nesting|lazy_load_decompositions)"
)
FUNCTIONS = frozenset(
    {
        "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "floor", "ceiling",
        "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan",
        "StrictGreaterThan", "GreaterThan", "And", "Or", "Not", "Piecewise", "FloorDiv", "ModularIndexing", "Where",
        "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow",
        "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat",
        "Identity", "IsNonOverlappingAndDenseIndicator", "OpaqueUnaryFn_sqrt", "OpaqueUnaryFn_log2",
    }
)  # fmt: skip
"""What a size may be made of, as sympy prints it."""
ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Load, ast.Name, ast.keyword, ast.Tuple, ast.Call, ast.Constant,
)  # fmt: skip
STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
WORD = re.compile(r"[A-Za-z_]\w*|")
NUMBER_OR_WORD = re.compile(r"[\w.+-]*")
PATH = re.compile(r"[^\"'\\\x00-\x1f]*")


class _Refused(Exception):
    """Why an archive is refused."""


def checked(path: str | os.PathLike[str]) -> io.BytesIO:
    """A copy of the archive at `path` that `torch.export.load` reads without unpickling or evaluating anything of the file's.

    Raises:
        ModelFileError: it holds code or pickles.
        ValueError: it holds no program at all.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(name) as archive:
            members = _members(archive, os.path.getsize(name))
        _check_members(members)
    except _Refused as refused:
        raise ModelFileError(
            f"{name} is refused: {refused}. Reading it may run code that whoever made it chose. Export the model again with "
            "torch.export; or, if you trust its maker, load it yourself and give the program: "
            "dasp.Explainer(torch.export.load(path), ...). See SECURITY.md."
        ) from None
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            example = "/data/sample_inputs/" in member or member.startswith("serialized_example_inputs.")
            archive.writestr(member, b"" if example else _without_guards(member, content))
    copy.seek(0)
    return copy


def _without_guards(member: str, content: bytes) -> bytes:
    """A program without the checks of its arguments, which are Python that torch would execute."""
    if not (member.partition("/")[2].startswith("models/") or member == "serialized_exported_program.json"):
        return content
    program = _json(content)
    if not (isinstance(program, dict) and program.get("guards_code")):
        return content
    return json.dumps(program | {"guards_code": []}).encode()


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    infos = archive.infolist()
    if len({info.filename for info in infos}) < len(infos):
        raise _Refused("two of its parts have the same name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(info.file_size for info in infos) > size:
        raise _Refused("it is compressed, which torch.export.save does not do")
    return {info.filename: archive.read(info) for info in infos}


def _check_members(members: dict[str, bytes]) -> None:
    roots = {name.partition("/")[0] for name in members}
    if "serialized_exported_program.json" in members:
        return _check_old(members)
    if not any(name.partition("/")[2].startswith("models/") for name in members):
        raise ValueError("there is none in the archive")
    if len(roots) > 1:
        raise _Refused("it is not one folder, as torch.export.save writes")
    for name, content in members.items():
        inside = name.partition("/")[2]
        if not PLAIN.fullmatch(inside):
            raise _Refused(f"it holds {inside[:80]!r}, which is not a plain part of an exported program")
        if inside.startswith("data/") and inside.endswith("_config.json"):
            _check_payloads(_json(content), "weight_" if inside.startswith("data/weights/") else "tensor_")
        if inside.startswith("models/"):
            _check_program(_json(content), "")


def _check_old(members: dict[str, bytes]) -> None:
    for name, content in members.items():
        if not OLD.fullmatch(name):
            raise _Refused(f"it holds {name[:80]!r}, which is not a plain part of an exported program")
        if name == "serialized_exported_program.json":
            _check_program(_json(content), "")
        elif name.startswith(("serialized_state_dict", "serialized_constants")) and content:
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception as error:  # the unpickler raises many kinds
                raise _Refused(f"{name} holds more than tensors ({type(error).__name__})") from error


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"a part of it is not JSON ({error})") from None


def _check_payloads(config: Any, prefix: str) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _Refused(f"{name[:80]!r} is pickled")
        if not re.fullmatch(prefix + r"\d+", str(entry.get("path_name"))):
            raise _Refused(f"{name[:80]!r} is stored as {str(entry.get('path_name'))[:80]!r}, which is not a plain tensor")


def _check_program(part: Any, key: str) -> None:
    """Every node's target, every size, structure and name of a program, however deep."""
    if isinstance(part, dict):
        for inner, value in part.items():
            _check_program(value, inner)
    elif isinstance(part, list):
        for value in part:
            _check_program(value, key)
    elif isinstance(part, str):
        if key in ("target", "as_operator"):
            _check_target(part)
        elif key == "expr_str":
            _check_size(part)
        elif key in ("in_spec", "out_spec"):
            _check_structure(part)
        elif key in ("name", "as_name", "forward_arg_names") and not WORD.fullmatch(part):
            raise _Refused(f"{part[:80]!r} is no name of a value")
        elif key.endswith("_name") and not PATH.fullmatch(part):
            raise _Refused(f"{part[:80]!r} is no name of a weight")


def _check_target(target: str) -> None:
    if SYMBOLIC.fullmatch(target):
        return
    found = OPERATION.fullmatch(target)
    if found is not None:
        group, name, overload = found.groups()
        packet = getattr(getattr(torch.ops, group), name, None)
        operation = getattr(packet, overload, None)
        known = isinstance(operation, torch._ops.OpOverload) and _dispatched(operation)
        if known and not {group, f"{group}.{name}"} & REFUSED:
            return
        if packet is None:
            raise _Refused(f"it calls {target}, which is not known here; import what registers it first")
    if target.startswith("torch.ops.higher_order.") and target.rpartition(".")[2] in HIGHER:
        return
    raise _Refused(f"it calls {target[:80]!r}, which is not an operation of a network")


def _dispatched(operation: torch._ops.OpOverload) -> bool:
    """Whether torch dispatches it; the other names in `torch.ops` are of TorchScript, which can write files, print and seed."""
    return torch._C._dispatch_has_kernel(operation.name())


def _check_size(text: str) -> None:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _Refused(f"{text[:80]!r} is no size") from None
    for node in nodes:
        fine = isinstance(node, ARITHMETIC)
        if isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        elif isinstance(node, ast.Name):
            fine = "__" not in node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            fine = NUMBER_OR_WORD.fullmatch(node.value) is not None and "__" not in node.value
        if not fine:
            raise _Refused(f"{text[:80]!r} is no size")


def _check_structure(text: str) -> None:
    if "__enum__" in text or "\\u" in text:
        raise _Refused("the structure of its arguments names code")

    def check(part: Any) -> None:
        if isinstance(part, dict):
            if "type" in part and part["type"] not in STRUCTURES:
                raise _Refused(f"its arguments or results are {str(part['type'])[:80]!r}, not tensors, tuples, lists and dicts")
            for value in part.values():
                check(value)
        elif isinstance(part, list):
            for value in part:
                check(value)

    check(_json(text.encode()))
