"""Quick audio whose pitch depends on the text, so that tests can tell one text's audio from another's."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Audio

RATE_HZ = 16000
LANGUAGES = ("de", "en", "fr", "no", "pt", "pt-BR")


def pitch_hz(key: str) -> int:
    """200 … 1199, decided by the key alone."""
    return 200 + int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % 1000


def tone(key: str, duration_s: float) -> Audio:
    """A sine of half amplitude, its pitch decided by `key`."""
    import numpy as np

    from engines.base import Audio

    time_s = np.arange(max(1, round(duration_s * RATE_HZ))) / RATE_HZ
    return Audio((0.5 * np.sin(2 * np.pi * pitch_hz(key) * time_s)).astype(np.float32), RATE_HZ)


def nearest_language(tag: str) -> str | None:
    """The tag itself or its first part when it is spoken here, else None."""
    return next((known for known in (tag, tag.partition("-")[0]) if known in LANGUAGES), None)
