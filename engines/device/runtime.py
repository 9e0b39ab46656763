"""What an engine runs on: the device, the arithmetic, the memory, and torch's surroundings put in order.

torch is imported inside functions only: the daemon imports engines, and must stay small.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from engines.base import Device
from engines.device.allowance import free_memory, processors
from engines.errors import EngineMissing, OutOfMemory, RequestRefused

if TYPE_CHECKING:
    import torch

CPUINFO = Path("/proc/cpuinfo")

# torch has no class of its own for most of these.
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # nothing is downloaded while rendering; `voicespool models pull` does that
    "TOKENIZERS_PARALLELISM": "false",  # its threads and a later fork do not go together
    "TRANSFORMERS_VERBOSITY": "error",
}
_KEPT = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "128",  # of ideep, through which torch calls oneDNN for convolutions
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT": "1024",
}
"""Kernels kept, each good for one length, where the libraries would keep 1,024 and more: gigabytes, as every text and
every recording has another length.
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What an engine runs on, decided once per load.

    Attributes:
        device: `cpu`, `cuda:N` or `mps`.
        precision: `float32`, `float16` or `bfloat16`.
    """

    device: str
    precision: str

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return cast("torch.dtype", getattr(torch, self.precision))

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")


def choose(device: Device, *, half_ok: bool = True) -> Runtime:
    """Decide device and precision.

    `auto` takes the first card that this torch has kernels for, else the CPU. Its precision is bfloat16 where that is
    faster: cards from compute capability 8.0 on, processors with AMX; everywhere else float32, and under `low_vram`
    float16 on a card.

    Args:
        device: As configured.
        half_ok: Whether the engine can calculate in 16 bits.

    Raises:
        EngineMissing: The card asked for is not there, or this torch has no kernels for it.
        RequestRefused: The precision asked for does not go with the device or the engine.
    """
    chosen = _device(device.name)
    if device.precision == "auto":
        if not half_ok:
            return Runtime(chosen, "float32")
        is_small = device.profile == "low_vram" and chosen.startswith("cuda")
        return Runtime(chosen, "bfloat16" if fast_bfloat16(chosen) else "float16" if is_small else "float32")
    if device.precision != "float32":
        _check_half(chosen, device.precision, half_ok)
    return Runtime(chosen, device.precision)


def fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32 there.

    Measured on two cores for the matrices and convolutions of XTTS: with AMX a third of float32's time, on AMD's
    processors with AVX-512 BF16 half of it; on others with AVX-512 BF16 alone 1.3 times, and with neither 5 to 8 times
    as long.
    """
    if device == "cpu":
        flags = _processor()
        return "amx_bf16" in flags or {"AuthenticAMD", "avx512_bf16"} <= flags
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False


def usable(number: int) -> bool:
    """Whether this torch has kernels for a card."""
    import torch

    if torch.version.hip is not None:  # names architectures in another way, and is believed
        return True
    return has_kernels(torch.cuda.get_arch_list(), torch.cuda.get_device_capability(number))


