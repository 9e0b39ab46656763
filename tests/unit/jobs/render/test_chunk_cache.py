"""Chunks come back as they were kept, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.base import Audio
from jobs.render.chunk_cache import ChunkCache, key_of

KEY = key_of({"text": "a"})


@pytest.fixture
def kept(tmp_path: Path) -> ChunkCache:
    return ChunkCache(tmp_path)


@pytest.mark.parametrize(
    "samples",
    [
        np.array([-32768, 0, 1, 32767], np.float32) / 32768,
        np.array([0.1, -1.5, 1e-8, 3.0], np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["16 bits", "float", "empty"],
)
def test_what_was_kept_comes_back_bit_for_bit(kept: ChunkCache, samples: np.ndarray) -> None:
    """Whether 16 bits hold it or not; with what the engine said of it."""
    kept.keep(KEY, Audio(samples, 22050, ("ç is not spoken",), "Bom dia."))
    back = kept.read(KEY)
    assert back is not None
    assert back.samples.tobytes() == samples.tobytes()
    assert back.samples.dtype == np.float32
    assert back.rate_hz == 22050
    assert (back.warnings, back.transcript) == (("ç is not spoken",), "Bom dia.")


def test_sixteen_bits_take_half_the_space(kept: ChunkCache) -> None:
    """An engine that computes in 16 bits is kept in 16 bits."""
    kept.keep(KEY, Audio(np.zeros(10_000, np.float32), 22050))
    assert next(kept.folder.iterdir()).stat().st_size < 21_000


def test_what_was_never_kept_is_not_there(kept: ChunkCache) -> None:
    """A missing chunk is an answer, not an error."""
    assert kept.read(KEY) is None


def test_every_kind_of_damage_is_noticed_and_cleared_away(kept: ChunkCache) -> None:
    """Cut off, emptied, one bit changed anywhere, something appended: the chunk counts as not there."""
    kept.keep(KEY, Audio(np.linspace(-1, 1, 50, dtype=np.float32), 22050))
    file = next(kept.folder.iterdir())
    whole = file.read_bytes()
    damaged = [b"", whole[:-1], whole[:40], whole + b"x", bytes(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in damaged:
        file.write_bytes(data)
        assert kept.read(KEY) is None
        assert not file.exists()


def test_what_a_killed_worker_left_is_swept(kept: ChunkCache) -> None:
    """Half-written chunks go, finished ones stay."""
    kept.keep(KEY, Audio(np.zeros(3, np.float32), 22050))
    (kept.folder / "0123.part").write_bytes(b"half")
    kept.sweep()
    assert [file.suffix for file in kept.folder.iterdir()] == [".chunk"]


def test_a_key_depends_on_the_facts_and_not_on_their_order() -> None:
    """Another text, another key; another order, the same; lone surrogates are no obstacle."""
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert key_of({"a": "\ud800"}).isalnum()
