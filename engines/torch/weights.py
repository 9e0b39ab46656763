"""Weights from a file into a model: memory-mapped, read-only, without running anything that the file holds.

The header says where each tensor lies (`engines.modelfiles.tensors`); here those bytes become tensors. Each tensor has
a private mapping of its own, so that one which is converted to another precision gives its pages back at once, and the
peak stays at what is kept.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engines.errors import RequestRefused
from engines.modelfiles.tensors import Entry
from files import bounded_json

MAX_NAMES = 3
MAX_JSON = 1 << 20
_FILLS = {Tensor.normal_, Tensor.uniform_}
_FILLING_MODULES = {"torch.nn.init", "transformers.initialization"}


def mapped(path: Path, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a file, mapped copy-on-write: nothing is read before it is used, nothing is ever written back."""
    with path.open("rb") as file:
        for name, entry in entries.items():
            yield name, _view(file.fileno(), entry)


def _view(descriptor: int, entry: Entry) -> Tensor:
    dtype = getattr(torch, entry.dtype)
    if entry.size == 0:
        return torch.empty(entry.shape, dtype=dtype)
    size = entry.size
    if entry.stride is not None:
        steps = zip(entry.shape, entry.stride, strict=True)
        size = dtype.itemsize * (1 + sum((length - 1) * step for length, step in steps))
    start = entry.offset - entry.offset % mmap.ALLOCATIONGRANULARITY
    skip = entry.offset - start
    mapping = mmap.mmap(descriptor, skip + size, offset=start, access=mmap.ACCESS_COPY)
    if skip % dtype.itemsize:
        flat = torch.frombuffer(bytearray(mapping[skip:]), dtype=dtype)
    else:
        flat = torch.frombuffer(mapping, dtype=dtype, offset=skip, count=size // dtype.itemsize)
    return flat.reshape(entry.shape) if entry.stride is None else flat.as_strided(entry.shape, entry.stride)


class Unfilled(TorchFunctionMode):
    """While this is entered, modules are built without filling them with random numbers.

    Their memory is asked for and never touched, which costs nothing; `assign` replaces it. The `meta` device would be
    the natural way, but filter banks are computed while a model is built, and that needs numbers.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FILLS or getattr(function, "__module__", "") in _FILLING_MODULES:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def checked(path: Path, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """As `mapped`.

    Raises:
        RequestRefused: a tensor holds values that are not numbers.
    """
    for name, tensor in mapped(path, entries):
        _check_values(path, name, tensor)
        yield name, tensor


def assign(
    model: torch.nn.Module, path: Path, entries: Mapping[str, Entry], dtype: Callable[[str], torch.dtype]
) -> None:
    """Give a model the weights of a file.

    Args:
        model: Built `Unfilled`.
        entries: The file's tensors by the model's names; more than the model has are left unread.
        dtype: Name -> precision that the tensor is wanted in. Integers stay what they are.

    Raises:
        RequestRefused: a tensor is missing, has another shape, or holds values that are not numbers.
    """
    wanted = model.state_dict()
    _check_shapes(path, wanted, entries)
    state = {
        name: tensor.to(dtype(name)) if tensor.is_floating_point() else tensor
        for name, tensor in checked(path, {name: entries[name] for name in wanted})
    }
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(requires_grad=False)


def _check_shapes(path: Path, wanted: Mapping[str, Tensor], entries: Mapping[str, Entry]) -> None:
    missing = [name for name in wanted if name not in entries]
    if missing:
        raise RequestRefused(
            f"{path.name} lacks {len(missing)} of {len(wanted)} tensors, {_some(missing)}",
            "The file is not a whole model. `voicespool checkpoints inspect FILE` says what it is.",
        )
    wrong = [
        f"{name} is {list(entries[name].shape)} and should be {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if entries[name].shape != tuple(tensor.shape)
    ]
    if wrong:
        raise RequestRefused(
            f"{len(wrong)} tensors of {path.name} do not fit its configuration: {_some(wrong)}",
            "Put the config.json of this very training run beside the checkpoint.",
        )


def _check_values(path: Path, name: str, tensor: Tensor) -> None:
    """One pass over the tensor: a sum is finite only if every value is. Half precision is summed in float32."""
    if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
        if torch.isfinite(tensor.float()).all():  # large values whose sum overflows are numbers all the same
            return
        raise RequestRefused(
            f"{path.name} holds values that are not numbers (NaN or infinity), the first in {name}",
            "The training went wrong before this file was written; use an earlier checkpoint of that run.",
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


class Adapter:
    """A LoRA adapter for a GPT-2: W + scale · (B A)ᵀ, as in arXiv 2106.09685.

    GPT-2's layers keep their weight as [in, out], the transpose of what the adapter is written for.

    Args:
        path: `adapter_model.safetensors` in PEFT's layout, `adapter_config.json` beside it.
        entries: Its tensors, named as in `engines.checkpoints.architectures`: `LAYER.lora_A.weight`,
            `LAYER.lora_B.weight`.
        base: Of the model that it is for.

    Raises:
        RequestRefused: it is for other layers or sizes, its configuration is missing, or it holds NaN.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], base: Mapping[str, Entry]) -> None:
        rank, self._scale = _lora_strength(path.with_name("adapter_config.json"))
        pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checked(path, entries):
            layer, _, side = name.partition(".lora_")
            pairs.setdefault(f"{layer}.weight", {})[side[:1]] = tensor.float()
        for target, pair in pairs.items():
            shape = pair["A"].shape[1], pair["B"].shape[0]
            its = base[target].shape if target in base else None
            if len(pair["A"]) != rank:
                raise RequestRefused(
                    f"{path.name} has rank {len(pair['A'])} for {target}, and its configuration says {rank}",
                    _ITS_CONFIG,
                )
            if its != shape:
                raise RequestRefused(
                    f"{path.name} does not fit the base model: it changes {target} of {list(shape)}, and there "
                    + ("is none" if its is None else f"it is {list(its)}"),
                    "Use the base model that the adapter was trained on.",
                )
        self._pairs = pairs

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the base model with the adapter's change, float32; as it is where there is none."""
        pair = self._pairs.get(name)
        return weight if pair is None else weight.float() + self._scale * (pair["B"] @ pair["A"]).T


def json_in(path: Path) -> Any:
    """What a small file beside the weights says. Raises: OSError, ValueError."""
    return bounded_json.read(path, MAX_JSON)


def _lora_strength(config: Path) -> tuple[int, float]:
    """Rank, and alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised (arXiv 2312.03732)."""
    try:
        said = json_in(config)
        rank, alpha = int(said["r"]), float(said["lora_alpha"])
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError(f"r={rank}, lora_alpha={alpha}")
        if said.get("alpha_pattern"):
            raise ValueError("alpha_pattern makes some layers stronger than others, which is not followed here")
        return rank, alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RequestRefused(f"the adapter's {config.name} can't be used ({words})", _ITS_CONFIG) from None


_ITS_CONFIG = (
    "Copy adapter_config.json from the training run: it says how strong the adapter is. Or merge the adapter where it "
    "was trained (merge_and_unload in PEFT), and use the merged checkpoint."
)
