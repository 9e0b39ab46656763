"""Linear layers whose weights are prepacked for oneDNN on CPUs.

Packing puts a matrix into the blocked memory format of oneDNN's kernels, as torch.compile does with
`torch._inductor.config.freezing`. Compared with `F.linear`, measured on two cores:

    AVX-512, 32 rows             3 times as fast; in bfloat16, on CPUs that have it, 5 times
    AVX2, float32, a few rows    2 times as fast
    AVX2, float32, 1,000 rows    1/7 slower; attention made of such products takes 2/3 longer

So float32 without AVX-512 is packed only for layers that get few rows at a time.

A packed product gives a row the same bits whatever rows are in its batch, with one exception: for a single row oneDNN
sums in another order. A single row is therefore doubled, which takes no longer: the time goes into reading the matrix.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_PACKED_FOR_ROWS = 32  # oneDNN chooses the format for this many rows; other numbers are nearly as fast
_OPS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")  # private: may be missing


Gelu = Literal["", "none", "tanh"]
"""No activation, or GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415) after the product: exact, or with tanh."""

Rows = Literal["few", "many"]
"""Rows of a typical input: one per sequence (decoding), or one per frame of each sequence."""


class Linear:
    """Same as `torch.nn.Linear`, y = x Wᵀ + b, with an optional GELU.

    On a CPU the matrix is converted and packed at the first call. Until then it may be a view of a mapped file, which
    takes no memory.

    Args:
        weight: [out, in], of any dtype and strides.
        bias: [out], or None.
        dtype: Precision of input, product and output.
        rows: Of a typical input; decides whether packing is worth it.
        gelu: Activation; fused into the product where the matrix is packed.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: Rows, gelu: Gelu = "") -> None:
        self.dtype = dtype
        self._bias = None if bias is None else bias.to(dtype)
        self._gelu = gelu
        self._is_packed = is_packed(weight.device, dtype, rows)
        self._is_converted = weight.device.type != "cpu"
        self._weight = weight.to(dtype) if self._is_converted else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], both in `dtype`."""
        if not self._is_converted:
            self._weight, self._is_converted = self._converted(), True
        if not self._is_packed:
            y = F.linear(x, self._weight, self._bias)
            return torch.ops.aten.gelu_(y, approximate=self._gelu) if self._gelu else y
        is_single = x.numel() == x.shape[-1]
        # (1, ..., in) -> (1, in) -> (2, in): see the module's docstring
        y = _linear_pointwise(x.reshape(1, -1).repeat(2, 1) if is_single else x, self._weight, self._bias, self._gelu)
        return y[0].view(*x.shape[:-1], -1) if is_single else y  # (2, out) -> (1, ..., out)

    def _converted(self) -> Tensor:
        if not self._is_packed:
            # copy=True, so that the mapping of the file is released even if dtype and strides fit already.
            return self._weight.to(self.dtype, copy=True, memory_format=torch.contiguous_format)
        packed: Tensor = _onednn("_reorder_linear_weight", self._weight.to(self.dtype), _PACKED_FOR_ROWS)
        return packed


def product(x: Tensor, y: Tensor) -> Tensor:
    """Multiply two activations, x yᵀ, with the same kernels: [m, k] and [n, k] -> [m, n].

    Each must be contiguous or the transpose of a contiguous matrix: with other strides oneDNN takes 100 times as long.
    """
    # y takes the place of the weight; it is used once, so packing it would not pay.
    return _linear_pointwise(x, y, None, "") if is_packed(y.device, y.dtype, "many") else x @ y.t()


def is_packed(device: torch.device, dtype: torch.dtype, rows: Rows) -> bool:
    """Whether linear layers are packed: on a CPU where oneDNN supports the precision and is faster than `F.linear`."""
    if device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in _OPS):
        return False
    if dtype == torch.bfloat16:
        return bool(_onednn("_is_mkldnn_bf16_supported"))
    return dtype == torch.float32 and (rows == "few" or torch.backends.cpu.get_cpu_capability() == "AVX512")


def _linear_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Gelu) -> Tensor:
    y: Tensor = _onednn("_linear_pointwise", x, weight, bias, "gelu" if gelu else "none", [], gelu)
    return y


def _onednn(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.mkldnn, name)(*arguments)
