"""Models of `transformers`, explained over the tokens of a text, or of a pair of texts, or the patches of an image.

A text's players are its tokens. An absent token is replaced by a baseline token (by [MASK], else by the padding token, else
by the end-of-text token); special tokens and padding are the same in the baseline, so they get exactly 0. The attention
mask, the token types and the positions of the text are kept, whatever is absent: also where a model would count them from
the ids.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import players as layouts
from .attribution import Attribution
from .background import PerRow
from .errors import InputError, InputTypeError
from .estimators import Estimator
from .explainer import GIB, Explainer
from .model import Model
from .players import Layout

_STAND_INS = ("mask", "pad", "eos", "unk")
_KINDS = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForCausalLM": "next token",
    "LMHeadModel": "next token",
    "ForImageClassification": "image",
}


def kind_of(model: nn.Module) -> str:
    """ "sequence", "token", "next token" or "image", by the name of the model's class.

    Raises:
        InputError: the class is none of these, or the model is an encoder with a decoder.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise InputError(
            f"{type(model).__name__} has a decoder with ids of its own, which dasp.huggingface cannot tell apart. Wrap it in "
            "a module that takes the ids to be explained and returns one tensor, and give that to dasp.Explainer."
        )
    for ending, kind in _KINDS.items():
        if type(model).__name__.endswith(ending):
            return kind
    raise InputError(
        f"{type(model).__name__} is not a model that dasp.huggingface knows: classes that end in "
        f"{', '.join(_KINDS)}. Wrap any other in a module that returns one tensor, and give it to dasp.Explainer."
    )


class _Scores(nn.Module):
    """The logits of a text model, at one position a row where it gives one score a position."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        # Decoders that classify look for the last token that is no padding among the ids; here the mask says which it is.
        self.scored = kind == "sequence" and isinstance(getattr(model, "score", None), nn.Module)
        self.per_position = kind != "sequence" or self.scored
        self.causal = kind == "next token" or self.scored
        self.caches = hasattr(getattr(model, "config", None), "use_cache")
        self.typed = _takes(model, "token_type_ids")
        self.padding = _padding_of_positions(model)
        self.places = self.padding is not None or (self.causal and _takes(model, "position_ids"))

    def positions(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """Position ids of the rows, (rows, tokens), where the model takes other ones than 0, 1, 2, ... for each column.

        Models as RoBERTa count the ids that are no padding; decoders, as in `generate`, those that the mask keeps.
        """
        if not self.places:
            return None
        if self.padding is not None:
            kept = (ids != self.padding).long()
            return kept.cumsum(1) * kept + self.padding
        return ((mask != 0).long().cumsum(1) - 1).clamp(min=0)

    def forward(
        self, ids: Tensor, mask: Tensor, position: Tensor, places: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """Logits (rows, classes) of token ids and their attention mask, (rows, tokens) each.

        `position` (rows,) is where a row is scored; `places` its position ids and `types` its token types (rows, tokens), or
        None.
        """
        options: dict[str, Any] = {"use_cache": False} if self.caches else {}
        if places is not None:
            options["position_ids"] = places
        if types is not None:
            options["token_type_ids"] = types
        options |= {"input_ids": ids, "attention_mask": mask, "return_dict": True}
        if self.scored:
            logits: Tensor = self.model.score(self.model.base_model(**options).last_hidden_state)  # type: ignore[operator]
        else:
            logits = self.model(**options).logits
        if not self.per_position:
            return logits
        index = position.reshape(-1, 1, 1).expand(-1, 1, logits.shape[-1])
        return logits.gather(1, index).squeeze(1)


def _padding_of_positions(model: nn.Module) -> int | None:
    """The padding id of a model that counts positions from its ids, as RoBERTa does."""
    for layer in model.modules():
        if hasattr(layer, "create_position_ids_from_input_ids") and isinstance(getattr(layer, "padding_idx", None), int):
            return int(layer.padding_idx)  # type: ignore[arg-type]
    return None


def _takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


class _Pixels(nn.Module):
    """The logits of an image classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, classes) of pixels (rows, channels, height, width)."""
        logits: Tensor = self.model(pixel_values=pixels, return_dict=True).logits
        return logits


def _single(model: nn.Module) -> nn.Module:
    """The model in float32: a copy where it is in half precision, in which moments would be lost."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16}:
        return copy.deepcopy(model).float()
    return model


