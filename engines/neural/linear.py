"""Products with a matrix of weights, as fast as the device has them.

On a processor the weights are put into the order in memory that the kernels of oneDNN read, as torch's own compiler
does it when it freezes a model: with 32 rows three times as fast as `torch.nn.functional.linear`, and with bfloat16
five times where the processor has it (AVX-512, two cores).

There a row's product is the same to the last bit in whatever company it comes. oneDNN sums up in another order if a row
comes alone; so it is given its own copy as company, which takes no longer, as reading the matrix is what takes time.
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
    """y = x Wᵀ + b.

    On a processor the matrix is converted and packed when it is first used, and the tensor given is let go then: until
    that it may be a view of a file, which costs nothing.

    Args:
        weight: [out, in], in any precision and any order in memory.
        bias: [out], or None.
        dtype: To calculate in.
        gelu: What is done to y; on a processor in the same pass over it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: Gelu = "") -> None:
        self.dtype = dtype
        self._bias = None if bias is None else bias.to(dtype)
        self._gelu = gelu
        self._is_packed = False
        self._can_be_packed = can_be_packed(weight.device, dtype)
        self._weight = weight if self._can_be_packed else weight.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], both in `dtype`."""
        if not self._can_be_packed:
            y = F.linear(x, self._weight, self._bias)
            return F.gelu(y, approximate=self._gelu) if self._gelu else y
        if not self._is_packed:
            self._weight = _onednn("_reorder_linear_weight", self._weight.to(self.dtype), _ROWS)
            self._is_packed = True
        is_alone = x.numel() == x.shape[-1]
        y = _pointwise(x.reshape(1, -1).repeat(2, 1) if is_alone else x, self._weight, self._bias, self._gelu)
        return y[0].view(*x.shape[:-1], -1) if is_alone else y


def product(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ of two matrices [m, k] and [n, k] that change with every call.

    Either is contiguous, or the transpose of one that is: in any other order it takes a hundred times as long.
    """
    return _pointwise(x, y, None, "") if can_be_packed(y.device, y.dtype) else x @ y.t()


def can_be_packed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has the products of this precision, which are the fast ones on a processor."""
    if device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in _NEEDED):
        return False
    if dtype == torch.bfloat16:
        return bool(_onednn("_is_mkldnn_bf16_supported"))
    return dtype == torch.float32


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Gelu) -> Tensor:
    y: Tensor = _onednn("_linear_pointwise", x, weight, bias, "gelu" if gelu else "none", [], gelu)
    return y


def _onednn(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.mkldnn, name)(*arguments)
