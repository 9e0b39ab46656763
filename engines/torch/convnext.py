"""ConvNeXt blocks over time: V1 (arXiv 2201.03545) as in Vocos, V2 (arXiv 2301.00808) as in F5-TTS's text encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.convolution import Convolution
from engines.torch.packing import Packing
from engines.torch.source import WeightSource

KERNEL = 7
_EPS = 1e-6


class ConvNeXtBlock:
    """Same as `vocos.modules.ConvNeXtBlock` and `f5_tts.model.modules.ConvNeXtV2Block`, on packed sequences, in
    float32; compared through whole models in `tests/unit/engines/torch/test_vocos.py` and
    `tests/unit/engines/f5/net/test_model.py`.

    Args:
        source: Its tensors; both libraries use the same names. `gamma` (the layer scale of V1) and `grn.gamma` with
            `grn.beta` (the global response norm of V2) are optional.
    """

    def __init__(self, source: WeightSource) -> None:
        source = source.in_float32()
        self._dwconv = Convolution(source.kept("dwconv.weight"), source.kept("dwconv.bias"))
        self._norm = source.norm("norm")
        self._pwconv1, self._pwconv2 = source.linear("pwconv1", "none"), source.linear("pwconv2")
        self._layer_scale = source.kept("gamma") if source.has("gamma") else None
        self._grn = None
        if source.has("grn.gamma"):
            # (1, 1, inner) -> (inner,): the library keeps axes for batch and time
            self._grn = source.kept("grn.gamma").flatten(), source.kept("grn.beta").flatten()

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        """(total, dim) -> (total, dim)."""
        padding = packing.conv_padding(KERNEL // 2)
        hidden = padding.unpad(self._dwconv(padding.pad(x)))  # (total, dim)
        hidden = self._pwconv1(F.layer_norm(hidden, hidden.shape[1:], *self._norm, _EPS))  # (total, inner), with GELU
        if self._grn is not None:
            _global_response_norm_(hidden, packing, *self._grn)
        residual = self._pwconv2(hidden)  # (total, dim)
        return x + residual if self._layer_scale is None else torch.addcmul(x, residual, self._layer_scale)


def _global_response_norm_(x: Tensor, packing: Packing, gamma: Tensor, beta: Tensor) -> None:
    """Same as `f5_tts.model.modules.GRN`, in place; its norm over time is taken within each sequence.

    Args:
        x: (total, inner).
        gamma, beta: (inner,).
    """
    for span in packing.spans:
        sequence = x[span]  # (seq, inner)
        gx = sequence.norm(dim=0)  # (inner,)
        nx = gx / (gx.mean() + _EPS)  # (inner,)
        sequence.mul_(1 + gamma * nx).add_(beta)  # the library's `gamma * (x * nx) + beta + x`
