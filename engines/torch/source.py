"""Building layers straight from the tensors of a checkpoint, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import RequestRefused
from engines.modelfiles.tensors import Entry
from engines.torch import weights
from engines.torch.linear import Gelu, Linear


@dataclass(frozen=True, slots=True)
class WeightSource:
    """The weights of a model or of one of its submodules.

    Attributes:
        path: The checkpoint; memory-mapped, never written.
        entries: Its tensors, by their names in the model's state dict.
        device: Where the layers go.
        dtype: Precision of matrices.
        prefix: Of the submodule in the state dict, with a dot at its end.
    """

    path: Path
    entries: Mapping[str, Entry]
    device: torch.device
    dtype: torch.dtype
    prefix: str = ""

    def within(self, prefix: str) -> WeightSource:
        """The weights of a submodule, for example `source.within("attn.")`."""
        return replace(self, prefix=self.prefix + prefix)

    def in_float32(self) -> WeightSource:
        """The same weights, with matrices in float32."""
        return replace(self, dtype=torch.float32)

    def has(self, name: str) -> bool:
        """Whether the submodule has a tensor of this name."""
        return self.prefix + name in self.entries

    def read(self, name: str) -> Tensor:
        """Map a tensor, with the file's dtype and on the CPU.

        Raises:
            RequestRefused: it is missing, or has NaN or infinite values.
        """
        name = self.prefix + name
        if name not in self.entries:
            raise RequestRefused(
                f"{self.path.name} lacks {name}",
                "The file is not a whole model. `voicespool checkpoints inspect FILE` says what it is.",
            )
        ((_name, tensor),) = weights.checked(self.path, {name: self.entries[name]})
        return tensor

    def kept(self, name: str) -> Tensor:
        """Copy a tensor to the device in float32: for norms, biases and embeddings."""
        # copy=True: without it a float32 tensor on the CPU would stay a view of the file.
        return self.read(name).to(self.device, torch.float32, copy=True)

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer norm, float32."""
        return self.kept(f"{name}.weight"), self.kept(f"{name}.bias")

    def linear(self, name: str, gelu: Gelu = "") -> Linear:
        """Make a linear layer of `name.weight`, [out, in], and `name.bias`, [out], if there is one.

        Args:
            name: Of the layer in the submodule.
            gelu: GELU after the layer, as in `Linear`.
        """
        bias = self.kept(f"{name}.bias") if self.has(f"{name}.bias") else None
        return Linear(self.read(f"{name}.weight").to(self.device), bias, self.dtype, "many", gelu)
