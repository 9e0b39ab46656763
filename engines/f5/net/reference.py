"""Fit a reference recording and its transcript to the length that F5-TTS takes, cutting both at the same place.

F5-TTS continues the recording, so the transcript must be exactly what is spoken in it. A recording that is too long is
cut in a pause, and its transcript at the punctuation mark spoken there. The mark is found by duration: within one
recording, the time that a text takes is proportional to its length. Where several marks or several pauses would fit,
nothing is guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.errors import RequestRefused
from engines.voices.measures import FRAMES_PER_S, speaking_frames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_S = 12.0
"""Longest recording; f5-tts cuts there too, but leaves the transcript as it is."""
MIN_S = 3.0
"""Shortest recording that is left by a cut."""
MIN_PAUSE_S = 0.14
"""Shorter silences are closures of p, t and k."""
KEPT_PAUSE_S = 0.1
"""Kept of the silence at both ends, so that the first and the last sound are complete."""
MAX_OFF_S = 0.8
"""A mark may have been spoken this far from the time at which its share of the text predicts it."""
MIN_MARGIN = 3.0
"""The next best mark must be this many times as far from the pause, and the next best pause from the mark."""

_MARK = re.compile(r"[.,;:!?…।。，、；：！？؟،]+[\"'»”’)\]]*(?=\s|$)|[。，、；：！？]|\s[–—-]+(?=\s)")
_FIRST_CJK = 0x2E80  # code point; the scripts of East Asia follow it


@dataclass(frozen=True, slots=True)
class FittedReference:
    """A recording and its transcript.

    Attributes:
        samples: float32 (n,), mono.
        text: What is spoken in them.
        cut_from_s: Length before the cut, in seconds; None if nothing but silence was removed.
    """

    samples: NDArray[np.float32]
    text: str
    cut_from_s: float | None = None


def fit(samples: NDArray[np.float32], rate_hz: int, text: str) -> FittedReference:
    """Trim leading and trailing silence to 0.1 s; cut a recording that is still longer than 12 s, and its transcript.

    Args:
        samples: float32 (n,), mono.
        rate_hz: Their sample rate.
        text: The whole transcript.

    Raises:
        RequestRefused: The recording is too long, and the place for a cut in its transcript is not certain.
    """
    samples = _trimmed(samples, rate_hz)
    length_s = samples.size / rate_hz
    if length_s <= MAX_S:
        return FittedReference(samples, text)
    pauses, speech_s = _pauses(samples, rate_hz)
    marks = _marks(text)
    # The last pause that is possible comes first, to keep as much of the recording as possible.
    for pause in reversed([pause for pause in pauses if MIN_S <= pause.start_s + KEPT_PAUSE_S <= MAX_S]):
        mark = _mark_spoken_at(pause, marks, pauses, speech_s)
        if mark is not None:
            end = round((pause.start_s + min(KEPT_PAUSE_S, pause.length_s)) * rate_hz)
            return FittedReference(samples[:end], text[: mark.end].strip(), length_s)
    raise RequestRefused(
        f"the recording is {length_s:.1f} s long, f5 uses at most {MAX_S:g} s, and where to cut its transcript is not "
        "certain",
        f"Cut the recording to less than {MAX_S:g} s, and its transcript to what is spoken in the rest.",
    )


def _trimmed(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Without silence at the ends, which would count as time of the text and slow the speech down."""
    speaking = speaking_frames(samples.astype("float64"), rate_hz).nonzero()[0]
    if not speaking.size:  # digital silence, which is refused later
        return samples
    frame, kept = rate_hz // FRAMES_PER_S, round(KEPT_PAUSE_S * rate_hz)
    return samples[max(0, int(speaking[0]) * frame - kept) : (int(speaking[-1]) + 1) * frame + kept]


@dataclass(frozen=True, slots=True)
class _Pause:
    """Start and length in seconds; `speech_before_s` counts the speech up to it, without other pauses."""

    start_s: float
    length_s: float
    speech_before_s: float


@dataclass(frozen=True, slots=True)
class _Mark:
    """`end`: index behind the mark in the text; `share`: of the text's spoken length before it, 0 … 1."""

    end: int
    share: float


def _mark_spoken_at(pause: _Pause, marks: Sequence[_Mark], pauses: Sequence[_Pause], speech_s: float) -> _Mark | None:
    """The only mark that can have been spoken in a pause; None if there is none, or another one is nearly as likely."""
    if not marks:
        return None

    def off_s(mark: _Mark, pause: _Pause) -> float:
        return abs(mark.share * speech_s - pause.speech_before_s)

    nearest, *others = sorted(marks, key=lambda mark: off_s(mark, pause))
    own_s = off_s(nearest, pause)
    margin_s = max(MIN_MARGIN * own_s, MAX_OFF_S)
    rivals_s = [off_s(mark, pause) for mark in others]
    rivals_s += [off_s(nearest, other) for other in pauses if other is not pause]
    return nearest if own_s <= MAX_OFF_S and all(rival_s > margin_s for rival_s in rivals_s) else None


def _pauses(samples: NDArray[np.float32], rate_hz: int) -> tuple[list[_Pause], float]:
    """Pauses inside a recording, and the length of its speech in seconds."""
    import numpy as np

    speaking = speaking_frames(samples.astype(np.float64), rate_hz)  # (frames,)
    edges = np.flatnonzero(np.diff(speaking.astype(np.int8), prepend=0, append=0))  # start, end, start, end … of speech
    gaps = list(zip(edges[1:-1:2].tolist(), edges[2::2].tolist(), strict=False))  # from the end of speech to the next
    speech_frames = np.cumsum(speaking)  # (frames,)
    found = [
        _Pause(start / FRAMES_PER_S, (end - start) / FRAMES_PER_S, float(speech_frames[start - 1]) / FRAMES_PER_S)
        for start, end in gaps
        if end - start >= MIN_PAUSE_S * FRAMES_PER_S
    ]
    return found, float(speaking.sum()) / FRAMES_PER_S


def _marks(text: str) -> list[_Mark]:
    """Punctuation marks inside a text; not the one at its end."""
    lengths = list(spoken_lengths(text))
    total = sum(lengths) or 1.0
    ends = [found.end() for found in _MARK.finditer(text)]
    return [_Mark(end, sum(lengths[:end]) / total) for end in ends if text[end:].strip()]


def spoken_lengths(text: str) -> Iterator[float]:
    """Spoken length of each character, relative to a letter: 4 for a digit, 3 for an East Asian character, 0 for
    punctuation.

    f5-tts counts UTF-8 bytes, which gives numbers far too little time, and accented letters and Greek twice theirs.
    """
    for character in text:
        if character.isdigit():
            yield 4.0
        elif unicodedata.category(character) == "Lo" and ord(character) >= _FIRST_CJK:
            yield 3.0
        else:
            yield 1.0 if character.isalpha() else 0.0
