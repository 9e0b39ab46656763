"""Recordings of voices: checked before any time of a GPU is spent on them, and read for the engine.

Nothing here fails for what a file contains: what is wrong becomes a sentence. Whatever a file claims to be, its
beginning alone is decoded, so that time and memory are bounded.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import RequestRefused
from engines.voices import faults as limits
from engines.voices.faults import FAULTS, kind_of
from engines.voices.measures import Sound, db, measured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD_BYTES = 512  # enough to tell kinds of files apart
MAX_SAMPLES = 6_000_000  # looked at, all channels together: a minute of the usual kinds, and 24 MB
MAX_READ = 24_000_000  # for an engine: a minute of any number of channels and any rate that people have
STREAMED_BYTES = 0x7FF00000  # programs that write WAV to a pipe promise 2 or 4 GB, not knowing the length
WHOLE = 1.01  # a promise that is kept but for odd bytes at the end
_PROMISE = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recording:
    """What a recording is like. What is measured is measured in its beginning, the channels mixed to one.

    Attributes:
        path: As given.
        duration_s: 0 when it can't be read.
        rate_hz: Samples per second; 0 when it can't be read.
        channels: 0 when it can't be read.
        peak_dbfs: Highest sample of any channel, 0 is full scale; None when there is none.
        level_dbfs: Level of the speech without its pauses; None when there is none.
        clipped: Share of samples in flat tops at full scale, 0 … 1.
        silence: Share of pauses, 0 … 1.
        errors: Sentences: why no engine can use it.
        warnings: Sentences: what will make the voice worse; none where there are errors.
    """

    path: Path
    duration_s: float = 0.0
    rate_hz: int = 0
    channels: int = 0
    peak_dbfs: float | None = None
    level_dbfs: float | None = None
    clipped: float = 0.0
    silence: float = 0.0
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Found(Exception):
    """A fault: its name in `FAULTS`, and the values of its sentence. Raised where it ends the look at a recording."""

    def __init__(self, fault: str, **values: object) -> None:
        super().__init__(fault)
        self.fault, self.values = FAULTS[fault], values

    def sentence(self, shown: str) -> str:
        return f"{shown} {self.fault.says.format(**self.values)}; {self.fault.cure}"


def examine(path: Path, shown: str) -> Recording:
    """Look at a recording: can it be used, and what will make the voice worse?

    Args:
        path: Of the file itself, not of a link to it.
        shown: Its name as the subject of sentences, safe to print.

    Returns:
        What it is like; a file that can't be used has errors.
    """
    try:
        with _opened(path) as file:
            return _examined(file, path, shown)
    except _Found as found:
        return Recording(path, errors=(found.sentence(shown),))


def read(path: Path, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Read the beginning of a recording as it is: neither mixed nor resampled.

    Args:
        path: Of the file itself, not of a link to it.
        max_s: Seconds wanted; no more is decoded, and no more than `MAX_READ` samples.

    Returns:
        Samples of shape [channels, n], full scale at 1, as far as they can be decoded; and their rate in Hz.

    Raises:
        RequestRefused: nothing can be read, or `examine` finds its rate or its number of channels unusable.
    """
    try:
        with _opened(path) as file:
            for found in _in_header(file):
                raise found
            samples = _decoded(file, min(math.ceil(max_s * file.samplerate), MAX_READ // file.channels))
            if not samples.size:
                raise _Found("empty")
            return samples, int(file.samplerate)
    except _Found as found:
        raise RequestRefused(found.sentence("the recording")) from found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open as a sound file, by descriptor: no FIFO is waited for, and what a name ends in does not count.

    Raises:
        _Found: it can't be opened, or is no sound file.
    """
    import soundfile

    try:
        fd, head = _descriptor(path)
    except OSError as error:
        raise _Found("unreadable", reason=error.strerror) from None
    try:
        with soundfile.SoundFile(fd, closefd=False) as file:
            yield file
    except soundfile.SoundFileError:
        fault, what = kind_of(head)
        raise _Found(fault, what=what) from None
    finally:
        os.close(fd)


def _descriptor(path: Path) -> tuple[int, bytes]:
    """A regular file's, and its first bytes."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    try:
        return fd, os.pread(fd, HEAD_BYTES, 0)
    except OSError:
        os.close(fd)
        raise


def _in_header(file: Any) -> Iterator[_Found]:
    """What rules a recording out before anything of it is decoded."""
    rate_hz = int(file.samplerate)
    if rate_hz < limits.SLOWEST_HZ:
        yield _Found("slow", rate_hz=rate_hz)
    elif rate_hz > limits.FASTEST_HZ or rate_hz % limits.RATE_STEP_HZ:
        yield _Found("odd_rate", rate_hz=rate_hz)
    if file.channels > limits.MAX_CHANNELS:
        yield _Found("crowd", channels=file.channels)


def _decoded(file: Any, frames: int) -> NDArray[np.float32]:
    """The first so many frames, shape [channels, n]; fewer where the file ends or is damaged."""
    import numpy as np
    import soundfile

    blocks = [np.zeros((0, file.channels), np.float32)]
    with contextlib.suppress(soundfile.SoundFileError):  # damaged: what came before it is usable
        while frames > 0 and len(block := file.read(min(frames, file.samplerate), dtype="float32", always_2d=True)):
            blocks.append(block)
            frames -= len(block)
    return np.ascontiguousarray(np.concatenate(blocks).T)


def _examined(file: Any, path: Path, shown: str) -> Recording:
    frames, rate_hz, sound = int(file.frames), int(file.samplerate), Sound()
    found = list(_in_header(file))
    if not found:
        wanted = min(frames, round(limits.EXAMINED_S * rate_hz), MAX_SAMPLES // file.channels)
        samples = _decoded(file, wanted)
        promised = _promised(file)
        if samples.shape[1] < wanted:
            frames = samples.shape[1]
        found += _in_length(frames / rate_hz, promised / rate_hz)
        if frames:
            sound = measured(samples, rate_hz)
        if not any(one.fault.is_error for one in found):
            found += _in_sound(sound, rate_hz)
    errors = tuple(one.sentence(shown) for one in found if one.fault.is_error)
    return Recording(
        path,
        frames / rate_hz,
        rate_hz,
        int(file.channels),
        _dbfs(sound.peak**2),
        _dbfs(sound.power),
        sound.clipped,
        sound.silence,
        errors,
        () if errors else tuple(one.sentence(shown) for one in found),
    )


def _promised(file: Any) -> int:
    """Frames that the header promises. libsndfile counts what is there, and keeps the promise in its notes.

    An MP3 promises nothing: without an index its length is an estimate.
    """
    promise = _PROMISE.search(file.extra_info)
    if promise is None or int(promise[1]) > STREAMED_BYTES:
        return 0 if file.format == "MP3" else int(file.frames)
    return int(file.frames) * int(promise[1]) // max(1, int(promise[2]))


def _in_length(length_s: float, promised_s: float) -> Iterator[_Found]:
    if not length_s:
        yield _Found("empty")
        return
    if promised_s > length_s * WHOLE:
        yield _Found("cut_off", length_s=length_s, promised_s=promised_s)
    if length_s < limits.SHORTEST_S:
        yield _Found("too_short", length_s=length_s)
    elif length_s < limits.SHORT_S:
        yield _Found("short", length_s=length_s)
    elif length_s > limits.MAX_S:
        yield _Found("endless", hours=length_s / 3600)
    elif length_s > limits.EXAMINED_S:
        yield _Found("long", length_s=length_s)


def _in_sound(sound: Sound, rate_hz: int) -> Iterator[_Found]:
    if rate_hz < limits.TELEPHONE_HZ:
        yield _Found("telephone", rate_hz=rate_hz)
    if not sound.is_finite:
        yield _Found("not_numbers")
    elif sound.peak > limits.LOUDEST:
        yield _Found("too_loud", times=sound.peak)
    elif sound.lost_db > limits.INVERTED_DB:
        yield _Found("inverted")
    elif db(sound.loud) < limits.SILENT_DBFS:
        yield _Found("silent")
    else:
        yield from _in_speech(sound)


def _in_speech(sound: Sound) -> Iterator[_Found]:
    if sound.lost_db > limits.LOSS_DB:
        yield _Found("mixed", channels=sound.channels)
    if sound.clipped > limits.CLIPPED:
        yield _Found("clipped", share=sound.clipped)
    if db(sound.power) < limits.QUIET_DBFS:
        yield _Found("quiet", level_dbfs=db(sound.power))
    if sound.offset > limits.OFFSET:
        yield _Found("offset", offset=sound.offset)
    if sound.silence > limits.SILENCE:
        yield _Found("pauses", share=sound.silence)
    if sound.lead_in_s > limits.LEAD_IN_S:
        yield _Found("lead_in", lead_in_s=sound.lead_in_s)
    over_noise_db = db(sound.power) - db(sound.background)
    if over_noise_db < limits.NOISE_DB:
        yield _Found("noisy", over_noise_db=over_noise_db)


def _dbfs(power: float) -> float | None:
    """For people and programs; None for nothing at all."""
    return round(db(power), 2) + 0.0 if power > 0 else None  # + 0.0: of a rounded -0.001, 0 and not -0
