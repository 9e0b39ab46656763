"""A file's tensors as the layers of a model, read one at a time when they are asked for."""

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
    """Where a model, or a part of one, gets its weights from.

    Attributes:
        path: The file; mapped for reading alone.
        entries: Its tensors by the model's names.
        device, dtype: Where matrices go, and in which precision.
        prefix: What all names of this part begin with.
    """

    path: Path
    entries: Mapping[str, Entry]
    device: torch.device
    dtype: torch.dtype
    prefix: str = ""

    def within(self, prefix: str) -> WeightSource:
        """A part of this part: `source.within("attn.")`."""
        return replace(self, prefix=self.prefix + prefix)

    def in_float32(self) -> WeightSource:
        return replace(self, dtype=torch.float32)

    def has(self, name: str) -> bool:
        return self.prefix + name in self.entries

    def read(self, name: str) -> Tensor:
        """A tensor as it lies in the file, which stays mapped as long as it is needed.

        Raises:
            RequestRefused: It is missing, or holds what is not a number.
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
        """A copy in float32 on the device: for norms, embeddings, and all that is small."""
        return self.read(name).to(self.device, torch.float32, copy=True)

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer norm."""
        return self.kept(f"{name}.weight"), self.kept(f"{name}.bias")

    def linear(self, name: str, gelu: Gelu = "") -> Linear:
        """A matrix with its bias, if it has one."""
        bias = self.kept(f"{name}.bias") if self.has(f"{name}.bias") else None
        return Linear(self.read(f"{name}.weight").to(self.device), bias, self.dtype, "many", gelu)
