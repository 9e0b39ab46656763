"""Tones whose pitch depends on the text, so that tests can distinguish the audio of texts."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Audio

RATE_HZ = 16000
LANGUAGES = ("de", "en", "fr", "no", "pt", "pt-BR")


def pitch_hz(key: str) -> int:
    """200 … 1199, depending only on the key."""
    return 200 + int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % 1000


def tone(key: str, duration_s: float) -> Audio:
    """A sine of amplitude 0.5, with the pitch of `key`."""
    import numpy as np

    from engines.base import Audio

    time_s = np.arange(max(1, round(duration_s * RATE_HZ))) / RATE_HZ
    return Audio((0.5 * np.sin(2 * np.pi * pitch_hz(key) * time_s)).astype(np.float32), RATE_HZ)


def nearest_language(tag: str) -> str | None:
    """The tag itself or its primary subtag if it is in `LANGUAGES`, else None."""
    return next((known for known in (tag, tag.partition("-")[0]) if known in LANGUAGES), None)
