"""What a measurement was taken on, and how its numbers are told."""

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
    """Processor, memory, system, date."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    said = {name.strip(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", "").split()
    return {
        "processor": said.get("model name", platform.processor()),
        "family_and_model": [said.get("cpu family"), said.get("model")],  # which generation it is
        "16_bit_instructions": [name for name in ("avx512_bf16", "amx_bf16") if name in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def of_rounds(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most of a few rounds, and each of them, with three digits that count."""
    told = [float(f"{value:.3g}") for value in values]
    return {
        "median": float(f"{statistics.median(values):.3g}"),
        "min": min(told),
        "max": max(told),
        "rounds": told,
    }
