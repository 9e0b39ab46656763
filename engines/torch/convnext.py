"""ConvNeXt blocks over time (arXiv 2201.03545), as Vocos and the text embedding of F5-TTS have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.convolution import Convolution
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

KERNEL = 7
_EPS = 1e-6


class ConvNext:
    """One block, in float32.

    Args:
        source: Its tensors, which have the same names in both libraries. With `gamma`, what the block adds is scaled
            by it; with `grn.gamma` and `grn.beta`, it has a global response norm (arXiv 2301.00808).
    """

    def __init__(self, source: WeightSource) -> None:
        source = source.in_float32()
        self._along = Convolution(source.kept("dwconv.weight"), source.kept("dwconv.bias"))
        self._norm = source.norm("norm")
        self._up, self._down = source.linear("pwconv1", "none"), source.linear("pwconv2")
        self._scale = source.kept("gamma") if source.has("gamma") else None
        self._response = None
        if source.has("grn.gamma"):
            self._response = source.kept("grn.gamma").flatten(), source.kept("grn.beta").flatten()

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        """[rows, channels] of sequences -> the same shape."""
        gapped = packing.gapped(KERNEL // 2)
        inner = gapped.close(self._along(gapped.open(x)))
        inner = self._up(F.layer_norm(inner, inner.shape[1:], *self._norm, _EPS))
        if self._response is not None:
            _respond(inner, packing, *self._response)
        change = self._down(inner)
        return x + change if self._scale is None else torch.addcmul(x, change, self._scale)


def _respond(x: Tensor, packing: Packing, gamma: Tensor, beta: Tensor) -> None:
    """Global response norm of each sequence, in place."""
    for span in packing.spans:
        own = x[span]
        loudness = own.norm(dim=0)
        ratio = loudness / (loudness.mean() + _EPS)
        own.mul_(1 + gamma * ratio).add_(beta)
