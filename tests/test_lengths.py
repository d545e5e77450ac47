"""Rows of different lengths in one batch: padding under a mask changes nothing, packed sequences are right or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import dasp

STEPS = 10
LENGTHS = torch.tensor([10, 7, 8, 9])
PADDING = torch.arange(STEPS) >= LENGTHS.unsqueeze(1)
TOKENS = dasp.players.tokens()


def rows(width: int) -> Tensor:
    """Noise behind each row's end, so that it would be seen; float64."""
    return torch.randn(4, STEPS, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Encoder(nn.Module):
    """Two layers under a padding mask, averaged over what is no padding, or read at the first token."""

    def __init__(self, *, norm_first: bool = False, activation: str = "relu", nested: bool = True, first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.position = nn.Parameter(torch.randn(STEPS, 16) / 2)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first, activation=activation)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(16, 2)
        self.first = first
        self.double().eval()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Any:
        h = self.layers(x + self.position[: x.shape[1]], src_key_padding_mask=padding)
        if self.first:
            return self.head(h[:, 0])
        if padding is None:
            return self.head(h.mean(1))
        kept = (~padding if padding.dtype is torch.bool else padding == 0).unsqueeze(-1).to(h.dtype)
        return self.head((h * kept).sum(1) / kept.sum(1))


ENCODERS: dict[str, dict[str, Any]] = {
    "post-norm, ReLU, nested tensors": {"nested": True},
    "pre-norm, GELU": {"norm_first": True, "activation": "gelu", "nested": False},
    "read at the first token": {"nested": False, "first": True},
}
AS_NUMBERS = torch.zeros(PADDING.shape, dtype=torch.float64).masked_fill(PADDING, -torch.inf)


def assert_each_as_alone(model: nn.Module, x: Tensor, extra: Tensor, alone: Any, method: dasp.Estimator, near: float) -> None:
    """Values of every row in the batch against those of the row cut at its length; 0 for what comes after."""
    explainer = dasp.Explainer(model, 0.3, players=TOKENS, method=method)
    together = explainer(x, 1, additional_forward_args=extra)
    for row, length in enumerate(LENGTHS.tolist()):
        single = explainer(x[row : row + 1, :length], 1, additional_forward_args=alone(row))
        torch.testing.assert_close(together.output[row], single.output[0])
        far = (together.per_player[row, 0, :length] - single.per_player[0, 0]).norm()
        assert far < near * single.per_player.norm()
        assert together.per_player[row, 0, length:].abs().sum() < 1e-12


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "method", [dasp.Exact(), pytest.param(dasp.Propagation(), marks=pytest.mark.long)], ids=["exact", "propagation"]
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_of_an_encoder_changes_nothing(name: str, method: dasp.Estimator) -> None:
    mask = AS_NUMBERS if ENCODERS[name].get("first") else PADDING
    assert_each_as_alone(Encoder(**ENCODERS[name]), rows(16), mask, lambda row: None, method, 1e-6)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_padded_batch_against_enumeration(name: str) -> None:
    model, x = Encoder(**ENCODERS[name]), rows(16)
    found, truth = (
        dasp.Explainer(model, 0.0, players=TOKENS, method=method)(x, 1, additional_forward_args=PADDING)
        for method in (dasp.Propagation(), dasp.Exact())
    )
    error = (found.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    print(f"{name}: {error.mean():.4f}")
    assert error.mean() < 0.02


class Packed(nn.Module):
    """A recurrent layer over packed sequences, read at each row's last step or averaged over its steps."""

    def __init__(self, kind: type[nn.RNNBase], *, averaged: bool = False, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = kind(3, 6, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(12 if bidirectional else 6, 2)
        self.averaged = averaged
        self.double().eval()

    def steps(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        out = self.steps(x, lengths)
        if not self.averaged:
            return self.head(out[torch.arange(x.shape[0]), lengths - 1])
        kept = (torch.arange(x.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1).to(out.dtype)
        return self.head((out * kept).sum(1) / lengths.unsqueeze(1))


class Masked(Packed):
    """The same without packing."""

    def steps(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize("averaged", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_are_refused_with_what_to_do(kind: type[nn.RNNBase], averaged: bool) -> None:
    packed, masked, x = Packed(kind, averaged=averaged), Masked(kind, averaged=averaged), rows(3)
    with pytest.raises(dasp.CaptureError, match=r"packs sequences(.|\n)*layer on the padded sequence(.|\n)*dasp.Exact\(\)"):
        dasp.Explainer(packed, 0.0, players=TOKENS)(x, 1, additional_forward_args=LENGTHS)
    # What the message says gives the same values, and those of the propagation are near them.
    truth = dasp.Explainer(packed, 0.0, players=TOKENS, method=dasp.Exact())(x, 1, additional_forward_args=LENGTHS)
    same = dasp.Explainer(masked, 0.0, players=TOKENS, method=dasp.Exact())(x, 1, additional_forward_args=LENGTHS)
    found = dasp.Explainer(masked, 0.0, players=TOKENS)(x, 1, additional_forward_args=LENGTHS)
    torch.testing.assert_close(same.values, truth.values)
    assert (found.values - truth.values).norm() < 0.02 * truth.values.norm()


@pytest.mark.parametrize("method", [dasp.Exact(), dasp.Propagation()])
@pytest.mark.parametrize("averaged", [pytest.param(False, marks=pytest.mark.long), True])
def test_what_comes_after_the_end_of_a_row_changes_nothing(averaged: bool, method: dasp.Estimator) -> None:
    model = Masked(nn.LSTM, averaged=averaged)
    assert_each_as_alone(model, rows(3), LENGTHS, lambda row: LENGTHS[row : row + 1], method, 1e-9)


def test_packing_is_recognised_wherever_the_exporter_stops() -> None:
    class Lengths(Packed):
        def forward(self, x: Tensor) -> Any:
            lengths = (x.abs().sum(-1) > 0).sum(1).clamp(min=1)
            return super().forward(x, lengths.cpu())

    class Started(Packed):
        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            start = x.new_zeros(2 if self.layer.bidirectional else 1, len(x), 6)
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.layer(packed, (start, start))[1][0][-1])

    for model, extra in ((Lengths(nn.LSTM, bidirectional=True), None), (Started(nn.LSTM), LENGTHS)):
        with pytest.raises(dasp.CaptureError, match="packs sequences"):
            dasp.Explainer(model, 0.0, players=TOKENS)(rows(3), 1, additional_forward_args=extra)


def test_other_faults_are_not_blamed_on_packing() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.sum((1, 2)) if bool(x.sum() > 0) else -x.sum((1, 2))

    with pytest.raises(dasp.CaptureError, match="Usual causes") as caught:
        dasp.Explainer(Branch(), 0.0, players=TOKENS)(rows(3).abs())
    assert "packs" not in str(caught.value)
    assert "Keras" not in str(caught.value)
