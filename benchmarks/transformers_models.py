"""Models of `transformers` and Keras, built from small configs: error of the propagation against exact enumeration.

    python benchmarks/transformers_models.py [--out out/transformers] [--inputs 20] [--only NAME ...] [--page PAGE.md]

Each model has two layers and is explained twice: as its library initialises it, from a fixed seed, and trained on a task that
needs its tokens or patches to interact (of benchmarks/architectures.py, or the 8 x 8 digits). The 20 held-out inputs have 12
tokens, of which an absent one becomes a token that was never met in training, or 16 patches, of which an absent one is black;
all coalitions are enumerated. Weights and enumerated values are kept in --out. Prints two tables, writes models.json, and puts
the tables into a page that has a place for them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import dasp
from architectures import TOKENS, WORDS, balance, between_marks, errors, lookup, order
from dasp.experiments.files import replace_file, write_text

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

PADDING, ABSENT, SPECIAL = 0, 1, 2
"""Ids of the padding and of the baseline token, and how many ids stand before those of the task."""
WIDTH = 32
SETTINGS: dict[str, dasp.Estimator] = {
    "default": dasp.Propagation(),
    "not conditioned": dasp.Propagation(condition=False),
    "nodes 5, mixture 0": dasp.Propagation(nodes=5, mixture=0),
    "nodes 3, mixture 1": dasp.Propagation(nodes=3, mixture=1),
    "nodes 3, mixture 2": dasp.Propagation(nodes=3, mixture=2),
    "12 permutations": dasp.PermutationSampling(permutations=12),
}
INTEGRATED = "Integrated Gradients"
STATES = {"config": "as initialised", "trained": "trained"}
Task = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Subject(ABC):
    """A model to explain: its scores, its explanations, and its embedded inputs for Integrated Gradients."""

    model: nn.Module

    @abstractmethod
    def scores(self, inputs: Tensor) -> Tensor:
        """Logits (rows, classes) of ids (rows, tokens), or of pixels."""

    @abstractmethod
    def explained(self, inputs: Tensor, target: Tensor, method: dasp.Estimator) -> Tensor:
        """Values (rows, players) in float64."""

    @abstractmethod
    def embedded(self, inputs: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        """What maps embedded inputs to logits, these, their baseline, and the player of each element (of one row)."""


class Inner(nn.Module):
    """A text model of `transformers` from the embeddings of its tokens on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Any:
        """Logits, of a language model at its last token, of embeddings (rows, tokens, width)."""
        ones = torch.ones(embeddings.shape[:2], dtype=torch.long)
        logits = self.model(inputs_embeds=embeddings, attention_mask=ones).logits
        return logits if logits.dim() == 2 else logits[:, -1]


