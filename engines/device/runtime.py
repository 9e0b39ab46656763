"""Choice of device and precision, free memory, errors of memory, and the environment of torch.

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

# Only the first is a `torch.OutOfMemoryError`; the others are plain RuntimeErrors.
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)

_OFFLINE_AND_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # nothing is downloaded while rendering; `voicespool models pull` does that
    "TOKENIZERS_PARALLELISM": "false",  # a fork after its threads have started can deadlock
    "TRANSFORMERS_VERBOSITY": "error",
}
_KERNEL_CACHES = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "128",  # of ideep, through which torch calls oneDNN for convolutions
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT": "1024",
}
"""Bounds on caches of kernels, each kernel for one shape. The defaults of 1,024 and more come to gigabytes: each text
and each recording has another length.
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device and precision of an engine, chosen once per load.

    Attributes:
        device: `cpu`, `cuda:N` or `mps`.
        precision: `float32`, `float16` or `bfloat16`.
    """

    device: str
    precision: str

    @property
    def torch_device(self) -> torch.device:
        """The device as torch's own object."""
        import torch

        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch's own object."""
        import torch

        return cast("torch.dtype", getattr(torch, self.precision))

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")


def choose(device: Device, *, half_ok: bool = True) -> Runtime:
    """Choose device and precision.

    The device `auto` is the first GPU that this torch has kernels for, else the CPU. The precision `auto` is bfloat16
    where `fast_bfloat16` says so, else float32; on a GPU with the profile `low_vram` float16 instead of float32.

    Args:
        device: As configured.
        half_ok: Whether the engine supports 16 bits.

    Raises:
        EngineMissing: the GPU asked for does not exist, or this torch has no kernels for it.
        RequestRefused: the device or the engine does not support the precision asked for.
    """
    chosen = _device(device.name)
    if device.precision == "auto":
        if not half_ok:
            return Runtime(chosen, "float32")
        needs_half = device.profile == "low_vram" and chosen.startswith("cuda")
        return Runtime(chosen, "bfloat16" if fast_bfloat16(chosen) else "float16" if needs_half else "float32")
    if device.precision != "float32":
        _check_half(chosen, device.precision, half_ok)
    return Runtime(chosen, device.precision)


def fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32 on a device.

    On GPUs from compute capability 8.0 on. On CPUs by measurement, with the matrices and convolutions of XTTS on two
    cores. Time of bfloat16 compared with float32: 1/3 with AMX; 1/2 with AVX-512 BF16 from AMD; 1.3 times with AVX-512
    BF16 from Intel; 5 to 8 times with neither.

    Args:
        device: `cpu`, `cuda:N` or `mps`.
    """
    if device == "cpu":
        flags = _cpu_flags()
        return "amx_bf16" in flags or {"AuthenticAMD", "avx512_bf16"} <= flags
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False


def usable(number: int) -> bool:
    """Whether this torch has kernels for the GPU of this number."""
    import torch

    if torch.version.hip is not None:  # ROCm has other names for architectures (gfx90a); not checked
        return True
    return has_kernels(torch.cuda.get_arch_list(), torch.cuda.get_device_capability(number))


def has_kernels(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a torch built for these architectures runs on a GPU of this compute capability.

    Args:
        built_for: From `torch.cuda.get_arch_list`. `sm_86` is machine code for the same major number from that minor
            number on; `sm_90a` for exactly that capability; `sm_100f` for its family. `compute_90` is PTX, which the
            driver compiles for any later GPU. Source: "GPU feature list" in the manual of nvcc.
        capability: Of the GPU, for example (8, 6).
    """
    major, minor = capability
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdecimal():  # ROCm, or a format that is not known yet
            continue
        built_major, built_minor = divmod(int(digits), 10)
        if number.endswith("a"):
            fits = (built_major, built_minor) == capability
        elif kind == "compute" and not number.endswith("f"):
            fits = (built_major, built_minor) <= capability
        else:
            fits = built_major == major and built_minor <= minor
        if fits:
            return True
    return False


def kernels_cure(capability: tuple[int, int]) -> str:
    """The hint for a torch without kernels for a GPU of this compute capability."""
    if capability < (7, 5):
        return (
            "Install torch 2.14 built for CUDA 12.6, the last version with kernels for this GPU, "
            "or set `device: {name: cpu}`."
        )
    return "Install a newer torch, built for the CUDA version of this machine's driver, or set `device: {name: cpu}`."


def free_bytes(device: str) -> int:
    """Free memory of a device in bytes; on a GPU, unused memory in torch's caching allocator counts as free."""
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory()


