"""Outputs of the DNA network as letters arrive one by one, from the few places that each letter changes.

A letter changes what two convolutions give at no more places than their receptive field is wide: 21 of 180. Evaluating those
alone, before and after, takes about a quarter of the work, and its sampled truth takes minutes rather than half an hour.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


class Arrivals:
    """Outputs of a network of convolutions along a sequence, global average pooling and a head, for every step of an arrival.

    Args:
        model: Conv1d and pointwise modules, AdaptiveAvgPool1d(1), Flatten, and a head on the pooled channels; the convolutions
            without stride, dilation and padding.

    Raises:
        InputError: the network is built otherwise.
    """

    def __init__(self, model: nn.Sequential) -> None:
        layers = list(model.children())
        pools = [place for place, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool1d)]
        if len(pools) != 1 or layers[pools[0]].output_size != 1:
            raise InputError("arrivals need a network with one AdaptiveAvgPool1d(1).")
        self.body, self.head = nn.Sequential(*layers[: pools[0]]), nn.Sequential(*layers[pools[0] + 1 :])
        self.reach = 0  # letters beyond its own that an output of the body depends on
        for layer in layers[: pools[0]]:
            if isinstance(layer, nn.Conv1d):
                if (layer.stride, layer.dilation, layer.padding) != ((1,), (1,), (0,)):
                    raise InputError(f"arrivals need convolutions without stride, dilation and padding, got {layer}.")
                self.reach += layer.kernel_size[0] - 1
            elif not isinstance(layer, nn.ReLU | nn.Dropout):
                raise InputError(f"arrivals need Conv1d, ReLU and Dropout before the pooling, got {layer}.")

    def __call__(self, entry: Tensor, rank: Tensor) -> Tensor:
        """Outputs (n + 1, outputs) with the letters present whose rank is below 0, 1, ..., n.

        Args:
            entry: the sequence, (channels, length); at each place at most one channel is not 0.
            rank: when each element arrives, (channels, length); it counts only where `entry` is not 0.
        """
        length, reach = entry.shape[1], self.reach
        present = (entry != 0).any(dim=0)
        arrival = rank.where(entry != 0, 0).amax(dim=0)  # (length,)
        order = torch.argsort(arrival.where(present, length))[: int(present.sum())]  # places in the order of arrival, (n,)
        times = torch.arange(len(order)).unsqueeze(1)
        around = F.pad(entry, (reach, reach)).unfold(1, 2 * reach + 1, 1)[:, order].transpose(0, 1)  # (n, channels, window)
        when = F.pad(arrival, (reach, reach)).unfold(0, 2 * reach + 1, 1)[order]  # (n, window)
        # What a place before the first output or after the last would give is no output.
        outputs = order.unsqueeze(1) + torch.arange(-reach, 1)  # (n, reach + 1)
        inside = ((outputs >= 0) & (outputs < length - reach)).unsqueeze(1)
        before, after = (self.body(around * mask.unsqueeze(1)) for mask in (when < times, when <= times))
        changes = ((after - before) * inside).sum(dim=2).double()  # (n, hidden)
        start = self.body(torch.zeros_like(entry).unsqueeze(0)).sum(dim=2).double()
        pooled = torch.cat([start, changes]).cumsum(dim=0) / (length - reach)
        answers: Tensor = self.head(pooled.to(entry.dtype).unsqueeze(2))
        return answers
