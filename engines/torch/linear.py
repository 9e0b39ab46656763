"""Products with a matrix of weights, as fast as the device has them.

On a processor the weights are put into the order in memory that the kernels of oneDNN read, as torch's own compiler
does it when it freezes a model: with 32 rows three times as fast as `torch.nn.functional.linear`, and with bfloat16
five times where the processor has it (AVX-512, two cores). In float32 without AVX-512 that is twice as fast with a few
rows, but with a thousand a seventh slower, and attention made of such products takes two thirds longer than torch's own
(AVX2, two cores): there, what comes in many rows is left to torch.

In that order a row's product is the same to the last bit in whatever company it comes. oneDNN sums up in another order
if a row comes alone; so it is given its own copy as company, which takes no longer, as reading the matrix is what takes
time.
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

Rows = Literal["few", "many"]
"""How many come at a time: a row for each text that is being spoken, or hundreds for each moment of sound."""


class Linear:
    """y = x Wᵀ + b.

    On a processor the matrix is converted and packed, or copied, when it is first used, and the tensor given is let go
    then: until that it may be a view of a file, which costs nothing.

    Args:
        weight: [out, in], in any precision and any order in memory.
        bias: [out], or None.
        dtype: To calculate in.
        rows: Of x, mostly.
        gelu: What is done to y; where the matrix is packed, in the same pass over it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: Rows, gelu: Gelu = "") -> None:
        self.dtype = dtype
        self._bias = None if bias is None else bias.to(dtype)
        self._gelu = gelu
        self._is_packed = is_packed(weight.device, dtype, rows)
        self._is_own = weight.device.type != "cpu"
        self._weight = weight.to(dtype) if self._is_own else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], both in `dtype`."""
        if not self._is_own:
            self._weight, self._is_own = self._made_own(), True
        if not self._is_packed:
            y = F.linear(x, self._weight, self._bias)
            return torch.ops.aten.gelu_(y, approximate=self._gelu) if self._gelu else y
        is_alone = x.numel() == x.shape[-1]
        y = _pointwise(x.reshape(1, -1).repeat(2, 1) if is_alone else x, self._weight, self._bias, self._gelu)
        return y[0].view(*x.shape[:-1], -1) if is_alone else y

    def _made_own(self) -> Tensor:
        if not self._is_packed:
            return self._weight.to(self.dtype, copy=True, memory_format=torch.contiguous_format)
        packed: Tensor = _onednn("_reorder_linear_weight", self._weight.to(self.dtype), _ROWS)
        return packed


def product(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ of two matrices [m, k] and [n, k] that change with every call.

    Either is contiguous, or the transpose of one that is: in any other order it takes a hundred times as long.
    """
    return _pointwise(x, y, None, "") if is_packed(y.device, y.dtype, "many") else x @ y.t()


def is_packed(device: torch.device, dtype: torch.dtype, rows: Rows) -> bool:
    """Whether oneDNN has products of this precision, and they are the faster ones for so many rows."""
    if device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in _NEEDED):
        return False
    if dtype == torch.bfloat16:
        return bool(_onednn("_is_mkldnn_bf16_supported"))
    return dtype == torch.float32 and (rows == "few" or torch.backends.cpu.get_cpu_capability() == "AVX512")


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Gelu) -> Tensor:
    y: Tensor = _onednn("_linear_pointwise", x, weight, bias, "gelu" if gelu else "none", [], gelu)
    return y


def _onednn(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.mkldnn, name)(*arguments)
