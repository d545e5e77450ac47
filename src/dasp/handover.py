"""Results in the types of other packages: an `Explanation` of shap, `InteractionValues` of shapiq."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import CompletenessWarning, InputError, InputTypeError, MissingExtraError

if TYPE_CHECKING:
    from .attribution import Attribution
    from .audit import Audit
    from .interactions import Interactions

Array = np.ndarray[Any, Any]
LAYOUTS = ("players", "input", "image")


def explanation(result: Attribution, audit: Audit | None, layout: str, output_names: Sequence[str] | str | None) -> Any:
    """A `shap.Explanation`; see `Attribution.to_shap`."""
    shap = package("shap", "to_shap", "shap")
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}.")
    if "semivalue" in result.settings:
        warnings.warn(
            f"these are {result.settings['semivalue']['name']} values, which need not add up: where shap's plots write the "
            "output (waterfall, force, decision) they show base value + sum of values.",
            CompletenessWarning,
            stacklevel=3,
        )
    values = result.per_player.detach().double()
    low, high = (None, None) if audit is None else _bounds(values, audit)
    errors = None if result.standard_errors is None else result._flat(result.standard_errors).double()
    base, names = result.base_value, _names(result, output_names)
    arranged = {"values": values, "lower_bounds": low, "upper_bounds": high, "error_std": errors}
    made = {name: None if x is None else _arranged(result, x, layout) for name, x in arranged.items()}
    return shap.Explanation(
        **made,
        base_values=numpy(base),
        data=_data(result, layout),
        feature_names=list(result.player_names) if layout == "players" else None,
        output_names=names,
        compute_time=result.seconds.get("total"),
    )


def shapley_values(result: Attribution, row: int, target_index: int) -> Any:
    """`shapiq.InteractionValues` of first order; see `Attribution.to_shapiq`."""
    shapiq = package("shapiq", "to_shapiq", "shapiq")
    found, base = _first(result, row, target_index)
    return shapiq.InteractionValues(
        {**found, (): base},
        index=_index(result.settings, "SV", "BV"),
        max_order=1,
        min_order=0,
        n_players=result.players.count,
        baseline_value=base,
        **_spent(result),
    )


def interaction_values(
    pairs: Interactions, attribution: Attribution | None, row: int, target_index: int, index: str | None
) -> Any:
    """`shapiq.InteractionValues` of second order; see `Interactions.to_shapiq`."""
    shapiq = package("shapiq", "to_shapiq", "shapiq")
    plain = _index(pairs.settings, "SII", "BII")
    known = ("SII", "k-SII") if plain == "SII" else (plain,)
    if index is not None and index not in known:
        raise InputError(f"index: these are {plain} values; give {' or '.join(map(repr, known))}, got {index!r}.")
    adds_up = index is not None and index != plain
    if adds_up and (attribution is None or pairs.pairs is not None):
        raise InputError(f"index: {index} needs the interactions of all pairs, and the values as attribution=.")
    chosen, values = pairs.listed
    _check_place(values.shape[0], values.shape[1], row, target_index)
    found: dict[tuple[int, ...], float] = {
        (min(i, j), max(i, j)): float(value)
        for (i, j), value in zip(chosen.tolist(), values[row, target_index].detach().tolist(), strict=True)
    }
    base = 0.0
    if attribution is not None:
        _check_match(pairs, attribution)
        first, base = _first(attribution, row, target_index)
        found = {**first, **found}
    return shapiq.InteractionValues(
        found,
        index=plain,
        target_index=index or plain,
        max_order=2,
        min_order=2 if attribution is None else 1,
        n_players=len(pairs.names),
        baseline_value=base,
        **_spent(pairs),
    )


def package(name: str, what: str, extra: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{what} needs {name}: pip install 'dasp[{extra}]'.") from error


def numpy(x: Tensor) -> Array:
    """On the CPU; floating numbers as float64, which JSON takes in shap's pages."""
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def column(x: Tensor) -> Array:
    """On the CPU, as it is; half precision, which numpy and readers of tables lack, as float32."""
    x = x.detach().cpu()
    made: Array = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).numpy()
    return made


def _bounds(values: Tensor, audit: Audit) -> tuple[Tensor, Tensor]:
    """Ends of the interval of every player, (B, T, n), drawn out to hold the value."""
    errors, spread = audit.player_errors, audit.player_spread
    if errors is None or spread is None:
        raise InputError("audit: it has no intervals for players. Use result.audit(per_player=True).")
    audit.require_of(values)
    truth = values - errors.to(values.device)
    spread = spread.to(values.device)
    return torch.minimum(truth - spread, values), torch.maximum(truth + spread, values)


def _names(result: Attribution, given: Sequence[str] | str | None) -> Any:
    """Names of the outputs, one a target; or the one name."""
    if not result.several:
        if given is None or isinstance(given, str):
            return given
        if len(given) == 1:
            return given[0]
        raise InputError(f"output_names: {len(given)} names, and one target was explained. Give its name.")
    if given is None:
        index = result.targets[0].tolist()
        return [str(i[0]) if len(i) == 1 else str(tuple(i)) for i in index]
    if isinstance(given, str) or len(given) != result.targets.shape[1]:
        raise InputError(f"output_names: expected {result.targets.shape[1]} names, one for each target, got {given!r}.")
    return list(given)