@dataclass(frozen=True)
class Text(Subject):
    """A text model of `transformers`: classes, or the next token, of which the first after the special ones are the classes."""

    model: nn.Module

    def scores(self, inputs: Tensor) -> Tensor:
        """Logits at the last token, where there is one a token; decoders that classify look for it among the ids."""
        result: Tensor = self._logits(inputs)
        return result if result.dim() == 2 else result[:, -1]

    def _logits(self, inputs: Tensor) -> Any:
        return self.model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits

    def explained(self, inputs: Tensor, target: Tensor, method: dasp.Estimator) -> Tensor:
        """By `TextExplainer`, from ids."""
        explainer = dasp.huggingface.TextExplainer(self.model, baseline=ABSENT, method=method)
        return explainer(inputs, target).per_player[:, 0].double()

    def embedded(self, inputs: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        """Embeddings of the tokens; positions are added behind them."""
        return Inner(self.model), *_both_ends(self.model.get_input_embeddings(), inputs)  # type: ignore[operator]


def _both_ends(embedding: Any, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        x, base = embedding(inputs), embedding(torch.full_like(inputs, ABSENT))
    return x.detach(), base.detach(), torch.arange(x.shape[1]).unsqueeze(1).expand(x.shape[1:])


class Pixels(nn.Module):
    """The logits of an image model of `transformers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Any:
        """Logits of pixels (rows, 1, 8, 8)."""
        return self.model(pixel_values=pixels).logits


@dataclass(frozen=True)
class Image(Subject):
    """An image model of `transformers`, over patches of 2 x 2 pixels."""

    model: nn.Module

    def scores(self, inputs: Tensor) -> Tensor:
        """Of pixels (rows, 1, 8, 8)."""
        result: Tensor = self.model(pixel_values=inputs).logits
        return result

    def explained(self, inputs: Tensor, target: Tensor, method: dasp.Estimator) -> Tensor:
        """By `ImageExplainer`."""
        explainer = dasp.huggingface.ImageExplainer(self.model, players=dasp.players.grid(2, 2), method=method)
        return explainer(inputs, target).per_player[:, 0].double()

    def embedded(self, inputs: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        """The pixels themselves."""
        owners = dasp.players.grid(2, 2).build([tuple(inputs.shape[1:])]).labels[0]
        return Pixels(self.model), inputs, 0 * inputs, owners


@dataclass(frozen=True)
class Keras(Subject):
    """A Keras model of ids, its embedding, and the model behind it."""

    model: nn.Module
    embedding: Any
    body: nn.Module

    def scores(self, inputs: Tensor) -> Tensor:
        """Of ids."""
        result: Tensor = self.model(inputs)
        return result

    def explained(self, inputs: Tensor, target: Tensor, method: dasp.Estimator) -> Tensor:
        """By `Explainer`, from ids."""
        explainer = dasp.Explainer(self.model, ABSENT, method=method, players=dasp.players.tokens())
        return explainer(inputs, target).per_player[:, 0].double()

    def embedded(self, inputs: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        """Embeddings of the tokens."""
        return self.body, *_both_ends(self.embedding, inputs)


VOCABULARY = WORDS + SPECIAL
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 2 * WIDTH, "max_position_embeddings": 2 * TOKENS, "pad_token_id": PADDING, "num_labels": 2,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def gpt2() -> Subject:
    """A language model, whose next token is to be the answer."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=2 * TOKENS, bos_token_id=None, eos_token_id=None
    )
    return Text(transformers.GPT2LMHeadModel(config))


def bert() -> Subject:
    """An encoder, classified at its first token."""
    return Text(transformers.BertForSequenceClassification(transformers.BertConfig(**COMMON)))


def distilbert() -> Subject:
    """The same of another library class: no pooling layer with tanh, no token types."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=2 * WIDTH, max_position_embeddings=2 * TOKENS,
        pad_token_id=PADDING, num_labels=2,
    )  # fmt: skip
    return Text(transformers.DistilBertForSequenceClassification(config))


def roberta() -> Subject:
    """Positions are counted from the ids."""
    return Text(transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**COMMON)))


def llama() -> Subject:
    """RMS norm, rotary positions, gated layers, two heads of keys and values; classified at its last token."""
    return Text(transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**COMMON, num_key_value_heads=2)))


def vit() -> Subject:
    """16 patches and a class token."""
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * WIDTH, image_size=8, patch_size=2,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    return Image(transformers.ViTForImageClassification(config))


def convnext() -> Subject:
    """Two stages of one layer, 4 x 4 and 2 x 2."""
    config = transformers.ConvNextConfig(
        num_channels=1, hidden_sizes=[WIDTH, 2 * WIDTH], depths=[1, 1], num_stages=2, patch_size=2, num_labels=10
    )
    return Image(transformers.ConvNextForImageClassification(config))


def keras_model() -> Subject:
    """Attention with a residual and a norm, then an LSTM."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((TOKENS, WIDTH))
    x = layers.LayerNormalization()(given + layers.MultiHeadAttention(4, WIDTH // 4)(given, given))
    body = keras.Model(given, layers.Dense(2)(layers.LSTM(WIDTH)(x)))
    ids, embedding = keras.Input((TOKENS,), dtype="int32"), layers.Embedding(VOCABULARY, WIDTH)
    return Keras(keras.Model(ids, body(embedding(ids))), embedding, body)


@dataclass(frozen=True)
class Case:
    """A model, and the task that it learns in a number of steps; None stands for the digits."""

    build: Callable[[], Subject]
    task: Task | None
    steps: int


CASES = {
    "GPT-2, next token: lookup": Case(gpt2, lookup, 1500),
    "BERT: order": Case(bert, order, 1500),
    "DistilBERT: balance": Case(distilbert, balance, 2000),
    "RoBERTa: lookup": Case(roberta, lookup, 1500),
    "Llama: order": Case(llama, order, 1500),
    "ViT: digits": Case(vit, None, 1000),
    "ConvNeXt: digits": Case(convnext, None, 500),
    "Keras, MultiHeadAttention and LSTM: order": Case(keras_model, order, 1500),
}


def drawn(case: Case, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids or pixels, and labels; seeds from 10,000 on are held out."""
    generator = torch.Generator().manual_seed(seed)
    if case.task is not None:
        ids, labels = case.task(torch.randint(2, WORDS, (count, TOKENS), generator=generator), generator)
        return ids + SPECIAL, labels + (SPECIAL if case.build is gpt2 else 0)
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
    order_of_all = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    pool = order_of_all[1400:] if seed >= 10_000 else order_of_all[:1400]
    chosen = pool[torch.randint(0, len(pool), (count,), generator=generator)]
    return images[chosen], labels[chosen].long()


def built(case: Case) -> Subject:
    """The model as its library initialises it."""
    torch.manual_seed(0)
    subject = case.build()
    subject.model.eval()
    return subject


def trained(name: str, case: Case, out: Path) -> Subject:
    """The same after training, or read."""
    subject = built(case)
    path = out / f"{plain(name)}-{case.steps}.pt"
    parameters = list(subject.model.parameters())
    if path.is_file():
        with torch.no_grad():
            for parameter, value in zip(parameters, torch.load(path, weights_only=True), strict=True):
                parameter.copy_(value)
        return subject
    subject.model.train()
    optimiser = torch.optim.Adam(parameters, 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=case.steps)
    start = time.perf_counter()
    for step in range(case.steps):
        inputs, labels = drawn(case, 128, step)
        optimiser.zero_grad()
        F.cross_entropy(subject.scores(inputs), labels).backward()
        optimiser.step()
        schedule.step()
    print(f"{name}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    replace_file(path, lambda part: torch.save([parameter.detach() for parameter in parameters], part))
    subject.model.eval()
    return subject


def plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def enumerated(name: str, subject: Subject, inputs: Tensor, target: Tensor, out: Path) -> Tensor:
    """Exact values, kept under what they were computed from."""
    digest = hashlib.sha256()
    for tensor in (*subject.model.parameters(), inputs, target):
        digest.update(tensor.detach().numpy().tobytes())
    path = out / f"{plain(name)}-{digest.hexdigest()[:16]}.truth.pt"
    if path.is_file():
        kept: Tensor = torch.load(path, weights_only=True)
        return kept
    truth = subject.explained(inputs, target, dasp.Exact())
    replace_file(path, lambda part: torch.save(truth, part))
    return truth


def measured(name: str, case: Case, subject: Subject, count: int, out: Path) -> dict[str, Any]:
    """Accuracy, and errors by setting, of the model as it is."""
    with torch.no_grad():
        inputs, labels = drawn(case, 1000, 10_000)
        accuracy = float((subject.scores(inputs).argmax(1) == labels).float().mean())
        inputs, _ = drawn(case, count, 20_000)
        target = subject.scores(inputs).argmax(1)
    exact = enumerated(name, subject, inputs, target, out)
    rows: dict[str, Any] = {}
    for label, method in SETTINGS.items():
        start = time.perf_counter()
        found = subject.explained(inputs, target, method)  # with its capture
        rows[label] = {"errors": errors(found, exact).tolist(), "seconds": (time.perf_counter() - start) / count}
    rows[INTEGRATED] = {"errors": errors(integrated(subject, inputs, target), exact).tolist()}
    return {"accuracy": accuracy, "rows": rows}


def integrated(subject: Subject, inputs: Tensor, target: Tensor) -> Tensor:
    """captum's Integrated Gradients, 64 steps, summed over each player's elements."""
    from captum.attr import IntegratedGradients

    inner, x, base, owners = subject.embedded(inputs)
    with torch.no_grad():
        torch.testing.assert_close(inner(x), subject.scores(inputs), rtol=1e-4, atol=1e-5)
    values = IntegratedGradients(inner).attribute(x, base, target=target, n_steps=64).detach().double()
    return torch.zeros(len(x), int(owners.max()) + 1).double().index_add(1, owners.flatten(), values.flatten(1))


def mean_and_median(row: dict[str, Any]) -> str:
    """Both, as errors of a row, in two digits: those of models as initialised are small."""
    values = torch.tensor(row["errors"])
    return f"{values.mean():.2g} ({values.median():.2g})"


def table(found: dict[str, Any], state: str) -> str:
    """Errors by model and setting."""
    labels = [*SETTINGS, INTEGRATED]
    lines = [
        f"| error, mean (median), {STATES[state]} | accuracy | " + " | ".join(labels) + " |",
        "| --- | ---: |" + " ---: |" * len(labels),
    ]
    for name, states in found.items():
        one = states[state]
        accuracy = "" if state == "config" else f"{one['accuracy']:.3f}"
        lines.append(f"| {name} | {accuracy} | " + " | ".join(mean_and_median(one["rows"][label]) for label in labels) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/transformers"))
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--page", type=Path, help="a page with a place for the tables, marked by comments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in options.only:
        case = CASES[name]
        found[name] = {}
        for state in STATES:
            subject = built(case) if state == "config" else trained(name, case, options.out)
            found[name][state] = measured(f"{name} {state}", case, subject, options.inputs, options.out)
            print(f"{name}, {STATES[state]}: {mean_and_median(found[name][state]['rows']['default'])}", flush=True)
    write_text(options.out / "models.json", json.dumps(found, indent=1) + "\n")
    text = "\n\n".join(table(found, state) for state in STATES)
    print(text)
    if options.page is not None:
        write_text(options.page, between_marks(options.page.read_text(), "models", text))


if __name__ == "__main__":
    main()
