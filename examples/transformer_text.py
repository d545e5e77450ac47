"""Which tokens a text classifier goes by: a BERT of `transformers`, explained through its tokenizer.

The model is small and its weights random, so that this runs anywhere; with a network connection,
`AutoModelForSequenceClassification.from_pretrained(name)` and `AutoTokenizer.from_pretrained(name)` take their place.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import dasp

WORDS = ["the", "a", "film", "plot", "was", "is", "very", "not", "good", "bad", "dull", "but", "and", "it", "i", "liked"]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.2, num_labels=2, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()

    explainer = dasp.huggingface.TextExplainer(model, tokenizer)  # absent tokens become [MASK]
    show(explainer(["the film was not very good", "i liked the plot but it was dull and very bad"], "good"))
    show(explainer([("the film was dull", "it was not very good")], "bad"))  # a pair of texts, as the tokenizer joins them


def show(result: dasp.Attribution) -> None:
    """A line a text: its tokens, with what each adds to the score."""
    assert result.tokens is not None
    for tokens, values, output in zip(result.tokens, result.values.tolist(), result.output.tolist(), strict=True):
        print(" ".join(f"{token} {value:+.2f}" for token, value in zip(tokens, values, strict=True)), f"-> {output:.2f}")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, between [CLS] and [SEP]; the second text of a pair is of type 1 and ends in [SEP], too."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    ids = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    inner = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=names, **special)


if __name__ == "__main__":
    main()