def has_kernels(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a torch built for these architectures runs on a card of this compute capability.

    Args:
        built_for: As `torch.cuda.get_arch_list` says: `sm_86`, machine code, for cards of the same major number from
            that minor number on; `sm_90a` for that card alone; `sm_100f` for its family; `compute_90`, which the driver
            compiles for any later card. See "GPU feature list" in the manual of nvcc.
        capability: The card's, for example (8, 6).
    """
    major, minor = capability
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdecimal():
            continue
        its_major, its_minor = divmod(int(digits), 10)
        if number.endswith("a"):
            fits = (its_major, its_minor) == capability
        elif kind == "compute" and not number.endswith("f"):
            fits = (its_major, its_minor) <= capability
        else:
            fits = its_major == major and its_minor <= minor
        if fits:
            return True
    return False


def kernels_cure(capability: tuple[int, int]) -> str:
    """What to do about a torch without kernels for a card of this compute capability, in words."""
    if capability < (7, 5):
        return (
            "Install torch 2.14 built for CUDA 12.6, the last with kernels for cards of this age, "
            "or set `device: {name: cpu}`."
        )
    return "Install a newer torch, built for the CUDA version of this machine's driver, or set `device: {name: cpu}`."


def free_bytes(device: str) -> int:
    """Memory that can still be taken on a device, in bytes; what torch's own cache holds unused counts as free."""
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory()


def threads() -> int:
    """CPU threads that torch should use: `OMP_NUM_THREADS` where somebody set it, else what this process is given."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else processors()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory was too small, on whatever device."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch.OutOfMemoryError is a RuntimeError with these words, too.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def too_small(words: str) -> Iterator[None]:
    """Memory that runs out inside is told as this.

    Raises:
        OutOfMemory: in the place of whatever error said so.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(words) from None


def release(device: str) -> None:
    """Give memory back that nothing uses any more: to the card, or to the system where the C library can."""
    gc.collect()
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        torch.cuda.empty_cache()
    elif device == "mps" and torch is not None:
        torch.mps.empty_cache()
    trim()


def trim() -> None:
    """Give the system what the C library holds for later, where it can: of XTTS-v2 half a gigabyte after a sentence."""
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        give_back(0)


def quiet() -> None:
    """Turn off what the libraries would send, ask or print of their own accord, and bound what they keep.

    Call it before they are imported.
    """
    os.environ.update(_QUIET)
    for name, number in _KEPT.items():
        os.environ.setdefault(name, number)


# --- device and precision --------------------------------------------------------------------------------------------


def _device(name: str) -> str:
    if name == "cpu":
        return name
    import torch

    if name == "mps":
        if not torch.backends.mps.is_available():
            raise EngineMissing("this torch can't use an Apple GPU here", "Set `device: {name: auto}`.")
        return name
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return next((f"cuda:{number}" for number in range(cards) if usable(number)), "cpu")
    number = int(name.partition(":")[2] or 0)
    if number >= cards:
        raise EngineMissing(f"there is no card {name}: torch {torch.__version__} sees {cards or 'none'}", _no_card())
    if not usable(number):
        card = torch.cuda.get_device_name(number)
        capability = torch.cuda.get_device_capability(number)
        raise EngineMissing(
            f"torch {torch.__version__} has no kernels for card {number}, {card!r} (sm_{capability[0]}{capability[1]})",
            kernels_cure(capability),
        )
    return f"cuda:{number}"


def _no_card() -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "This torch is built for the CPU alone: install one built for CUDA, or set `device: {name: auto}`."
    return "`voicespool doctor` says what torch sees of the cards; `device: {name: auto}` takes what there is."


def _check_half(device: str, precision: str, half_ok: bool) -> None:
    cure = "Set `device: {precision: auto}`."
    if not half_ok:
        raise RequestRefused(f"this engine calculates in float32 only, not in {precision}", cure)
    if device == "cpu" and precision == "float16":
        raise RequestRefused("float16 is 2 to 100 times slower than float32 on a CPU", cure)
    if device.startswith("cuda") and precision == "bfloat16" and not fast_bfloat16(device):
        raise RequestRefused(f"card {device} has no bfloat16", cure)


def _processor() -> frozenset[str]:
    """Maker and flags of the first processor; none where the system has no such file."""
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (next((line for line in lines if line.startswith(what)), "") for what in ("vendor_id", "flags"))
    return frozenset(word for line in found for word in line.split())


# --- torchaudio ------------------------------------------------------------------------------------------------------


def prepare_torchaudio() -> bool:
    """Import torchaudio, without its compiled part where that is built for another torch than ours.

    A torchaudio of one CUDA version does not load beside a torch of another, or of none. What speech models call of it
    (resampling, mel spectrograms) is plain torch; so where the compiled part fails, and only there, a module
    without it takes its place.

    Returns:
        Whether the compiled part was left out.

    Raises:
        EngineMissing: torchaudio is not installed, or broken in another way.
    """
    if "torchaudio" in sys.modules:
        return getattr(sys.modules.get("torchaudio._extension"), "__file__", None) is None
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        raise EngineMissing(f"torchaudio can't be imported: {error}") from error
    except (OSError, RuntimeError, ImportError) as error:
        if not _in_compiled_part(error):
            raise EngineMissing(f"torchaudio can't be imported: {error}", "Install torchaudio again.") from error
        _import_without_compiled_part()
        return True
    return False


def _in_compiled_part(error: BaseException) -> bool:
    places = traceback.extract_tb(error.__traceback__)
    return any(Path(place.filename).parts[-3:-1] == ("torchaudio", "_extension") for place in places)


def _import_without_compiled_part() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _stand_in()
    importlib.import_module("torchaudio")


def _stand_in() -> ModuleType:
    def unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    module = ModuleType("torchaudio._extension", "Stands for torchaudio's compiled part, which does not load here.")
    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=unchanged,
        _check_cuda_version=lambda: None,
        _load_lib=lambda _name: False,
    )
    return module