class TextExplainer:
    """Explains sequence classifiers, token classifiers (one position) and causal language models (the next token).

    Args:
        model: a model of `transformers`. One in half precision is explained in a float32 copy.
        tokenizer: its tokenizer; None where token ids are given.
        baseline: what stands for an absent token: "mask", "pad", "eos", "unk", a token, or a token id. None takes the
            first of these four that the tokenizer has.
        method: the estimator; moment propagation by default.
        memory: bytes that one chunk of work may take.

    Raises:
        InputTypeError, InputError: the model is of an unknown kind, or there is no such baseline token.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, *, baseline: str | int | None = None, method: Estimator | None = None,
        memory: int = GIB,
    ) -> None:  # fmt: skip
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model: expected a model of transformers, got {type(model).__name__}.")
        self.kind = kind_of(model)
        if self.kind == "image":
            raise InputError(f"{type(model).__name__} takes images: use dasp.huggingface.ImageExplainer.")
        self.tokenizer = tokenizer
        self.baseline = _baseline_id(baseline, tokenizer)
        words = getattr(getattr(model, "config", None), "vocab_size", None)
        if self.baseline < 0 or (isinstance(words, int) and self.baseline >= words):
            raise InputError(f"baseline: {self.baseline} is not the id of a token; the model has {words}.")
        self.method = method
        self.memory = memory
        self._scores = _Scores(_single(model), self.kind)
        self.model = Model(self._scores)

    def __call__(
        self, texts: str | Sequence[str] | Sequence[tuple[str, str]] | Tensor, target: Any = None, *,
        position: int | None = None, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
        progress: bool = False,
    ) -> Attribution:  # fmt: skip
        """Explain texts, or pairs of texts: `explainer([("a premise", "a hypothesis")])`.

        Args:
            texts: one text, a list of texts or of pairs of texts, or token ids (B, tokens). A single pair is a list of one.
            target: the class (its number, or its name in the model's config), or the token (its id, or its text) whose logit
                is explained; else as for `Explainer`. None takes each row's largest logit.
            position: of token classifiers, the token that is classified, counted from 0 or, below 0, from the end; padding
                is not counted. Causal language models take the last token that is no padding.
            attention_mask: (B, tokens), with token ids; all ones by default.
            token_type_ids: (B, tokens), with token ids: which text of a pair each token is of. Of texts the tokenizer's are
                taken, where the model takes any.
            progress: show a progress bar.

        Returns:
            An `Attribution` over tokens; `tokens` holds their texts.

        Raises:
            InputTypeError, InputError: an argument has the wrong type or value.
        """
        ids, mask, types = self._encoded(texts, attention_mask, token_type_ids)
        most = getattr(self._scores.model.config, "max_position_embeddings", None)
        taken = 0 if self._scores.padding is None else self._scores.padding + 1  # by padding, and positions before it
        if isinstance(most, int) and ids.shape[1] > most - taken:
            raise InputError(
                f"texts: {ids.shape[1]} tokens, and {type(self._scores.model).__name__} takes {most - taken} at most. Cut it."
            )
        at = self._position(mask, position)
        special = self._special(ids) | (mask == 0)
        absent = torch.full_like(ids, self.baseline).where(~special, ids)
        extra = (mask, at, self._scores.positions(ids, mask), types)
        if isinstance(target, str):
            target = self._id(target) if self.kind == "next token" else self._class(target)
        if target is None:
            target = self.model.evaluate(ids, *extra).argmax(-1)
        explainer = Explainer(
            self.model, PerRow(absent), method=self.method, players=layouts.tokens(), memory=self.memory
        )
        result = explainer(ids, target, additional_forward_args=extra, progress=progress)
        return replace(result, tokens=self._texts(ids))

    def _encoded(self, texts: Any, mask: Tensor | None, types: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token ids, attention mask and token types, (rows, tokens) each; None for types that nobody gave or takes."""
        if isinstance(texts, Tensor):
            return self._given(texts, mask, types)
        for name, value in (("attention_mask", mask), ("token_type_ids", types)):
            if value is not None:
                raise InputError(f"{name}: goes with token ids; of texts the tokenizer makes it.")
        several = [texts] if isinstance(texts, str) else texts
        if not isinstance(several, Sequence) or not several:
            raise InputTypeError("texts: expected a text, a list of texts or of pairs of texts, or a tensor of token ids.")
        pairs = [_is_pair(one) for one in several]
        if not all(pairs) and not all(isinstance(one, str) for one in several):
            mixed = any(pairs) and all(isinstance(one, str) or pair for one, pair in zip(several, pairs, strict=True))
            why = "single texts and pairs in one list; explain them apart" if mixed else "a pair is a tuple of two texts"
            raise InputTypeError(f"texts: expected a text, a list of texts or of pairs of texts, or token ids; {why}.")
        columns = list(zip(*several, strict=True)) if all(pairs) else [several]
        tokenizer = self._need("texts")
        encoded = tokenizer(*(list(column) for column in columns), return_tensors="pt", padding=len(several) > 1)
        found = encoded.get("token_type_ids") if self._scores.typed else None
        device = self.model.device
        return (
            encoded["input_ids"].to(device), encoded["attention_mask"].to(device), None if found is None else found.to(device)
        )  # fmt: skip

    def _given(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token ids with their mask and types, checked."""
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype is torch.bool:
            raise InputTypeError(f"texts: token ids are whole numbers of shape (rows, tokens), got {ids.dtype} "
                                 f"of shape {tuple(ids.shape)}.")  # fmt: skip
        mask = torch.ones_like(ids) if mask is None else mask
        if types is not None and not self._scores.typed:
            raise InputError(f"token_type_ids: {type(self._scores.model).__name__} takes none.")
        for name, value in (("attention_mask", mask), ("token_type_ids", types)):
            if value is not None and value.shape != ids.shape:
                raise InputError(f"{name}: shape {tuple(value.shape)}, and the ids have {tuple(ids.shape)}.")
        device = self.model.device
        return ids.to(device), mask.to(device), None if types is None else types.to(device)

    def _position(self, mask: Tensor, position: int | None) -> Tensor:
        """Where each row is scored, (rows,)."""
        kept = mask != 0
        if not bool(kept.any(1).all()):
            raise InputError(f"texts: row {int(kept.any(1).long().argmin())} has no token: its attention mask is 0 throughout.")
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * kept).amax(1)
        if self.kind != "token":
            if position is not None:
                why = "is explained at its last token; cut the text there" if self.kind == "next token" else "has none"
                raise InputError(f"position: {type(self._scores.model).__name__} {why}.")
            return last
        if position is None:
            raise InputError("position: say which token's class is to be explained, as position=3.")
        if isinstance(position, bool) or not isinstance(position, int):
            raise InputTypeError(f"position: expected a whole number, got {type(position).__name__}.")
        first = kept.long().argmax(1)
        at = (first if position >= 0 else last + 1) + position
        shortest = int((last - first).amin()) + 1
        if not -shortest <= position < shortest:
            raise InputError(f"position: {position} is no position among {shortest} tokens, the length of the shortest row.")
        return at

    def _special(self, ids: Tensor) -> Tensor:
        known = getattr(self.tokenizer, "all_special_ids", None) or []
        return torch.isin(ids, torch.tensor(known, dtype=ids.dtype, device=ids.device))

    def _id(self, token: str) -> int:
        tokenizer = self._need("a target given as text")
        found = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise InputError(f"target: {token!r} is {len(found)} tokens; give one token, or its id.")
        return int(found[0])

    def _class(self, name: str) -> int:
        known = getattr(getattr(self._scores.model, "config", None), "label2id", None) or {}
        if name not in known:
            raise InputError(f"target: the model has no class {name!r}; it has {', '.join(map(str, known))}.")
        return int(known[name])

    def _texts(self, ids: Tensor) -> tuple[tuple[str, ...], ...]:
        if self.tokenizer is None:
            return tuple(tuple(str(i) for i in row) for row in ids.tolist())
        return tuple(tuple(map(str, self.tokenizer.convert_ids_to_tokens(row))) for row in ids.tolist())

    def _need(self, what: str) -> Any:
        if self.tokenizer is None:
            raise InputError(f"tokenizer: {what} needs one; give it, or token ids.")
        return self.tokenizer


def _is_pair(texts: Any) -> bool:
    return isinstance(texts, (tuple, list)) and len(texts) == 2 and all(isinstance(text, str) for text in texts)


def _baseline_id(asked: str | int | None, tokenizer: Any) -> int:
    """The id of the token that stands for an absent one."""
    if isinstance(asked, int) and not isinstance(asked, bool):
        return asked
    if asked is not None and not isinstance(asked, str):
        raise InputTypeError(f"baseline: expected a word, a token or a token id, got {type(asked).__name__}.")
    if tokenizer is None:
        raise InputError("baseline: without a tokenizer give the id of the token that stands for an absent one.")
    for name in _STAND_INS if asked is None else (asked,):
        found = getattr(tokenizer, f"{name}_token_id", None) if name in _STAND_INS else None
        if found is not None:
            return int(found)
    if asked is None or asked in _STAND_INS:
        named = "any of [MASK], padding, end or unknown token" if asked is None else f"a token for {asked!r}"
        raise InputError(f"baseline: the tokenizer does not have {named}; give a token or its id.")
    token = tokenizer.convert_tokens_to_ids(asked)
    if token is None or (token == getattr(tokenizer, "unk_token_id", None) and asked != getattr(tokenizer, "unk_token", None)):
        raise InputError(f"baseline: {asked!r} is not a token of the tokenizer.")
    return int(token)


class ImageExplainer:
    """Explains image classifiers over square patches.

    Args:
        model: a model of `transformers`. One in half precision is explained in a float32 copy.
        processor: its image processor; None where pixels are given.
        players: a layout, or an integer mask over (channels, height, width); None takes the model's own patches, 16 x 16
            pixels where it has none.
        baseline: as for `Explainer`, in the pixels that the model sees; 0 is the mean image of most processors.
        method: the estimator; moment propagation by default.
        memory: bytes that one chunk of work may take.
    """

    def __init__(
        self, model: nn.Module, processor: Any = None, *, players: Layout | Tensor | None = None, baseline: Any = 0.0,
        method: Estimator | None = None, memory: int = GIB,
    ) -> None:  # fmt: skip
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model: expected a model of transformers, got {type(model).__name__}.")
        if kind_of(model) != "image":
            raise InputError(f"{type(model).__name__} takes texts: use dasp.huggingface.TextExplainer.")
        self.processor = processor
        side = getattr(getattr(model, "config", None), "patch_size", None)
        own = layouts.grid(side, side) if isinstance(side, int) and side > 4 else layouts.grid(16, 16)
        self.explainer = Explainer(
            _Pixels(_single(model)), baseline, method=method, players=own if players is None else players, memory=memory
        )

    def __call__(self, images: Any, target: Any = None, *, progress: bool = False) -> Attribution:
        """Explain images: pixels (B, channels, height, width), or what the processor takes.

        `target` None takes each row's largest logit; else it is as for `Explainer`.
        """
        model = self.explainer.model
        if not isinstance(images, Tensor):
            if self.processor is None:
                raise InputError("processor: images that are no tensor need one; give it, or pixels (rows, channels, h, w).")
            images = self.processor(images, return_tensors="pt")["pixel_values"]
        pixels = images.to(device=model.device, dtype=model.dtype)
        if target is None:
            target = model.evaluate(pixels).argmax(-1)
        return self.explainer(pixels, target, progress=progress)
