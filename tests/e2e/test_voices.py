"""`voicespool voices list`, as its users meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from engines.espeak.engine import Espeak
from tests.sounds import RATE_HZ, save, speech
from tests.spooling import Spool

NASTY = "\x1b[2Jowned\x07\nfake line\u202e.wav"


@pytest.fixture
def folder(spool: Spool) -> Path:
    """The spool's folder of recordings."""
    path = spool.folder / "voices"
    path.mkdir()
    return path


def test_recordings_are_listed_with_their_faults(spool: Spool, folder: Path) -> None:
    """Length, rate, channels, whether its words lie beside it; a sentence for each fault, which says what to do."""
    save(folder / "ana.wav", speech(8.0))
    (folder / "ana.txt").write_text("What Ana says.")
    save(folder / "team" / "rui.flac", np.stack([speech(2.0, 44100)] * 2, axis=1), 44100)
    (folder / "note.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(600))
    done = spool.command("voices", "list")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["recordings", "in", "voices", "(speaker_wav)"]
    assert rows[2] == ["ana.wav", "8.0", "24000", "1", "yes"]
    assert rows[3] == ["note.m4a", "-", "-", "-", "no"]
    assert rows[4][:6] == ["error:", "it", "is", "an", "MP4", "file"]
    assert "`ffmpeg" in rows[4]
    assert rows[5] == ["team/rui.flac", "2.0", "44100", "2", "no"]
    assert rows[6][:4] == ["warning:", "it", "is", "only"]
    assert ["Annie", "espeak", "any", "of", str(len(Espeak.info().languages)), "female"] in rows


def test_json_has_the_same_for_programs(spool: Spool, folder: Path) -> None:
    """With the measures; what is nothing is null. A decoder that talks about a damaged MP3 is not heard."""
    save(folder / "ana.wav", speech(8.0))
    save(folder / "none.wav", np.zeros(4 * RATE_HZ))
    data = bytearray(save(folder / "zoe.mp3", speech(8.0)).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(range(200))
    (folder / "zoe.mp3").write_bytes(data)
    done = spool.command("voices", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    ana, silent, _zoe = said["recordings"]
    assert ana | {"level_dbfs": 0, "peak_dbfs": 0, "silence": 0} == {
        "file": "ana.wav", "transcript": False, "duration_s": 8.0, "rate_hz": 24000, "channels": 1, "level_dbfs": 0,
        "peak_dbfs": 0, "silence": 0, "clipped": 0.0, "errors": [], "warnings": [],
    }  # fmt: skip
    assert silent["peak_dbfs"] is None
    assert silent["errors"]
    assert "Annie" in next(one["speakers"] for one in said["built_in"] if one["engine"] == "espeak")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_can_not_steer_the_terminal(spool: Spool, folder: Path, options: tuple[str, ...]) -> None:
    """Escape sequences, line breaks and bidirectional overrides; names that are not UTF-8."""
    for name in (os.fsencode(NASTY), b"caf\xe9.wav"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"\x1b[2J text")
    done = spool.command("voices", "list", *options)
    assert done.returncode == 0
    assert all(char.isprintable() or char == "\n" for char in done.stdout + done.stderr)
    assert not any(line.startswith("fake") for line in done.stdout.splitlines())
    assert "owned" in done.stdout
