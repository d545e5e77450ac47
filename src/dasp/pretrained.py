"""Explainers in a folder: settings as JSON, tensors as safetensors, the model as an exported program; never a pickle."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import estimators, semivalues
from . import players as layouts
from .archive import checked
from .background import PerRow
from .checks import further, native
from .errors import DaspError, DataFileError, InputError, OutputFileError
from .estimators import Estimator
from .fingerprint import of_form, of_weights
from .game import Players
from .graph import quiet
from .model import Model, load_program

FORMAT = 1
CONFIG, TENSORS, PROGRAM = "config.json", "baseline.safetensors", "model.pt2"
METHODS = ("DASP", "Exact", "PermutationSampling", "Propagation", "Refine", "Regression", "VertexGradients")
SEMIVALUES = ("Banzhaf", "BetaShapley", "Semivalue")
PATHS = ("keep",)
"""Options that name files. A folder from elsewhere must not say where this machine writes."""


class Pretrained:
    """What lets an explainer be saved to a folder and made again from it; `dasp.Explainer` has these two methods."""

    model: Model
    baseline: Any
    method: Estimator
    players: Any
    memory: int
    feature_names: tuple[str, ...] | None
    semivalue: semivalues.Weighting | None

    def save_pretrained(
        self, folder: str | os.PathLike[str], inputs: Any = None, *, additional_forward_args: Any = None, model: bool = True
    ) -> Path:
        """Write the explainer to a folder: `config.json`, `baseline.safetensors` and `model.pt2`, all or nothing.

        Args:
            folder: made anew; one that holds a saved explainer and nothing else is replaced, any other refused.
            inputs: rows as they are explained, to export a module that has not been explained by propagation before.
            additional_forward_args: the further arguments that the model takes, if it does.
            model: False to leave the model out, as where it cannot be exported; loading then needs it.

        Returns:
            The folder.

        Raises:
            CaptureError: the model cannot be exported.
            InputError: the method, players or weights are of your own, so that their name says nothing; an option names a
                file; or the shape of a row is not known and `inputs` was left out.
            OutputFileError: the folder cannot be written, or holds something else.
        """
        with torch.inference_mode(False):
            tensors: dict[str, Tensor] = {}
            about = {
                "format": FORMAT,
                "dasp": _version(),
                "torch": torch.__version__,
                "method": _method_out(self.method),
                "semivalue": _semivalue_out(self.semivalue),
                "players": _players_out(self.players, tensors),
                "baseline": _baseline_out(self.baseline, tensors),
                "feature_names": self.feature_names,
                "memory": self.memory,
                "model": {
                    "name": self.model.name,
                    "weights": of_weights(self.model),
                    "form": of_form(self.model),
                    "saved": model,
                },
            }
            program = self.model.exported(self._examples(inputs), further(additional_forward_args)) if model else None

            def write(place: Path) -> None:
                save_file(tensors, place / TENSORS)
                if program is not None:
                    with quiet():
                        torch.export.save(program, place / PROGRAM)
                    # Without the example inputs, which may be rows of data, and sure to be read again.
                    copy = checked(place / PROGRAM)
                    (place / PROGRAM).write_bytes(copy.getbuffer())
                digests = {name: _digest(place / name) for name in (TENSORS, PROGRAM) if (place / name).exists()}
                text = json.dumps(about | {"files": digests}, indent=2, allow_nan=False)
                (place / CONFIG).write_text(text + "\n", encoding="utf-8")

            return _write_folder(Path(folder), write)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], model: Any = None) -> Self:
        """The explainer that `save_pretrained` wrote.

        Args:
            folder: where it is.
            model: the model, where it was left out or is to be used in place of the one saved; its weights must be the same,
                and its layers, where both are modules, or both programs.

        Raises:
            DataFileError: a file is missing, was changed, or is of another format; or an option is unknown.
            ModelFileError: the program cannot be read here.
            InputError: the folder holds no model and none is given, or the one given is another.
        """
        place = Path(folder)
        about = _read_config(place)
        try:
            known = about["model"]
            tensors = load_file(place / TENSORS)
            if model is None:
                if not known["saved"]:
                    raise InputError(
                        f"{place} was saved without its model, a {known['name']}: give it, from_pretrained(folder, model=...)."
                    )
                model = Model(load_program(place / PROGRAM))
            else:
                model = model if isinstance(model, Model) else Model(model)
                _check_model(model, known, place)
            device = model.device or torch.device("cpu")
            options = {
                "method": _method_in(about["method"]),
                "semivalue": _semivalue_in(about["semivalue"]),
                "players": _players_in(about["players"], tensors, device),
                "feature_names": about["feature_names"],
                "memory": about["memory"],
            }
            make: Callable[..., Self] = cls
            return make(model, _baseline_in(about["baseline"], tensors, device), **options)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError, OSError) as error:
            if isinstance(error, DaspError):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise DataFileError(f"{place} is not a whole explainer saved by dasp ({reason[:200]}). Save it again.") from error

    def _examples(self, inputs: Any) -> tuple[Tensor, ...]:
        """Rows to export with, empty where nothing tells their shapes but the model."""
        if inputs is not None:
            parts = inputs if isinstance(inputs, tuple) else (inputs,)
            dtype, device = self.model.dtype, self.model.device
            arrays = (torch.from_numpy(native(part)) if isinstance(part, np.ndarray) else part for part in parts)
            return tuple(x.to(device, dtype if x.is_floating_point() else None) for x in arrays)
        parts = self.baseline if isinstance(self.baseline, tuple) else (self.baseline,)
        rows = tuple(part.rows for part in parts if isinstance(part, PerRow))
        return self._examples(rows) if rows and len(rows) == len(parts) else ()


def _check_model(model: Model, known: dict[str, Any], place: Path) -> None:
    form, saved = of_form(model), known.get("form")
    wrong = "weights" if of_weights(model) != known["weights"] else ""
    if not wrong and saved is not None and saved["kind"] == form["kind"] and saved["digest"] != form["digest"]:
        wrong = "layers, or the numbers that they hold beside weights,"
    if wrong:
        raise InputError(
            f"model: its {wrong} are not those of the {known['name']} that {place} was saved with. Give the same model, or "
            "make a new explainer for this one."
        )


def _write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill a folder beside this one and rename it, so that an interrupt leaves no half folder."""
    if folder.is_symlink() or (folder.exists() and not _ours(folder)):
        raise OutputFileError(f"{folder}: is there, and is not an explainer that dasp saved. Give another name.")
    try:
        place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise OutputFileError(f"{folder}: cannot be written there ({error.strerror}).") from error
    old = place.with_name(place.name + ".old")
    try:
        write(place)
        mask = os.umask(0)
        os.umask(mask)
        place.chmod(0o777 & ~mask)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(place, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        if isinstance(error, DaspError):
            raise
        raise OutputFileError(f"{folder}: cannot be written ({error}).") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _ours(folder: Path) -> bool:
    """Whether a folder holds a saved explainer and nothing else, or nothing at all."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if not names:
        return True
    try:
        return names <= {CONFIG, TENSORS, PROGRAM} and "format" in _json(folder / CONFIG)
    except DataFileError:
        return False


def _read_config(place: Path) -> dict[str, Any]:
    """The settings, once the files are those that were written."""
    if not place.is_dir():
        kept = sorted(place.parent.glob(f".{glob.escape(place.name)}.*.old"))
        hint = f" A save over it was ended halfway: what was there is now {kept[-1]}; rename that." if kept else ""
        raise DataFileError(f"{place}: no such folder.{hint}")
    about = _json(place / CONFIG)
    if about.get("format") != FORMAT:
        raise DataFileError(
            f"{place} has format {about.get('format')!r}, written by dasp {about.get('dasp')!r}; this version of dasp "
            f"({_version()}) reads format {FORMAT}."
        )
    files = about.get("files")
    if not isinstance(files, dict) or TENSORS not in files or not files.keys() <= {TENSORS, PROGRAM}:
        raise DataFileError(f"{place / CONFIG}: does not list the files of an explainer.")
    for name, digest in files.items():
        if not (place / name).is_file():
            raise DataFileError(f"{place / name}: no such file; the folder is not whole. Copy or save it again.")
        if _digest(place / name) != digest:
            raise DataFileError(f"{place / name}: was changed after it was saved, or is damaged. Copy or save it again.")
    return about


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file; the folder holds no explainer saved by dasp.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataFileError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise DataFileError(f"{path}: holds no settings of an explainer.")
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version() -> str:
    try:
        return version("dasp")
    except PackageNotFoundError:
        return "unknown"


def _method_out(method: Estimator) -> dict[str, Any]:
    name = type(method).__name__
    if name not in METHODS or getattr(estimators, name) is not type(method):
        raise InputError(
            f"save_pretrained: {name} is an estimator of your own, which a folder cannot carry; only dasp's have a name that "
            "says what they do. Save the model and make the explainer in code."
        )
    options = {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]
    for path in PATHS:
        if options.pop(path, None) is not None:
            raise InputError(
                f"save_pretrained: {name}({path}=...) names a file of this machine. Save one without: "
                f"dataclasses.replace(method, {path}=None)."
            )
    return {"name": name, "options": {option: _option_out(value) for option, value in options.items()}}


def _option_out(value: Any) -> Any:
    if isinstance(value, Estimator):
        return _method_out(value)
    return [_option_out(one) for one in value] if isinstance(value, tuple) else value


def _method_in(about: dict[str, Any]) -> Estimator:
    name, options = about["name"], about["options"]
    if name not in METHODS:
        raise DataFileError(f"method: {str(name)[:80]!r} is none of this version of dasp ({', '.join(METHODS)}).")
    kind: Any = getattr(estimators, name)
    unknown = sorted(options.keys() - ({field.name for field in fields(kind)} - set(PATHS)))
    if unknown:
        raise DataFileError(f"method: {name} takes no {unknown[0][:80]!r} from a folder in this version of dasp.")
    made: Estimator = kind(**{option: _option_in(value) for option, value in options.items()})
    return made


def _option_in(value: Any) -> Any:
    if isinstance(value, dict):
        return _method_in(value)
    return tuple(_option_in(one) for one in value) if isinstance(value, list) else value


def _semivalue_out(semivalue: Any) -> dict[str, Any] | None:
    if semivalue is None:
        return None
    name = type(semivalue).__name__
    if name not in SEMIVALUES or getattr(semivalues, name) is not type(semivalue):
        raise InputError(f"save_pretrained: {name} are weights of your own, which a folder cannot carry; use dasp.Semivalue.")
    found: dict[str, Any] = semivalue.described()
    return found


def _semivalue_in(about: dict[str, Any] | None) -> Any:
    if about is None:
        return None
    if about["name"] not in SEMIVALUES:
        raise DataFileError(f"semivalue: {str(about['name'])[:80]!r} is none of this version of dasp.")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items() if key != "name"}
    return getattr(semivalues, about["name"])(**options)


def _players_out(players: Any, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    if players is None:
        return None
    if isinstance(players, Players):
        for i, label in enumerate(players.labels):
            tensors[f"players.{i}"] = _stored(label)
        return {"kind": "players", "count": players.count, "grouped": players.grouped, "names": players.names}
    if isinstance(players, layouts.Layout):
        kind = layouts.KINDS.get(type(players))
        if kind is None:
            raise InputError(f"save_pretrained: {type(players).__name__} is a layout of your own; give a mask as players=.")
        return {"kind": kind, **asdict(players)}  # type: ignore[call-overload]
    several = isinstance(players, tuple)
    for i, part in enumerate(players if several else (players,)):
        tensors[f"players.{i}"] = _stored(part)
    return {"kind": "mask", "parts": len(players) if several else None}


def _players_in(about: dict[str, Any] | None, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if about is None:
        return None
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items() if key != "kind"}
    if about["kind"] == "players":
        count = sum(name.startswith("players.") for name in tensors)
        labels = tuple(tensors[f"players.{i}"] for i in range(count))
        return Players(labels, int(about["count"]), bool(about["grouped"]), options["names"])
    if about["kind"] == "mask":
        parts = tuple(tensors[f"players.{i}"].to(device) for i in range(about["parts"] or 1))
        return parts[0] if about["parts"] is None else parts
    made = next((kind for kind, name in layouts.KINDS.items() if name == about["kind"]), None)
    if made is None:
        raise DataFileError(f"players: {str(about['kind'])[:80]!r} is none of this version of dasp.")
    return made(**options)


def _baseline_out(baseline: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    several = isinstance(baseline, tuple)
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(baseline if several else (baseline,)):
        rows = part.rows if isinstance(part, PerRow) else part
        if isinstance(rows, Tensor | np.ndarray):
            tensors[f"baseline.{i}"] = _stored(rows)
            kind = "array" if isinstance(rows, np.ndarray) else "tensor"
            parts.append({"kind": kind, "per_row": isinstance(part, PerRow), "shape": list(rows.shape)})
        elif isinstance(rows, int | float | np.number) and not isinstance(rows, bool):
            parts.append({"kind": "number", "value": rows.item() if isinstance(rows, np.number) else rows})
        else:
            raise InputError(f"baseline: expected numbers, tensors or arrays, got {type(rows).__name__}.")
    return {"several": several, "parts": parts}


def _baseline_in(about: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Any:
    found: list[Any] = []
    for i, part in enumerate(about["parts"]):
        if part["kind"] == "number":
            found.append(part["value"])
            continue
        rows = tensors[f"baseline.{i}"]
        one = rows.numpy() if part["kind"] == "array" else rows.to(device)
        found.append(PerRow(one) if part["per_row"] else one)
    return tuple(found) if about["several"] else found[0]


def _stored(values: Any) -> Tensor:
    """As safetensors take it: on the CPU, contiguous, sharing no memory."""
    try:
        made = torch.from_numpy(native(values)) if isinstance(values, np.ndarray) else values.detach()
        return made.cpu().clone().contiguous()
    except (TypeError, AttributeError):
        raise InputError(f"save_pretrained: {type(values).__name__} holds no numbers that a folder can carry.") from None
