"""Convolutions over time for packed sequences, channels last (`engines.torch.packing`).

Shapes: total is the number of rows, in_channels and out_channels are the layer's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.linear import Linear, is_packed


class Convolution:
    """Same as `torch.nn.Conv1d` with `padding=0`, channels last.

    Args:
        weight: [out_channels, in_channels / groups, kernel]; its dtype is the precision of the convolution.
        bias: [out_channels].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        # (out_channels, in_channels / groups, kernel) -> (out_channels, in_channels / groups, 1, kernel)
        self._weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._bias = bias.to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """[total, in_channels] -> [total - kernel + 1, out_channels]."""
        # conv2d over an image of height 1: torch has channels-last kernels for two dimensions, not for one.
        image = x.to(self._weight.dtype).t()[None, :, None]  # (total, in_channels) -> (1, in_channels, 1, total)
        groups = x.shape[1] // self._weight.shape[1]
        y = F.conv2d(image, self._weight, self._bias, groups=groups)  # (1, out_channels, 1, total - kernel + 1)
        return y[0, :, 0].t()


class GroupedConvolution:
    """Same as `torch.nn.Conv1d` with `groups` and `padding=0`, channels last, for a few wide groups.

    Where `Linear` packs its matrices, it runs as one matrix product per group (im2col), twice as fast as a grouped
    convolution there.

    Args:
        weight: [channels, channels / groups, kernel].
        bias: [channels].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._group_channels, self._kernel = weight.shape[1:]
        self._convolution, self._linears = None, list[Linear]()
        if not is_packed(weight.device, weight.dtype, "many"):
            self._convolution = Convolution(weight, bias)
            return
        # (channels, group_channels, kernel) -> (channels, kernel, group_channels)
        matrix = weight.transpose(1, 2).flatten(1)  # -> (channels, kernel * group_channels)
        # groups x (group_channels, kernel * group_channels), groups x (group_channels,)
        by_group = torch.split(matrix, self._group_channels), torch.split(bias, self._group_channels)
        self._linears = [Linear(*group, weight.dtype, "many") for group in zip(*by_group, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """[total, channels] -> [total - kernel + 1, channels]."""
        if self._convolution is not None:
            return self._convolution(x)
        # (total, channels) -> (total, groups, group_channels) -> (groups, total, group_channels)
        groups = x.view(len(x), -1, self._group_channels).transpose(0, 1).contiguous()
        # The windows of a group overlap in memory: (total - kernel + 1, kernel * group_channels) without a copy
        shape = len(x) - self._kernel + 1, self._kernel * self._group_channels
        windows = (group.as_strided(shape, (self._group_channels, 1), group.storage_offset()) for group in groups)
        # groups x (total - kernel + 1, group_channels) -> (total - kernel + 1, channels)
        return torch.cat([linear(window) for linear, window in zip(self._linears, windows, strict=True)], 1)
