"""Convolutions over time, for sequences laid end to end with their channels last (`packing`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.linear import Linear, is_packed


class Convolution:
    """[rows, in] -> [rows - kernel + 1, out]: nothing is filled up at the ends.

    Args:
        weight: [out, in / groups, kernel].
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._bias = bias.to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Runs as a two-dimensional one over a picture one row high: the fast way for channels that come last."""
        picture = x.to(self._weight.dtype).t()[None, :, None]
        groups = x.shape[1] // self._weight.shape[1]
        return F.conv2d(picture, self._weight, self._bias, groups=groups)[0, :, 0].t()


class GroupedConvolution:
    """The same for one with a few wide groups: where products are oneDNN's as one for each group, twice as fast.

    Args:
        weight: [channels, channels / groups, kernel].
        bias: [channels].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._width, self._kernel = weight.shape[1:]
        self._whole, self._parts = None, list[Linear]()
        if not is_packed(weight.device, weight.dtype, "many"):
            self._whole = Convolution(weight, bias)
            return
        matrix = weight.transpose(1, 2).flatten(1)  # a row for each channel of the result: a window, channels last
        by_group = torch.split(matrix, self._width), torch.split(bias, self._width)
        self._parts = [Linear(*part, weight.dtype, "many") for part in zip(*by_group, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """Windows of a group are the rows of a product."""
        if self._whole is not None:
            return self._whole(x)
        groups = x.view(len(x), -1, self._width).transpose(0, 1).contiguous()
        shape = len(x) - self._kernel + 1, self._kernel * self._width
        windows = (group.as_strided(shape, (self._width, 1), group.storage_offset()) for group in groups)
        return torch.cat([part(window) for part, window in zip(self._parts, windows, strict=True)], 1)
