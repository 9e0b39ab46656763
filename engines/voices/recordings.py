"""Reference recordings: checked before a GPU is used, and read for the engine.

No content of a file raises an unexpected error; a fault becomes a message. Only the beginning of a file is decoded,
whatever its header claims, so time and memory are bounded.
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

HEAD_BYTES = 512  # for `kind_of`
MAX_EXAMINED = 6_000_000  # samples of all channels: a minute of stereo at 48 kHz, 24 MB
MAX_READ = 24_000_000  # samples of all channels for an engine: a minute in common formats
STREAMED_BYTES = 0x7FF00000  # programs that write WAV to a pipe don't know its length and put 2 or 4 GB into the header
COMPLETE = 1.01  # a header may claim this much more than there is, for odd bytes at the end
_CLAIMED_BYTES = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recording:
    """A checked recording. Measurements are of its first minute, mixed to mono.

    Attributes:
        path: As given.
        duration_s: 0 if it can't be read.
        rate_hz: Sample rate; 0 if it can't be read.
        channels: 0 if it can't be read.
        peak_dbfs: Highest sample of any channel, 0 is full scale; None for silence.
        level_dbfs: Level of the speech without its pauses; None for silence.
        clipped: Share of samples in flat tops at full scale, 0 … 1.
        silence: Share of pauses, 0 … 1.
        errors: Why no engine can use it, in sentences.
        warnings: What makes the voice worse, in sentences; none if there are errors.
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
    """A fault: its key in `FAULTS`, and the values of its template. Raised if the recording can't be read further."""

    def __init__(self, fault: str, **values: object) -> None:
        super().__init__(fault)
        self.fault, self.values = FAULTS[fault], values

    def sentence(self, shown: str) -> str:
        return f"{shown} {self.fault.problem.format(**self.values)}; {self.fault.cure}"


def examine(path: Path, shown: str) -> Recording:
    """Check a recording: whether it can be used, and what will make the voice worse.

    Args:
        path: A regular file; symbolic links are not followed.
        shown: Its name for messages, safe to print.

    Returns:
        The measurements, with `errors` if it can't be used.
    """
    try:
        with _opened(path) as file:
            return _examined(file, path, shown)
    except _Found as found:
        return Recording(path, errors=(found.sentence(shown),))


def read(path: Path, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Read the beginning of a recording, neither mixed nor resampled.

    Args:
        path: A regular file; symbolic links are not followed.
        max_s: Seconds to decode, at most `MAX_READ` samples.

    Returns:
        Samples, float32 (channels, n), full scale is 1, up to the first damage; and their rate in Hz.

    Raises:
        RequestRefused: Nothing can be decoded, or the sample rate or the number of channels is not supported.
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
    """Open as a sound file by descriptor, so the format is recognised by content and not by the suffix.

    Raises:
        _Found: It can't be opened, or is not a supported sound file.
    """
    import soundfile

    try:
        fd, head = _descriptor(path)  # ours to close, also if libsndfile refuses the file
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
    """Descriptor and first bytes of a regular file. Never blocks, even if a FIFO has just replaced the file."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    try:
        return fd, os.pread(fd, HEAD_BYTES, 0)
    except OSError:
        os.close(fd)
        raise


def _in_header(file: Any) -> Iterator[_Found]:
    """Errors that are found without decoding anything."""
    rate_hz = int(file.samplerate)
    if rate_hz < limits.MIN_RATE_HZ:
        yield _Found("slow", rate_hz=rate_hz)
    elif rate_hz > limits.MAX_RATE_HZ or rate_hz % limits.RATE_STEP_HZ:
        yield _Found("odd_rate", rate_hz=rate_hz)
    if file.channels > limits.MAX_CHANNELS:
        yield _Found("crowd", channels=file.channels)


def _decoded(file: Any, frames: int) -> NDArray[np.float32]:
    """The first frames, float32 (channels, n); fewer if the file ends earlier or is damaged."""
    import numpy as np
    import soundfile

    blocks = [np.zeros((0, file.channels), np.float32)]
    with contextlib.suppress(soundfile.SoundFileError):  # damaged: what is before the damage can be used
        while frames > 0 and len(block := file.read(min(frames, file.samplerate), dtype="float32", always_2d=True)):
            blocks.append(block)
            frames -= len(block)
    return np.ascontiguousarray(np.concatenate(blocks).T)  # (n, channels) -> (channels, n)


def _examined(file: Any, path: Path, shown: str) -> Recording:
    frames, rate_hz, sound = int(file.frames), int(file.samplerate), Sound()
    found = list(_in_header(file))
    if not found:
        wanted = min(frames, round(limits.EXAMINED_S * rate_hz), MAX_EXAMINED // file.channels)
        samples = _decoded(file, wanted)
        claimed = _claimed_frames(file)
        if samples.shape[1] < wanted:  # damaged: the length is what can be decoded
            frames = samples.shape[1]
        found += _in_length(frames / rate_hz, claimed / rate_hz)
        if frames:
            sound = measured(samples, rate_hz)
        if not any(each.fault.is_error for each in found):
            found += _in_sound(sound, rate_hz)
    errors = tuple(each.sentence(shown) for each in found if each.fault.is_error)
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
        () if errors else tuple(each.sentence(shown) for each in found),
    )


def _claimed_frames(file: Any) -> int:
    """Length by the header. libsndfile counts the frames that are there, and writes the header's claim into its log.

    Without a claim it is what is there, but 0 for an MP3, whose length is an estimate if it has no index.
    """
    claim = _CLAIMED_BYTES.search(file.extra_info)
    if claim is None or int(claim[1]) > STREAMED_BYTES:
        return 0 if file.format == "MP3" else int(file.frames)
    return int(file.frames) * int(claim[1]) // max(1, int(claim[2]))


def _in_length(length_s: float, claimed_s: float) -> Iterator[_Found]:
    if not length_s:
        yield _Found("empty")
        return
    if claimed_s > length_s * COMPLETE:
        yield _Found("cut_off", length_s=length_s, claimed_s=claimed_s)
    if length_s < limits.MIN_S:
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
    elif sound.peak > limits.MAX_PEAK:
        yield _Found("too_loud", times=sound.peak)
    elif sound.lost_db > limits.INVERTED_DB:
        yield _Found("inverted")
    elif db(sound.loud) < limits.SILENT_DBFS:
        yield _Found("silent")
    else:
        yield from _in_speech(sound)


def _in_speech(sound: Sound) -> Iterator[_Found]:
    if sound.lost_db > limits.MAX_LOSS_DB:
        yield _Found("mixed", channels=sound.channels)
    if sound.clipped > limits.MAX_CLIPPED:
        yield _Found("clipped", share=sound.clipped)
    if db(sound.power) < limits.QUIET_DBFS:
        yield _Found("quiet", level_dbfs=db(sound.power))
    if sound.offset > limits.MAX_OFFSET:
        yield _Found("offset", offset=sound.offset)
    if sound.silence > limits.MAX_SILENCE:
        yield _Found("pauses", share=sound.silence)
    if sound.lead_in_s > limits.MAX_LEAD_IN_S:
        yield _Found("lead_in", lead_in_s=sound.lead_in_s)
    snr_db = db(sound.power) - db(sound.background)
    if snr_db < limits.MIN_SNR_DB:
        yield _Found("noisy", snr_db=snr_db)


def _dbfs(power: float) -> float | None:
    """Level of a mean square, rounded; None for silence."""
    return round(db(power), 2) + 0.0 if power > 0 else None  # + 0.0 makes 0 of -0
