"""What can be wrong with a recording, in words: each fault, and what to do about it.

`docs/VOICES.md` has this table for people; a test keeps the two in step.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST_S = 1.0
"""XTTS refuses less than 0.33 s, and no engine finds a voice in a single word."""
SHORT_S = 3.0
"""Below, XTTS speaks with a voice that is only roughly the speaker's; it is made for 6 s or more."""
EXAMINED_S = 60.0
"""Nothing uses more of a recording (XTTS 30 s, F5 12 s), so nothing more is decoded either."""
SLOWEST_HZ = 8_000
"""The telephone's; half of that does not hold a voice's formants."""
TELEPHONE_HZ = 16_000
"""Below, s and f are lost, and the engine guesses how this voice says them."""
FASTEST_HZ = 192_000
"""Nothing records voices at more."""
RATE_STEP_HZ = 25
"""Every rate in use is a multiple of this. Other rates share no large divisor with an engine's own, and converting
them exactly would take a filter of gigabytes."""
MAX_CHANNELS = 8
"""As many as 7.1 has; libsndfile would take a thousand."""
MAX_S = 3600.0
"""No recording of a voice is longer; what claims to be is a whole audio book, or a header with a wrong length."""
LOUDEST = 100.0
"""40 dB above full scale. Programs that count in floats go over it by some dB; what is louder is no sound."""
SILENT_DBFS = -60.0
"""Where the noise of a cheap microphone lies; speech at this level is not there for any engine."""
QUIET_DBFS = -40.0
"""20 dB below how loud speech is usually recorded; what is this quiet stands near the noise."""
FULL_SCALE = 0.98
"""Of 1.0; the highest step of 8 bits is at 0.992."""
CLIPPED = 0.001
"""Share of samples in flat tops; a single one is not heard, one in a thousand is."""
OFFSET = 0.02
"""Of full scale; sound cards in order stay far below."""
LOSS_DB, INVERTED_DB = 0.5, 15.0
"""What mixing the channels to one may take: equal ones lose nothing, strange ones 3 dB, inverted ones everything."""
PAUSE_DB = 20.0
"""Below the speech's loud parts: there lie pauses and breath, and little of the speech itself."""
SILENCE = 0.75
"""Share of pauses; read speech has 0.2 to 0.5."""
LEAD_IN_S = 2.0
"""A third of what XTTS listens to when it hears 6 s."""
NOISE_DB = 15.0
"""Speech over background: a quiet room gives 30 or more, and below this the background is cloned too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        is_error: Nothing can be made with such a recording; else it is a warning.
        says: What is wrong, the recording's name being the subject; values in braces are filled in.
        cure: What to do.
    """

    is_error: bool
    says: str
    cure: str


_CONVERT = "convert it: `ffmpeg -i RECORDING -ar 24000 -ac 1 voice.wav`"

