"""A recording and its transcript, cut together to what F5 listens to.

F5 continues a recording: it is told what is said in it, and must not be told more or less. Where a recording is too
long, it is cut in a pause, and its transcript at the punctuation mark that was spoken there. Which mark that was
follows from durations: in one recording, one voice, so much text takes so much time. Where more than one mark or more
than one pause would do, nothing is guessed.
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
"""Of a recording; the library cuts there too, but not the transcript."""
SHORTEST_S = 3.0
PAUSE_S = 0.14
"""Shorter ones are closures of p, t and k."""
KEPT_PAUSE_S = 0.1
"""Of a pause that is cut in, and before and behind all speech, so that sounds begin and die away."""
NEAR_S = 0.8
"""So far from where its share of the text lets expect it, a mark may have been spoken; speed varies within a text."""
CLEAR = 3.0
"""Another mark must be so many times as far from the pause, and another pause from the mark."""

_MARK = re.compile(r"[.,;:!?…।。，、；：！？؟،]+[\"'»”’)\]]*(?=\s|$)|[。，、；：！？]|\s[–—-]+(?=\s)")


@dataclass(frozen=True, slots=True)
class FittedReference:
    """What F5 continues.

    Attributes:
        samples: float32 [n], mono.
        text: What is said in them.
        cut_from_s: Length of the recording that they were cut from; None when they are all of it.
    """

    samples: NDArray[np.float32]
    text: str
    cut_from_s: float | None = None


def fitted(samples: NDArray[np.float32], rate_hz: int, text: str) -> FittedReference:
    """Cut silence off both ends of a recording, and where it is too long then, cut it and its transcript.

    Args:
        samples: float32 [n], mono.
        text: All that is said in it.

    Raises:
        RequestRefused: it is too long, and where its transcript is to be cut can't be told for sure.
    """
    samples = _trimmed(samples, rate_hz)
    length_s = samples.size / rate_hz
    if length_s <= MAX_S:
        return FittedReference(samples, text)
    pauses, spoken_s = _pauses(samples, rate_hz)
    marks = _marks(text)
    for pause in reversed([one for one in pauses if SHORTEST_S <= one.starts_s + KEPT_PAUSE_S <= MAX_S]):
        mark = _mark_spoken_at(pause, marks, pauses, spoken_s)
        if mark is not None:
            end = round((pause.starts_s + min(KEPT_PAUSE_S, pause.length_s)) * rate_hz)
            return FittedReference(samples[:end], text[: mark.place].strip(), length_s)
    raise RequestRefused(
        f"the recording is {length_s:.1f} s long, F5 listens to {MAX_S:g} s at most, and which part of its "
        "transcript is said in them can't be told for sure",
        f"Cut the recording to less than {MAX_S:g} s, and its transcript to what is said in them.",
    )


def _trimmed(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Silence at the ends counts as time that the text takes, and makes the speech slow."""
    speaking = speaking_frames(samples.astype("float64"), rate_hz).nonzero()[0]
    if not speaking.size:
        return samples
    frame, kept = rate_hz // FRAMES_PER_S, round(KEPT_PAUSE_S * rate_hz)
    return samples[max(0, int(speaking[0]) * frame - kept) : (int(speaking[-1]) + 1) * frame + kept]


@dataclass(frozen=True, slots=True)
class _Pause:
    """`before_s`: speech without pauses up to here."""

    starts_s: float
    length_s: float
    before_s: float


@dataclass(frozen=True, slots=True)
class _Mark:
    """`place`: end of the mark in the text; `share`: of the text's spoken length that lies before it, 0 … 1."""

    place: int
    share: float


def _mark_spoken_at(pause: _Pause, marks: Sequence[_Mark], pauses: Sequence[_Pause], spoken_s: float) -> _Mark | None:
    """The one mark that can have been spoken in a pause; None when there is none, or another one comes near."""
    if not marks:
        return None

    def off(mark: _Mark, pause: _Pause) -> float:
        return abs(mark.share * spoken_s - pause.before_s)

    first, *others = sorted(marks, key=lambda mark: off(mark, pause))
    own = off(first, pause)
    clear_s = max(CLEAR * own, NEAR_S)
    rivals = [off(other, pause) for other in others] + [off(first, other) for other in pauses if other is not pause]
    return first if own <= NEAR_S and all(rival > clear_s for rival in rivals) else None


def _pauses(samples: NDArray[np.float32], rate_hz: int) -> tuple[list[_Pause], float]:
    """Pauses inside a recording, and how much of it is speech, in seconds."""
    import numpy as np

    speaking = speaking_frames(samples.astype(np.float64), rate_hz)
    edges = np.flatnonzero(np.diff(speaking.astype(np.int8), prepend=0, append=0))
    runs = list(zip(edges[1:-1:2].tolist(), edges[2::2].tolist(), strict=False))  # from the end of a sound to the next
    spoken = np.cumsum(speaking)
    found = [
        _Pause(start / FRAMES_PER_S, (end - start) / FRAMES_PER_S, float(spoken[start - 1]) / FRAMES_PER_S)
        for start, end in runs
        if end - start >= PAUSE_S * FRAMES_PER_S
    ]
    return found, float(speaking.sum()) / FRAMES_PER_S


def _marks(text: str) -> list[_Mark]:
    """Punctuation marks inside a text."""
    lengths = list(spoken_lengths(text))
    total = sum(lengths) or 1.0
    places = [found.end() for found in _MARK.finditer(text)]
    return [_Mark(place, sum(lengths[:place]) / total) for place in places if text[place:].strip()]


def spoken_lengths(text: str) -> Iterator[float]:
    """How long each character takes to say, in letters: a digit is a word, an ideograph or syllable sign several.

    Bytes, which f5-tts counts, give a number hardly any time, and a text in Greek or with accents twice what it needs.
    """
    for character in text:
        if character.isdigit():
            yield 4.0
        elif unicodedata.category(character) == "Lo" and ord(character) >= _SYLLABLES:
            yield 3.0
        else:
            yield 1.0 if character.isalpha() else 0.0


_SYLLABLES = 0x2E80  # from here on lie the scripts of East Asia
