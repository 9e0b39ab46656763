"""Loading weights from a file into a module: memory-mapped, read-only, without unpickling.

`engines.modelfiles.tensors` reads the header, which gives the offset of each tensor; this module maps the bytes. Each
tensor has a private mapping of its own: when one is converted to another precision, its pages are freed at once, so
peak memory is that of the converted weights and a single tensor of the file.
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

MAX_NAMES = 3  # of tensors, in an error message
MAX_JSON = 1 << 20  # bytes
_INIT_METHODS = {Tensor.normal_, Tensor.uniform_}
_INIT_MODULES = {"torch.nn.init", "transformers.initialization"}


def mapped(path: Path, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Map tensors copy-on-write: bytes are read when they are used, and changes never reach the file.

    Args:
        path: A checkpoint; it may be renamed or removed while its tensors are in use.
        entries: Name -> dtype, shape and offset, as `tensors.read` gives them.

    Yields:
        Name and tensor, in the order of `entries`.

    Raises:
        OSError: the file can't be opened or mapped.
    """
    with path.open("rb") as file:
        for name, entry in entries.items():
            yield name, _view(file.fileno(), entry)


def _view(descriptor: int, entry: Entry) -> Tensor:
    dtype = getattr(torch, entry.dtype)
    if entry.size == 0:
        return torch.empty(entry.shape, dtype=dtype)
    size = entry.size
    if entry.stride is not None:
        # A transposed tensor, or a view of a larger storage: up to the last element that the strides reach.
        dims = zip(entry.shape, entry.stride, strict=True)
        size = dtype.itemsize * (1 + sum((length - 1) * stride for length, stride in dims))
    # mmap only takes offsets at page boundaries.
    start = entry.offset - entry.offset % mmap.ALLOCATIONGRANULARITY
    skip = entry.offset - start
    mapping = mmap.mmap(descriptor, skip + size, offset=start, access=mmap.ACCESS_COPY)
    if skip % dtype.itemsize:
        # safetensors does not align tensors to their element size, which torch requires: these few are copied.
        flat = torch.frombuffer(bytearray(mapping[skip:]), dtype=dtype)
    else:
        flat = torch.frombuffer(mapping, dtype=dtype, offset=skip, count=size // dtype.itemsize)
    # (elements,) -> entry.shape
    return flat.reshape(entry.shape) if entry.stride is None else flat.as_strided(entry.shape, entry.stride)


class SkipInit(TorchFunctionMode):
    """A context in which modules are built without random initialisation, as `no_init_weights` of transformers does.

    Parameters are allocated and never written, so the kernel maps no pages for them; `assign` replaces them. The
    `meta` device (`init_empty_weights` of accelerate) does not work here: the modules compute mel filter banks and
    windows when they are built, which needs values.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _INIT_METHODS or getattr(function, "__module__", "") in _INIT_MODULES:
            # Initialisers return the tensor that they fill.
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def checked(path: Path, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Map tensors as `mapped` does, and check their values.

    Raises:
        RequestRefused: a tensor has NaN or infinite values.
        OSError: the file can't be opened or mapped.
    """
    for name, tensor in mapped(path, entries):
        _check_values(path, name, tensor)
        yield name, tensor


def assign(
    model: torch.nn.Module, path: Path, entries: Mapping[str, Entry], dtype: Callable[[str], torch.dtype]
) -> None:
    """Load a module's state dict from a file, `load_state_dict(strict=True, assign=True)`.

    Args:
        model: Built within `SkipInit`.
        path: The checkpoint.
        entries: Its tensors, by their names in the state dict; others are not read.
        dtype: Name -> precision of the parameter. Integer tensors keep theirs.

    Raises:
        RequestRefused: a tensor is missing, has another shape, or has NaN or infinite values.
        OSError: the file can't be opened or mapped.
    """
    expected = model.state_dict()
    _check_shapes(path, expected, entries)
    state = {
        name: tensor.to(dtype(name)) if tensor.is_floating_point() else tensor
        for name, tensor in checked(path, {name: entries[name] for name in expected})
    }
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(requires_grad=False)


def _check_shapes(path: Path, expected: Mapping[str, Tensor], entries: Mapping[str, Entry]) -> None:
    missing = [name for name in expected if name not in entries]
    if missing:
        raise RequestRefused(
            f"{path.name} lacks {len(missing)} of {len(expected)} tensors, {_first(missing)}",
            "The file is not a whole model. `voicespool checkpoints inspect FILE` says what it is.",
        )
    wrong = [
        f"{name} is {list(entries[name].shape)} and should be {list(tensor.shape)}"
        for name, tensor in expected.items()
        if entries[name].shape != tuple(tensor.shape)
    ]
    if wrong:
        raise RequestRefused(
            f"{len(wrong)} tensors of {path.name} do not fit its configuration: {_first(wrong)}",
            "Put the config.json of this very training run beside the checkpoint.",
        )


def _check_values(path: Path, name: str, tensor: Tensor) -> None:
    """Check that all values are finite in float32.

    One pass without a temporary: the sum of a tensor is finite only if all of its values are.
    """
    if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
        if torch.isfinite(tensor.float()).all():  # finite values can have a sum that overflows
            return
        raise RequestRefused(
            f"{path.name} holds values that are not numbers (NaN or infinity), the first in {name}",
            "The training went wrong before this file was written; use an earlier checkpoint of that run.",
        )


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


class LoraAdapter:
    """A LoRA adapter (Hu et al. 2021, arXiv 2106.09685) for a GPT-2: W' = W + scale * (B A)ᵀ.

    Same as `merge_and_unload` of PEFT with `fan_in_fan_out`: GPT-2's Conv1D layers have weights of shape (in, out),
    the transpose of a linear layer's. Checked in tests/unit/engines/xtts/net/test_model.py.

    Args:
        path: `adapter_model.safetensors` of PEFT, with `adapter_config.json` in the same folder.
        entries: Its tensors, by the names that `engines.checkpoints.architectures` gives them: `LAYER.lora_A.weight`,
            [rank, in], and `LAYER.lora_B.weight`, [out, rank].
        base: The tensors of the base model.

    Raises:
        RequestRefused: its layers, shapes or rank do not match the base model or the configuration, the configuration
            can't be used, or values are NaN or infinite.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], base: Mapping[str, Entry]) -> None:
        rank, self._scale = _rank_and_scale(path.with_name("adapter_config.json"))
        pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checked(path, entries):
            layer, _, side = name.partition(".lora_")
            pairs.setdefault(f"{layer}.weight", {})[side[:1]] = tensor.float()
        for target, pair in pairs.items():
            shape = pair["A"].shape[1], pair["B"].shape[0]  # (in, out)
            base_shape = base[target].shape if target in base else None
            if len(pair["A"]) != rank:
                raise RequestRefused(
                    f"{path.name} has rank {len(pair['A'])} for {target}, and its configuration says {rank}",
                    _ITS_CONFIG,
                )
            if base_shape != shape:
                raise RequestRefused(
                    f"{path.name} does not fit the base model: it changes {target} of {list(shape)}, and there "
                    + ("is none" if base_shape is None else f"it is {list(base_shape)}"),
                    "Use the base model that the adapter was trained on.",
                )
        self._pairs = pairs

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Merge the adapter into a weight of the base model.

        Args:
            name: Of the weight, in the base model.
            weight: [in, out]; not changed.

        Returns:
            A new tensor in float32, or `weight` itself if the adapter has no such layer.
        """
        pair = self._pairs.get(name)
        # ((out, rank) @ (rank, in)).T -> (in, out)
        return weight if pair is None else weight.float() + self._scale * (pair["B"] @ pair["A"]).T


def json_in(path: Path) -> Any:
    """Read a JSON file of at most `MAX_JSON` bytes.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large or not JSON.
    """
    return bounded_json.read(path, MAX_JSON)


def _rank_and_scale(config: Path) -> tuple[int, float]:
    """Rank r and scale: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732).

    Raises:
        RequestRefused: adapter_config.json is missing, broken, or uses what is not supported.
    """
    try:
        content = json_in(config)
        rank, alpha = int(content["r"]), float(content["lora_alpha"])
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError(f"r={rank}, lora_alpha={alpha}")
        # PEFT's alpha_pattern (and rank_pattern, which the check of each rank finds) scale layers differently.
        if content.get("alpha_pattern"):
            raise ValueError("alpha_pattern makes some layers stronger than others, which is not followed here")
        return rank, alpha / (math.sqrt(rank) if content.get("use_rslora") else rank)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Messages of ValueError are sentences; of the others only the name of the class says what is wrong.
        words = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RequestRefused(f"the adapter's {config.name} can't be used ({words})", _ITS_CONFIG) from None


_ITS_CONFIG = (
    "Copy adapter_config.json from the training run: it says how strong the adapter is. Or merge the adapter where it "
    "was trained (merge_and_unload in PEFT), and use the merged checkpoint."
)
