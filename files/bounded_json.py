"""A JSON reader for untrusted files that bounds time and memory.

A parsed value takes about 100 bytes, so values are counted before parsing: commas and opening brackets in the raw bytes
are an upper bound. Those inside strings count too; real files have few.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_BYTES = 4 << 20
"""The vocab.json of XTTS-v2 has 361,219."""
MAX_VALUES = 300_000
"""Commas and opening brackets; that vocab.json has 20,000."""


class TooLarge(ValueError):
    """The JSON has too many bytes or values; the message is a clause."""


_Hook = Callable[[list[tuple[str, Any]]], Any]


def read(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Parse a file.

    Raises:
        OSError: The file can't be read.
        TooLarge: The file is too large, or has too many values.
        ValueError: The file is not JSON, or nested too deep.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooLarge(f"it is larger than {max_bytes:,} bytes")
    return parse(data)


def parse(data: bytes, max_values: int = MAX_VALUES, hook: _Hook | None = None) -> Any:
    """Parse UTF-8 bytes; raises as `read`. Other encodings are refused: their bytes can't be counted.

    Args:
        hook: The `object_pairs_hook` of `json.loads`.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > max_values:
        raise TooLarge(f"it has more than {max_values:,} values")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
