"""A program that examines torch and the GPUs and prints JSON, for `voicespool doctor`.

    python -m engines.device.torch_report DEVICE PRECISION PROFILE

In a process of its own, because torch is large, and a broken installation can crash or hang the process that imports
it.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from engines.base import Device
from engines.device import runtime
from engines.errors import EngineError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: From its driver.
        capability: Compute capability, (major, minor).
        has_kernels: Whether this torch was built for it.
        total, free: Memory in bytes.
        trouble: The error of a small matrix product; "" if it was right.
    """

    name: str
    capability: tuple[int, int]
    has_kernels: bool
    total: int
    free: int
    trouble: str


@dataclass(frozen=True, slots=True)
class TorchReport:
    """The result of `look`.

    Attributes:
        version: Of torch.
        built_for: `CUDA 13.0`, `ROCm 7.1` or `the CPU only`.
        complaint: torch's reason for seeing no GPU; "" if it sees one.
        gpus: The GPUs, by number.
        torchaudio: `whole`, `without its compiled part`, or the error of its import.
        device, precision: What engines would run on with this configuration; "" if `refused`.
        refused, cure: Error and hint if no device can be chosen; else "".
        free: Memory on that device, in bytes.
    """

    version: str
    built_for: str
    complaint: str
    gpus: tuple[Gpu, ...]
    torchaudio: str
    device: str = ""
    precision: str = ""
    refused: str = ""
    cure: str = ""
    free: int = 0

    @classmethod
    def from_json(cls, text: str) -> TorchReport:
        """Parse the program's output.

        Raises:
            ValueError, TypeError, KeyError: it is not a report.
        """
        value = json.loads(text)
        gpus = tuple(Gpu(**gpu | {"capability": tuple(gpu["capability"])}) for gpu in value["gpus"])
        return cls(**value | {"gpus": gpus})


def look(device: Device) -> TorchReport:
    """Examine torch, and run a matrix product on each GPU.

    It takes seconds, and several hundred MB of memory on each GPU until the process ends.

    Args:
        device: As configured.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchReport(
        version=torch.__version__,
        built_for=_built_for(),
        complaint="" if count else _complaint(),
        gpus=tuple(_gpu(number) for number in range(count)),
        torchaudio=_torchaudio(),
        **_chosen(device),
    )


def _built_for() -> str:
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU only"


def _complaint() -> str:
    import torch

    # `is_available` gives no reason; initialising CUDA does.
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return "torch sees no GPU"


def _gpu(number: int) -> Gpu:
    import torch

    # A GPU that fails below is still reported, with its name and total memory.
    trouble, total, free = "", torch.cuda.get_device_properties(number).total_memory, 0
    try:
        free, total = torch.cuda.mem_get_info(number)
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        if (ones @ ones).sum().item() != 64**3:
            trouble = "a matrix product was wrong"
    except RuntimeError as error:
        trouble = str(error)
    return Gpu(
        name=torch.cuda.get_device_name(number),
        capability=torch.cuda.get_device_capability(number),
        has_kernels=runtime.usable(number),
        total=total,
        free=free,
        trouble=trouble,
    )


def _torchaudio() -> str:
    try:
        return "without its compiled part" if runtime.prepare_torchaudio() else "whole"
    except Exception as error:  # noqa: BLE001 - the rest is reported even if torchaudio is broken
        return f"{type(error).__name__}: {error}"


def _chosen(device: Device) -> dict[str, Any]:
    try:
        chosen = runtime.choose(device)
        return {"device": chosen.device, "precision": chosen.precision, "free": runtime.free_bytes(chosen.device)}
    except EngineError as error:
        return {"refused": error.message, "cure": error.hint}
    except RuntimeError as error:
        return {"refused": str(error), "cure": "Restart the machine, or set `device: {name: cpu}`."}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    runtime.quiet()
    found = look(Device(name=sys.argv[1], precision=sys.argv[2], profile=sys.argv[3]))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
