"""Products with a matrix of weights, as fast as the device has them.

On a processor the weights are put, once, into the order in memory that the kernels of oneDNN read (what torch's own
compiler does when it freezes a model): with 32 rows three times as fast as `torch.nn.functional.linear`, and with
bfloat16 five times where the processor has it (AVX-512, two cores).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_ROWS = 32  # the order is chosen for so many; others are nearly as fast in it
_NEEDED = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


Gelu = Literal["", "none", "tanh"]
"""Nothing, or GELU after the product: as it is defined, or the approximation by tanh."""


class Linear:
    """y = x Wᵀ + b, in the precision of the weights.

    Args:
        weight: [out, in], in any order in memory; not needed any more afterwards.
        bias: [out], or None.
        gelu: What is done to y; on a processor in the same pass over it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: Gelu = "") -> None:
        self.dtype = weight.dtype
        self._bias = None if bias is None else bias.to(weight.dtype)
        self._gelu = gelu
        self._is_packed = can_be_packed(weight)
        self._weight: Tensor = _onednn("_reorder_linear_weight", weight, _ROWS) if self._is_packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], both in the precision of the weights."""
        if self._is_packed:
            return _pointwise(x, self._weight, self._bias, self._gelu)
        product = F.linear(x, self._weight, self._bias)
        return F.gelu(product, approximate=self._gelu) if self._gelu else product


def product(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ of two matrices [m, k] and [n, k] that change with every call.

    Either is contiguous, or the transpose of one that is: in any other order it takes a hundred times as long.
    """
    return _pointwise(x, y, None, "") if can_be_packed(y) else x @ y.t()


def can_be_packed(weight: Tensor) -> bool:
    """Whether oneDNN has its products, which are the fast ones on a processor."""
    if weight.device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in _NEEDED):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(_onednn("_is_mkldnn_bf16_supported"))
    return weight.dtype == torch.float32


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Gelu) -> Tensor:
    y: Tensor = _onednn("_linear_pointwise", x, weight, bias, "gelu" if gelu else "none", [], gelu)
    return y


def _onednn(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.mkldnn, name)(*arguments)
