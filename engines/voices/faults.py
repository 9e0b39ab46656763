"""Faults of reference recordings: the message and the remedy for each, and the limits they are judged by.

`docs/VOICES.md` has the same table; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_S = 1.0
"""XTTS refuses less than 0.33 s, and a single word is too little for every engine."""
SHORT_S = 3.0
"""Below, the cloned voice is only roughly the speaker's; XTTS is meant for 6 s or more."""
EXAMINED_S = 60.0
"""No engine uses more of a recording (XTTS 30 s, F5 12 s), so no more is decoded."""
MIN_RATE_HZ = 8_000
"""Telephone; at lower rates the formants of a voice are missing."""
TELEPHONE_HZ = 16_000
"""Below, fricatives (s, f) are missing, so the engine can't clone them."""
MAX_RATE_HZ = 192_000
"""The highest rate of audio interfaces."""
RATE_STEP_HZ = 25
"""All usual rates are multiples. Others share no large divisor with an engine's rate, and exact resampling would take a
filter of gigabytes."""
MAX_CHANNELS = 8
"""As in 7.1 surround; libsndfile accepts 1,024."""
MAX_S = 3600.0
"""A longer file is an audio book, or has a wrong length in its header."""
MAX_PEAK = 100.0
"""Of full scale, 40 dB above it. Float files may exceed full scale by a few dB; more is no audio."""
SILENT_DBFS = -60.0
"""Noise level of a cheap microphone; speech at this level is lost in it."""
QUIET_DBFS = -40.0
"""20 dB below the usual level of recorded speech, near the noise."""
FULL_SCALE = 0.98
"""Of 1.0: what counts as clipped. The highest value of 8 bits is 0.992."""
MAX_CLIPPED = 0.001
"""Share of samples in flat tops; single ones are inaudible, one in a thousand is not."""
MAX_OFFSET = 0.02
"""Of full scale; intact sound cards are far below."""
MAX_LOSS_DB, INVERTED_DB = 0.5, 15.0
"""Level lost by mixing channels to mono: identical channels lose 0 dB, unrelated ones 3 dB, inverted ones all."""
PAUSE_DB = 20.0
"""A frame this far below the loud parts of the speech is a pause or breath."""
MAX_SILENCE = 0.75
"""Share of pauses; read speech has 0.2 to 0.5."""
MAX_LEAD_IN_S = 2.0
"""A third of the first 6 s, which XTTS uses."""
MIN_SNR_DB = 15.0
"""Speech over background: a quiet room has 30 or more; below, the background is cloned too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        is_error: Whether no engine can use such a recording; otherwise the fault is a warning.
        problem: What is wrong, with the recording's name as the subject; a template for `str.format`.
        cure: What to do, in the imperative.
    """

    is_error: bool
    problem: str
    cure: str


_CONVERT = "convert it: `ffmpeg -i RECORDING -ar 24000 -ac 1 voice.wav`"

FAULTS = {
    "unreadable": Fault(True, "can't be read: {reason}", "check its permissions, and that it is a regular file"),
    "foreign": Fault(True, "is {what}, which is not supported", _CONVERT),
    "no_audio": Fault(True, "is {what}, not a recording", "use the recording itself"),
    "empty": Fault(True, "has no audio in it", "copy or record it again"),
    "too_short": Fault(True, "is only {length_s:.1f} s long", "record at least 3 s, better 6 to 15 s"),
    "slow": Fault(True, "has a sample rate of only {rate_hz} Hz", "record at 16000 Hz or more, best 24000 to 48000 Hz"),
    "odd_rate": Fault(True, "has an unusual sample rate of {rate_hz} Hz", _CONVERT),
    "crowd": Fault(True, f"has {{channels}} channels; at most {MAX_CHANNELS} are supported", _CONVERT),
    "not_numbers": Fault(True, "has samples that are not numbers", "export it again from the program that made it"),
    "endless": Fault(True, "is {hours:.1f} hours long", "cut out the best 10 to 30 s"),
    "too_loud": Fault(
        True, "has samples {times:.0e} times above full scale", "export it again from the program that made it"
    ),
    "silent": Fault(True, "is silent", "record it again, with the microphone switched on"),
    "inverted": Fault(
        True,
        "has channels that cancel each other when mixed to mono",
        "keep one of them: `sox RECORDING voice.wav remix 1`",
    ),
    "cut_off": Fault(
        False, "ends after {length_s:.1f} s of {claimed_s:.1f} s", "it is damaged or an incomplete copy: copy it again"
    ),
    "short": Fault(False, "is only {length_s:.1f} s long", "6 to 15 s give a voice closer to the speaker's"),
    "long": Fault(
        False,
        "is {length_s:.0f} s long; only its beginning is used (XTTS 30 s, F5 12 s) and was checked",
        "cut out the best 10 to 30 s",
    ),
    "telephone": Fault(
        False,
        "has a sample rate of only {rate_hz} Hz, as a telephone",
        "the voice will sound muffled; record at 24000 Hz",
    ),
    "mixed": Fault(
        False, "has {channels} channels that differ; they are mixed to mono", "keep the one closest to the speaker"
    ),
    "clipped": Fault(False, "is clipped in {share:.1%} of its samples", "record it again at a lower level"),
    "quiet": Fault(
        False,
        "is very quiet: speech at {level_dbfs:.0f} dBFS",
        "record it again, closer to the microphone or at a higher level",
    ),
    "offset": Fault(
        False,
        "has a DC offset of {offset:.0%} of full scale",
        "remove it: `ffmpeg -i RECORDING -af highpass=f=60 voice.wav`",
    ),
    "pauses": Fault(False, "is silent for {share:.0%} of its length", "shorten the pauses"),
    "lead_in": Fault(False, "begins with {lead_in_s:.1f} s of silence", "cut it off: engines use the beginning"),
    "noisy": Fault(
        False,
        "is noisy: its speech is only {snr_db:.0f} dB above the background",
        "record it in a quiet room: engines clone the noise too",
    ),
}

_KINDS = (  # offset, magic bytes, description, fault
    (4, b"ftyp", "an MP4 file (M4A, AAC)", "foreign"),
    (0, b"\xff\xf1", "an AAC file", "foreign"),
    (0, b"\xff\xf9", "an AAC file", "foreign"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file", "foreign"),
    (0, b"#!AMR", "an AMR file", "foreign"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a WMA or WMV file", "foreign"),
    (0, b"wvpk", "a WavPack file", "foreign"),
    (0, b"MAC ", "a Monkey's Audio file", "foreign"),
    (8, b"AVI ", "an AVI video", "foreign"),
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
    (0, b"\x89PNG", "an image", "no_audio"),
    (0, b"\xff\xd8\xff", "an image", "no_audio"),
)


def kind_of(head: bytes) -> tuple[str, str]:
    """Fault and description of a file that libsndfile can't read.

    Args:
        head: Its first bytes; 512 are enough.

    Returns:
        Key in `FAULTS`, and what the file is, with an article.
    """
    if not head:
        return "empty", "an empty file"
    for offset, magic, description, fault in _KINDS:
        if head.startswith(magic, offset):
            return fault, description
    if head.lstrip()[:5].lower() in {b"<html", b"<!doc"}:
        return "no_audio", "a web page"
    text = head.decode("utf-8", errors="ignore")  # the head may end within a character
    if text and all(char.isprintable() or char in "\r\n\t" for char in text):
        return "no_audio", "a text file"
    return "no_audio", "a file of an unknown kind"