def shared(result: Attribution, x: Tensor) -> list[Array]:
    """What players have (B, T, n), shared equally among their elements: (B, *shape_i, T) for every input."""
    owners = torch.cat([label.flatten() for label in result.players.labels])
    sizes = torch.bincount(owners, minlength=result.players.count).to(x)
    return [numpy(part.movedim(1, -1)) for part in result.players.spread(x / sizes)]


def _arranged(result: Attribution, x: Tensor, layout: str) -> Array:
    """(B, T, n) as a layout wants it, with the targets last, and without their axis where one was asked."""
    if layout == "players":
        made = numpy(x.movedim(1, -1))
    else:
        _one_input(result, layout)
        made = shared(result, x)[0]
        made = _channels_last(made, made.ndim - 2) if layout == "image" else made
    return made if result.several else made.squeeze(-1)


def _data(result: Attribution, layout: str) -> Any:
    """What the inputs hold, in the same arrangement; None where a player is several elements."""
    if layout != "players":
        x = numpy(result.inputs[0])
        return _channels_last(x, x.ndim - 1) if layout == "image" else x
    if result.tokens is not None:
        return np.array([_spaced(row) for row in result.tokens], dtype=object)
    flat = [numpy(x.flatten(1)) for x in result.inputs]
    joined = np.concatenate(flat, axis=1)
    if not result.players.grouped:
        return joined
    owners = torch.cat([label.flatten() for label in result.players.labels]).cpu()
    return joined[:, owners.argsort().numpy()] if len(owners) == result.players.count else None


def _one_input(result: Attribution, layout: str) -> None:
    if len(result.inputs) > 1:
        raise InputError(f"layout: {layout!r} is for one input, and there are {len(result.inputs)}. Use 'players'.")
    rank = result.inputs[0].ndim - 1
    if layout == "image" and rank not in (2, 3):
        shape = tuple(result.inputs[0].shape[1:])
        raise InputError(f"layout: an image has shape (height, width) or (channels, height, width), this input has {shape}.")


def _channels_last(x: Array, rank: int) -> Array:
    """(B, C, H, W, ...) or (B, H, W, ...) to (B, H, W, C, ...), for inputs of `rank` axes."""
    return np.expand_dims(x, 3) if rank == 2 else np.moveaxis(x, 1, 3)


def _spaced(tokens: Sequence[str]) -> list[str]:
    """Tokens as shap's text plot joins them: with the spaces between words."""
    marks = next((mark for mark in ("Ġ", "▁") if any(token.startswith(mark) for token in tokens)), None)
    if marks is not None:
        return [token.replace(marks, " ") for token in tokens]
    return [token[2:] if token.startswith("##") else f" {token}" for token in tokens]


def _first(result: Attribution, row: int, target_index: int) -> tuple[dict[tuple[int, ...], float], float]:
    """The values of one row and target by player, and the base value."""
    values = result.per_player
    _check_place(values.shape[0], values.shape[1], row, target_index)
    listed = values[row, target_index].detach().tolist()
    found: dict[tuple[int, ...], float] = {(i,): float(v) for i, v in enumerate(listed)}
    return found, float(result.base_value.reshape(values.shape[:2])[row, target_index])


def _spent(result: Attribution | Interactions) -> dict[str, Any]:
    return {"estimated": result.method != "Exact", "estimation_budget": round(result.evaluations)}


def _index(settings: dict[str, Any], shapley: str, banzhaf: str) -> str:
    """shapiq's name for what these values are."""
    weighting = settings.get("semivalue")
    if weighting is None:
        return shapley
    if weighting["name"] == "Banzhaf" and weighting["probability"] == 0.5:
        return banzhaf
    raise InputError(f"to_shapiq: shapiq has no index for {weighting['name']} values of these weights.")


def _check_place(rows: int, targets: int, row: int, target_index: int) -> None:
    for name, value, count in (("row", row, rows), ("target_index", target_index, targets)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputTypeError(f"{name}: expected an int, got {type(value).__name__}.")
        if not 0 <= value < count:
            raise InputError(f"{name}: there is no {value}; there are {count}, counted from 0.")


def _check_match(pairs: Interactions, attribution: Attribution) -> None:
    """Refuse values of other rows, targets, players or weights than the interactions."""
    rows, targets = pairs.per_target.shape[:2]
    same = {
        "rows": attribution.per_player.shape[0] == rows,
        "targets": attribution.per_player.shape[1] == targets and attribution.target == pairs.target,
        "players": attribution.player_names == pairs.names,
        "semivalues": attribution.settings.get("semivalue") == pairs.settings.get("semivalue"),
    }
    other = next((what for what, fits in same.items() if not fits), None)
    if other is not None:
        raise InputError(f"attribution: of other {other} than the interactions. Explain the same rows with the same explainer.")
