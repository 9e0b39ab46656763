"""The machine of a measurement, and a summary of its rounds."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Processor, memory, system and date."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    cpu = {name.strip(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    flags = cpu.get("flags", "").split()
    return {
        "processor": cpu.get("model name", platform.processor()),
        "family_and_model": [cpu.get("cpu family"), cpu.get("model")],  # its generation
        "16_bit_instructions": [name for name in ("avx512_bf16", "amx_bf16") if name in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def of_rounds(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum and maximum of some rounds, and each of them, with three significant digits."""
    rounds = [float(f"{value:.3g}") for value in values]
    return {
        "median": float(f"{statistics.median(values):.3g}"),
        "min": min(rounds),
        "max": max(rounds),
        "rounds": rounds,
    }
