"""JSON from strangers, read in bounded time and memory: values cost a hundred bytes each, so they are counted first.

Values are separated by commas and held by brackets. Counting those in the bytes takes no memory, and gives at least as
many as there are values; those inside of texts count too, which real files have few of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST = 4 << 20
"""Bytes; the vocab.json of XTTS-v2 has 361,219."""
MAX_VALUES = 300_000
"""Commas and opening brackets; that vocab.json has 20,000."""


class TooMuch(ValueError):
    """It is larger than anything that is read here; says how, a clause."""


_Hook = Callable[[list[tuple[str, Any]]], Any]


def read(path: Path, largest: int = LARGEST) -> Any:
    """What a file says.

    Raises:
        OSError: It can't be read.
        TooMuch: It is too large, or has too many values.
        ValueError: It is no JSON, or nested too deep.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise TooMuch(f"it is larger than {largest:,} bytes")
    return parse(data)


def parse(data: bytes, most_values: int = MAX_VALUES, hook: _Hook | None = None) -> Any:
    """As `read`, from bytes whose number is bounded; in UTF-8, since in others a character may hide a comma.

    Args:
        hook: Makes objects out of pairs, as `object_pairs_hook` of `json`.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > most_values:
        raise TooMuch(f"it has more than {most_values:,} values")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
