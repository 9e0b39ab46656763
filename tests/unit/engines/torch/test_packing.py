"""Packed sequences: no layer mixes them, and each gives the same result as alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.linear import Gelu, Rows


def noise(*shape: int) -> Tensor:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def alone(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torch's own padded convolution over one sequence, [rows, in] -> [rows, out]."""
    import torch

    groups = x.shape[1] // weight.shape[1]
    return torch.nn.functional.conv1d(x.t()[None], weight, bias, padding=weight.shape[2] // 2, groups=groups)[0].t()


def packed(convolution: Any, sequences: list[Tensor], kernel: int) -> list[Tensor]:
    import torch

    from engines.torch.packing import Packing

    packing = Packing([len(sequence) for sequence in sequences], torch.device("cpu"))
    padding = packing.conv_padding(kernel // 2)
    made: Tensor = padding.unpad(convolution(padding.pad(torch.cat(sequences))))
    return [made[span] for span in packing.spans]


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), kernel=st.sampled_from((1, 3, 7, 31)))
def test_convolutions_see_the_end_of_each_sequence(lengths: list[int], kernel: int) -> None:
    """Shorter than the kernel and longer; full, depthwise, and in wide groups."""
    import torch

    from engines.torch.convolution import Convolution, GroupedConvolution

    sequences = [noise(length, 12) for length in lengths]
    bias = noise(12)
    for kind, width in ((Convolution, 12), (Convolution, 1), (GroupedConvolution, 4), (GroupedConvolution, 12)):
        weight = noise(12, width, kernel)
        for sequence, made in zip(sequences, packed(kind(weight, bias), sequences, kernel), strict=True):
            torch.testing.assert_close(made, alone(sequence, weight, bias), rtol=1e-4, atol=1e-4)


def test_offsets_and_positions() -> None:
    import torch

    from engines.torch.packing import Packing

    packing = Packing([3, 1, 2], torch.device("cpu"))
    assert (packing.total, packing.max_seqlen, packing.spans) == (6, 3, [slice(0, 3), slice(3, 4), slice(4, 6)])
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert packing.cu_seqlens.tolist() == [0, 3, 4, 6]


@pytest.mark.parametrize("few_or_many", ["few", "many"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_with_gelu_are_torchs(dtype: str, few_or_many: str) -> None:
    """As it is defined, approximated by tanh, and none; with a bias and without; of strided rows too.

    Torch rounds to the precision before GELU; packed, both are one.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - its usual name

    from engines.torch.linear import Linear, is_packed, product

    precision, rows = getattr(torch, dtype), cast("Rows", few_or_many)
    wide, weight, bias = (noise(*shape).to(precision) for shape in ((50, 30), (20, 10), (20,)))
    x = wide[:, 5:15]
    for own in (bias, None):
        plain = F.linear(x.float(), weight.float(), None if own is None else own.float())
        if not is_packed(x.device, precision, rows):
            plain = plain.to(precision).float()
        expected = {"": plain, "none": F.gelu(plain), "tanh": F.gelu(plain, approximate="tanh")}
        for gelu, wanted in expected.items():
            made = Linear(weight, own, precision, rows, cast("Gelu", gelu))(x)
            torch.testing.assert_close(made, wanted.to(precision))
    likeness = product(x, wide[:, 15:25])
    torch.testing.assert_close(likeness, (x.float() @ wide[:, 15:25].float().t()).to(likeness.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_alone_is_the_same_to_the_last_bit(dtype: str) -> None:
    """Of so wide a matrix oneDNN itself gives a row alone other bits."""
    import torch

    from engines.torch.linear import Linear, is_packed

    precision = getattr(torch, dtype)
    if not is_packed(torch.device("cpu"), precision, "few"):
        pytest.skip("this processor has no such products; it takes torch's own")
    layer = Linear(noise(1024, 4096), noise(1024), precision, "few", "tanh")
    rows = noise(7, 4096).to(precision)
    together = layer(rows)
    for row, expected in zip(rows, together, strict=True):
        assert torch.equal(layer(row), expected)
        assert torch.equal(layer(row[None, None]), expected[None, None])
