"""How long a network takes to be read: as it was exported, and with everything taken apart by torch first.

    python benchmarks/capture.py [--repeat 5]

Both ways in turns, in one run, on small networks of each kind; the least processor time of each.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import torch
from torch import Tensor, nn

from dasp import graph


class Last(nn.Module):
    """An LSTM or GRU, and a weighted sum of its last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 1)  # type: ignore[call-arg,arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """One number a row."""
        value: Tensor = self.head(self.body(x)[0][:, -1])
        return value


class Residual(nn.Module):
    """A block that writes into its values, as those of most image networks do."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
        self.body, self.relu = nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of `x`."""
        out: Tensor = self.body(x)
        out += x
        value: Tensor = self.relu(out)
        return value


def resnet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), Residual(), Residual(), nn.Flatten(), nn.Linear(4 * 144, 3))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(128, 2))


def cnn() -> nn.Module:
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(first, nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 3))


CASES = {
    "MLP, 2 layers": (lambda: nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 2)), (9,)),
    "CNN, batch norm": (cnn, (1, 14, 14)),
    "transformer encoder, 2 layers": (encoder, (8, 16)),
    "ResNet, 2 blocks that write in place": (resnet, (1, 14, 14)),
    "LSTM, 12 steps": (lambda: Last(nn.LSTM), (12, 6)),
    "GRU, 12 steps": (lambda: Last(nn.GRU), (12, 6)),
}


def seconds(model: nn.Module, x: Tensor) -> float:
    """Processor time of one capture."""
    start = time.process_time()
    graph.capture(model, (x,), (), len(x))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    for name, (build, shape) in CASES.items():
        model, x = build().eval(), torch.randn(3, *shape)
        seconds(model, x)
        read, apart = [], []
        for _ in range(repeat):
            read.append(seconds(model, x))
            with mock.patch.object(graph, "as_exported", return_value=None):
                apart.append(seconds(model, x))
        ratio = min(read) / min(apart)
        print(f"{name}: {min(read):.2f} s, taken apart {min(apart):.2f} s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