def threads() -> int:
    """CPU threads for torch: `OMP_NUM_THREADS` if it is a number above 0, else `processors`."""
    configured = os.environ.get("OMP_NUM_THREADS", "")
    return int(configured) if configured.isdecimal() and int(configured) else processors()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a CPU or a GPU."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch.OutOfMemoryError is a RuntimeError, and its message has the first of these.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def too_small(message: str) -> Iterator[None]:
    """A context that converts errors for which `is_out_of_memory` holds.

    Raises:
        OutOfMemory: with this message.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(message) from None


def release(device: str) -> None:
    """Return unused memory to the GPU and to the operating system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        torch.cuda.empty_cache()
    elif device == "mps" and torch is not None:
        torch.mps.empty_cache()
    trim()


def trim() -> None:
    """Return unused heap memory to the operating system, with glibc: half a gigabyte after a sentence of XTTS-v2."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # other C libraries have none
        malloc_trim(0)


def quiet() -> None:
    """Set environment variables: no telemetry, downloads or progress bars; bounded caches of kernels.

    Call it before torch and the model libraries are imported, which read them.
    """
    os.environ.update(_OFFLINE_AND_QUIET)
    for name, capacity in _KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)  # an operator may want others


# --- device and precision --------------------------------------------------------------------------------------------


def _device(name: str) -> str:
    if name == "cpu":
        return name
    import torch

    if name == "mps":
        if not torch.backends.mps.is_available():
            raise EngineMissing("this torch can't use an Apple GPU here", "Set `device: {name: auto}`.")
        return name
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        # A GPU without kernels is skipped here; asked for by name it is an error.
        return next((f"cuda:{number}" for number in range(count) if usable(number)), "cpu")
    number = int(name.partition(":")[2] or 0)
    if number >= count:
        cure = "`voicespool doctor` shows the GPUs that torch sees; `device: {name: auto}` uses what is available."
        if torch.version.cuda is None and torch.version.hip is None:
            cure = "This torch is built for the CPU only: install one built for CUDA, or set `device: {name: auto}`."
        raise EngineMissing(f"there is no GPU {name}: torch {torch.__version__} sees {count or 'none'}", cure)
    if not usable(number):
        gpu = torch.cuda.get_device_name(number)
        capability = torch.cuda.get_device_capability(number)
        raise EngineMissing(
            f"torch {torch.__version__} has no kernels for GPU {number}, {gpu!r} (sm_{capability[0]}{capability[1]})",
            kernels_cure(capability),
        )
    return f"cuda:{number}"


def _check_half(device: str, precision: str, half_ok: bool) -> None:
    cure = "Set `device: {precision: auto}`."
    if not half_ok:
        raise RequestRefused(f"this engine supports only float32, not {precision}", cure)
    if device == "cpu" and precision == "float16":
        raise RequestRefused("float16 is 2 to 100 times slower than float32 on a CPU", cure)
    if device.startswith("cuda") and precision == "bfloat16" and not fast_bfloat16(device):
        raise RequestRefused(f"the GPU {device} has no bfloat16", cure)


def _cpu_flags() -> frozenset[str]:
    """Vendor and flags of the first CPU in /proc/cpuinfo; empty if there is no such file."""
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (next((line for line in lines if line.startswith(key)), "") for key in ("vendor_id", "flags"))
    return frozenset(word for line in found for word in line.split())


# --- torchaudio ------------------------------------------------------------------------------------------------------


def prepare_torchaudio() -> bool:
    """Import torchaudio, without its compiled extension if that was built for another torch.

    A torchaudio for one CUDA version does not load with a torch for another, or for the CPU. Speech models only use
    parts of it that are plain torch (resampling, mel spectrograms). So if the import fails in the extension, and only
    then, `torchaudio._extension` is replaced by a module without it.

    Returns:
        Whether the extension was replaced.

    Raises:
        EngineMissing: torchaudio is not installed, or its import fails elsewhere.
    """
    if "torchaudio" in sys.modules:
        # The replacement has no file.
        return getattr(sys.modules.get("torchaudio._extension"), "__file__", None) is None
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        raise EngineMissing(f"torchaudio can't be imported: {error}") from error
    except (OSError, RuntimeError, ImportError) as error:
        if not _is_from_extension(error):
            raise EngineMissing(f"torchaudio can't be imported: {error}", "Install torchaudio again.") from error
        _import_without_extension()
        return True
    return False


def _is_from_extension(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parts[-3:-1] == ("torchaudio", "_extension") for frame in frames)


def _import_without_extension() -> None:
    # The failed import leaves submodules behind, some of them half initialised.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _extension_replacement()
    importlib.import_module("torchaudio")


def _extension_replacement() -> ModuleType:
    def unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    module = ModuleType("torchaudio._extension", "Replaces torchaudio's compiled extension, which does not load here.")
    # The names that torchaudio's own modules import from it.
    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=unchanged,
        _check_cuda_version=lambda: None,
        _load_lib=lambda _name: False,
    )
    return module
