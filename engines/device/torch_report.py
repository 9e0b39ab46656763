"""What torch reports of itself and of the GPUs, as JSON: `python -m engines.device.torch_report NAME PRECISION`.

A program of its own, because torch is large, and a broken one can crash or hang whoever imports it.
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
class Card:
    """One GPU.

    Attributes:
        name: As its driver says it.
        capability: Compute capability, (major, minor).
        has_kernels: Whether this torch was built for it.
        total, free: Memory in bytes.
        trouble: What happened when a small product of matrices was tried; "" when it came out right.
    """

    name: str
    capability: tuple[int, int]
    has_kernels: bool
    total: int
    free: int
    trouble: str


@dataclass(frozen=True, slots=True)
class TorchReport:
    """All that `look` finds.

    Attributes:
        version: torch's.
        built_for: `CUDA 13.0`, `ROCm 7.1` or `the CPU alone`.
        complaint: Why it can use no card, in torch's words; "" when there is one.
        cards: By number.
        torchaudio: `whole`, `without its compiled part`, or why it can't be imported.
        device, precision: What engines would run on, as configured; "" when `refused`.
        refused, cure: Why not, and what to do; "" when they can.
        free: Memory on that device, in bytes.
    """

    version: str
    built_for: str
    complaint: str
    cards: tuple[Card, ...]
    torchaudio: str
    device: str = ""
    precision: str = ""
    refused: str = ""
    cure: str = ""
    free: int = 0

    @classmethod
    def from_json(cls, text: str) -> TorchReport:
        """Read what the program printed.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """
        value = json.loads(text)
        cards = tuple(Card(**card | {"capability": tuple(card["capability"])}) for card in value["cards"])
        return cls(**value | {"cards": cards})


def look(device: Device) -> TorchReport:
    """Ask torch, and try each card. Seconds; several hundred MB of memory on each card while it lasts."""
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchReport(
        version=torch.__version__,
        built_for=_built_for(),
        complaint="" if cards else _complaint(),
        cards=tuple(_card(number) for number in range(cards)),
        torchaudio=_torchaudio(),
        **_chosen(device),
    )


def _built_for() -> str:
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU alone"


def _complaint() -> str:
    import torch

    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return "torch sees no card"


def _card(number: int) -> Card:
    import torch

    trouble, total, free = "", torch.cuda.get_device_properties(number).total_memory, 0
    try:
        free, total = torch.cuda.mem_get_info(number)
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        if (ones @ ones).sum().item() != 64**3:
            trouble = "a product of matrices came out wrong"
    except RuntimeError as error:
        trouble = str(error)
    return Card(
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
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the rest is still told
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