FAULTS = {
    "unreadable": Fault(True, "can't be read: {reason}", "look at its permissions, and whether it is a file"),
    "foreign": Fault(True, "is {what}, which can't be read here", _CONVERT),
    "no_audio": Fault(True, "is {what}, not a recording", "put the recording itself there"),
    "empty": Fault(True, "holds no sound", "copy or record it again"),
    "too_short": Fault(True, "is only {length_s:.1f} s long", "record at least 3 s, better 6 to 15"),
    "slow": Fault(True, "has only {rate_hz} samples a second", "record at 16000 or more, best 24000 to 48000"),
    "odd_rate": Fault(True, "has {rate_hz} samples a second, which is no usual rate", _CONVERT),
    "crowd": Fault(True, "has {channels} channels, more than a voice needs", _CONVERT),
    "not_numbers": Fault(True, "holds samples that are not numbers", "export it again from the program that made it"),
    "endless": Fault(True, "is {hours:.1f} hours long", "cut out the best 10 to 30 s"),
    "too_loud": Fault(
        True, "holds samples {times:.0e} times as loud as can be", "export it again from the program that made it"
    ),
    "silent": Fault(True, "holds nothing but silence", "record it again, with the microphone switched on"),
    "inverted": Fault(
        True,
        "has channels that cancel each other when they are mixed to one",
        "keep one of them: `sox RECORDING voice.wav remix 1`",
    ),
    "cut_off": Fault(
        False, "breaks off after {length_s:.1f} s of {promised_s:.1f} s", "it is damaged or half a copy: copy it again"
    ),
    "short": Fault(False, "is only {length_s:.1f} s long", "the voice will be nearer with 6 to 15 s"),
    "long": Fault(
        False,
        "is {length_s:.0f} s long, and only its beginning is used (by XTTS 30 s) and was checked",
        "cut out the best 10 to 30 s",
    ),
    "telephone": Fault(
        False, "has only {rate_hz} samples a second, as a telephone", "the voice will sound muffled; record at 24000"
    ),
    "mixed": Fault(
        False, "has {channels} channels that differ and are mixed to one", "keep the one nearest to the speaker"
    ),
    "clipped": Fault(False, "is clipped in {share:.1%} of its samples", "record it again at a lower level"),
    "quiet": Fault(False, "is very quiet: speech at {level_dbfs:.0f} dBFS", "record it again, nearer or louder"),
    "offset": Fault(
        False,
        "has a constant offset of {offset:.0%} of full scale",
        "take it away: `ffmpeg -i RECORDING -af highpass=f=60 voice.wav`",
    ),
    "pauses": Fault(False, "is silent for {share:.0%} of its length", "cut the pauses out"),
    "lead_in": Fault(False, "begins with {lead_in_s:.1f} s of silence", "cut it off: engines listen to the beginning"),
    "noisy": Fault(
        False,
        "is noisy: its speech is only {over_noise_db:.0f} dB over the background",
        "record it in a quiet room; an engine clones the noise too",
    ),
}

_KINDS = (  # where, first bytes, what it is, which fault that is
    (4, b"ftyp", "an MP4 file (M4A, AAC)", "foreign"),
    (0, b"\xff\xf1", "an AAC file", "foreign"),
    (0, b"\xff\xf9", "an AAC file", "foreign"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file", "foreign"),
    (0, b"#!AMR", "an AMR file", "foreign"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a WMA or WMV file", "foreign"),
    (0, b"wvpk", "a WavPack file", "foreign"),
    (0, b"MAC ", "a Monkey's Audio file", "foreign"),
    (8, b"AVI ", "an AVI film", "foreign"),
    (8, b"WAVE", "a WAV file, damaged or of a rare kind", "foreign"),
    (0, b"OggS", "an Ogg file, damaged or of a rare kind", "foreign"),
    (0, b"fLaC", "a damaged FLAC file", "foreign"),
    (0, b"caff", "a CAF file, damaged or of a rare kind", "foreign"),
    (0, b"FORM", "an AIFF file, damaged or of a rare kind", "foreign"),
    (0, b"ID3", "a damaged MP3 file", "foreign"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "no_audio"),
    (0, b"PK\x03\x04", "a ZIP file", "no_audio"),
    (0, b"\x1f\x8b", "a gzip file", "no_audio"),
    (0, b"%PDF", "a PDF", "no_audio"),
    (0, b"\x89PNG", "a picture", "no_audio"),
    (0, b"\xff\xd8\xff", "a picture", "no_audio"),
)


def kind_of(head: bytes) -> tuple[str, str]:
    """What a file is that libsndfile does not take: its fault's name, and the file in words.

    Args:
        head: Its first bytes; a few hundred are enough.
    """
    if not head:
        return "empty", "an empty file"
    for offset, magic, words, fault in _KINDS:
        if head.startswith(magic, offset):
            return fault, words
    if head.lstrip()[:5].lower() in {b"<html", b"<!doc"}:
        return "no_audio", "a web page"
    text = head.decode("utf-8", errors="ignore")
    if text and all(char.isprintable() or char in "\r\n\t" for char in text):
        return "no_audio", "a text file"
    return "no_audio", "a file of a kind that is not known here"
