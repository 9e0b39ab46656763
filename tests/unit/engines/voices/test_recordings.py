"""Recordings are looked at before a GPU is: what is wrong is a sentence, whatever the file holds."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Chunk, Device
from engines.errors import RequestRefused
from engines.espeak.engine import Espeak
from engines.voices.faults import FAULTS, kind_of
from engines.voices.recordings import Recording, examine, read
from tests.depriving import as_an_ordinary_user
from tests.rendered import rendered
from tests.sounds import RATE_HZ, Samples, save, speech
from tests.spooling import ROOT


@pytest.fixture
def heard(tmp_path: Path) -> Callable[..., Recording]:
    """Writes samples to a file and examines it."""

    def examined(samples: Samples, rate_hz: int = RATE_HZ, subtype: str | None = None) -> Recording:
        return examine(save(tmp_path / "ana.wav", samples, rate_hz, subtype), "ana.wav")

    return examined


def only(sentences: tuple[str, ...], fault: str) -> str:
    """The one sentence, which is that fault's."""
    assert len(sentences) == 1, sentences
    pattern = ".*".join(map(re.escape, re.split(r"{.*?}", FAULTS[fault].problem)))
    assert re.fullmatch(f"ana.wav {pattern}; {re.escape(FAULTS[fault].cure)}", sentences[0]), sentences
    return sentences[0]


def error(recording: Recording, fault: str) -> str:
    """The one error; there are no warnings beside it."""
    assert recording.warnings == ()
    assert FAULTS[fault].is_error
    return only(recording.errors, fault)


def warning(recording: Recording, fault: str) -> str:
    """The one warning of a recording that can be used."""
    assert recording.errors == ()
    assert not FAULTS[fault].is_error
    return only(recording.warnings, fault)


def wav(rate_hz: int, channels: int, data: bytes, promised: int | None = None) -> bytes:
    """A 16-bit WAV whose header says what it likes."""
    size = len(data) if promised is None else promised
    form = (16, 1, channels, rate_hz, rate_hz * channels * 2 % 2**32, channels * 2, 16)
    return (
        struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size & 0xFFFFFFFF, b"WAVE", b"fmt ", *form, b"data", size)
        + data
    )


# --- what is right --------------------------------------------------------------------------------------------------


def test_a_good_recording_has_no_fault(heard: Callable[..., Recording]) -> None:
    """And is measured: 8 s, a peak above the speech's level, no clipping, a share of pauses."""
    recording = heard(speech(8.0))
    assert (recording.errors, recording.warnings) == ((), ())
    assert (recording.duration_s, recording.rate_hz, recording.channels) == (8.0, RATE_HZ, 1)
    assert recording.peak_dbfs is not None
    assert recording.level_dbfs is not None
    assert -30 < recording.level_dbfs < recording.peak_dbfs < 0
    assert recording.clipped == 0
    assert 0.2 < recording.silence < 0.7


def test_real_speech_has_no_fault(tmp_path: Path) -> None:
    """Measures that fit an artificial voice alone would be worth nothing: espeak's is speech with its own rhythm."""
    engine = Espeak()
    engine.load(None, Device())
    text = "She sells sea shells, by the sea shore. Nobody knows what will happen tomorrow, but we can hope."
    try:
        (audio,) = rendered(engine, Chunk(text, "en", 1))
    finally:
        engine.close()
    recording = examine(save(tmp_path / "ana.wav", audio.samples.astype(np.float64), audio.rate_hz), "ana.wav")
    assert (recording.errors, recording.warnings) == ((), ())


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".aiff", ".caf", ".w64"])
def test_formats_are_told_by_content(tmp_path: Path, suffix: str) -> None:
    """The spool's copies have no suffix; a wrong one does not count either."""
    data = save(tmp_path / f"ana{suffix}", speech(4.0)).read_bytes()
    for name in ("copy", "copy.txt", "copy.raw"):
        (tmp_path / name).write_bytes(data)
        recording = examine(tmp_path / name, "ana.wav")
        assert (recording.errors, recording.warnings) == ((), ())
        assert recording.duration_s == pytest.approx(4.0, abs=0.1)


def test_equal_channels_are_one_voice(heard: Callable[..., Recording]) -> None:
    """A stereo file of a mono recording loses nothing when it is mixed."""
    recording = heard(np.stack([speech()] * 6, axis=1))
    assert (recording.channels, recording.errors, recording.warnings) == (6, (), ())


def test_a_click_is_no_speech(heard: Callable[..., Recording]) -> None:
    """In the lead-in it does not end it, and it does not count as the level of the speech."""
    sound = np.concatenate([np.zeros(3 * RATE_HZ), speech()])
    sound[RATE_HZ : RATE_HZ + 600] = 0.9
    recording = heard(sound)
    assert "3.0 s of silence" in warning(recording, "lead_in")
    assert recording.level_dbfs == pytest.approx(heard(speech()).level_dbfs, abs=1.0)


# --- what makes a voice worse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "sound", "words"),
    [
        ("short", lambda: speech(2.0), "2.0 s"),
        ("long", lambda: np.tile(speech(10.0), 7), "70 s"),
        ("clipped", lambda: np.clip(speech(level=1.0), -1, 1), "%"),
        ("quiet", lambda: speech(level=0.002, noise=1e-6), "dBFS"),
        ("noisy", lambda: speech(level=0.05, noise=0.02), "dB above"),
        ("offset", lambda: speech() + 0.1, "10%"),
        ("mixed", lambda: np.stack([speech(), np.zeros_like(speech())], axis=1), "2 channels"),
        ("mixed", lambda: np.stack([speech(), np.roll(speech(), 3000)], axis=1), "2 channels"),
        ("pauses", lambda: np.concatenate([speech(3.0), np.zeros(20 * RATE_HZ)]), "%"),
        ("lead_in", lambda: np.concatenate([np.zeros(round(2.5 * RATE_HZ)), speech()]), "2.5 s"),
    ],
)
def test_what_makes_a_voice_worse_is_a_warning(
    heard: Callable[..., Recording], fault: str, sound: Callable[[], Samples], words: str
) -> None:
    """One sentence, with what was measured and what to do."""
    assert words in warning(heard(sound()), fault)


def test_a_telephone_is_heard(heard: Callable[..., Recording]) -> None:
    """8 kHz is usable, and said."""
    assert "8000" in warning(heard(speech(rate_hz=8000), 8000), "telephone")


def test_peaks_at_full_scale_are_no_clipping(heard: Callable[..., Recording]) -> None:
    """A loud tone touches full scale without a flat top; what lies above it in a float file is cut by the engine."""
    tone = np.sin(2 * np.pi * 110 * np.arange(8 * RATE_HZ) / RATE_HZ)
    assert heard(tone).clipped == 0
    assert heard(tone * 4, subtype="FLOAT").clipped > 0.5


def test_half_a_copy_is_said_to_be_one(tmp_path: Path) -> None:
    """The header of a WAV or AIFF promises more; a FLAC can't be decoded to its end."""
    for suffix in (".wav", ".aiff", ".flac"):
        data = save(tmp_path / f"ana{suffix}", speech(10.0)).read_bytes()
        (tmp_path / "half").write_bytes(data[: len(data) // 2])
        recording = examine(tmp_path / "half", "ana.wav")
        assert "of 10.0 s" in warning(recording, "cut_off")
        assert 3.0 < recording.duration_s < 7.0


def test_a_stream_promises_nothing(tmp_path: Path) -> None:
    """Programs that write WAV to a pipe put 4 GB into the header."""
    data = (speech(4.0) * 32767).astype("<i2").tobytes()
    (tmp_path / "ana.wav").write_bytes(wav(RATE_HZ, 1, data, promised=0xFFFFFFFF))
    recording = examine(tmp_path / "ana.wav", "ana.wav")
    assert (recording.duration_s, recording.errors, recording.warnings) == (4.0, (), ())


# --- what nothing can be made with ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "sound", "rate_hz"),
    [
        ("too_short", lambda: speech(0.4), RATE_HZ),
        ("too_short", lambda: np.full(3, 0.1), RATE_HZ),
        ("silent", lambda: np.zeros(4 * RATE_HZ), RATE_HZ),
        ("silent", lambda: speech(level=1e-4, noise=0), RATE_HZ),
        ("silent", lambda: np.concatenate([speech(0.4), np.zeros(6 * RATE_HZ)]), RATE_HZ),
        ("inverted", lambda: np.stack([speech(), -speech()], axis=1), RATE_HZ),
        ("slow", lambda: speech(rate_hz=4000), 4000),
        ("odd_rate", lambda: speech(rate_hz=44056), 44056),
        ("crowd", lambda: np.stack([speech(2.0)] * 9, axis=1), RATE_HZ),
        ("empty", lambda: np.zeros(0), RATE_HZ),
    ],
)
def test_what_nothing_can_be_made_with_is_an_error(
    heard: Callable[..., Recording], fault: str, sound: Callable[[], Samples], rate_hz: int
) -> None:
    """One sentence, and no warnings beside it; length, rate and channels are known all the same."""
    samples = sound()
    recording = heard(samples, rate_hz)
    error(recording, fault)
    assert (recording.rate_hz, recording.channels) == (rate_hz, samples.ndim and (*samples.shape, 1)[1])
    assert recording.duration_s == pytest.approx(len(samples) / rate_hz)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_an_error(heard: Callable[..., Recording], value: float) -> None:
    """One of them would make every chunk a NaN."""
    sound = speech(4.0)
    sound[50_000] = value
    error(heard(sound, subtype="FLOAT"), "not_numbers")


@pytest.mark.parametrize(("huge", "fault"), [(101.0, "too_loud"), (3e38, "too_loud"), (1e300, "not_numbers")])
def test_what_is_louder_than_any_sound_is_an_error(heard: Callable[..., Recording], huge: float, fault: str) -> None:
    """The largest floats, and doubles that no float holds; in speech, and instead of it."""
    error(heard(np.array([huge, -huge] * 50_000), subtype="DOUBLE"), fault)
    sound = speech(4.0)
    sound[50_000] = huge
    error(heard(sound, subtype="DOUBLE"), fault)


def test_floats_may_go_over_full_scale(heard: Callable[..., Recording]) -> None:
    """By what a mix or a normalisation does, and said to be clipped; that is no reason to refuse it."""
    assert heard(speech(4.0) * 20, subtype="FLOAT").errors == ()


@pytest.mark.parametrize(
    ("head", "fault", "words"),
    [
        (b"\0\0\0\x20ftypM4A " + bytes(600), "foreign", "an MP4 file (M4A, AAC)"),
        (b"\xff\xf1\x50\x80" + bytes(600), "foreign", "an AAC file"),
        (b"\x1aE\xdf\xa3" + bytes(600), "foreign", "a WebM or Matroska file"),
        (b"#!AMR\n" + bytes(600), "foreign", "an AMR file"),
        (b"RIFF\0\0\1\0WAVEjunk", "foreign", "a WAV file, damaged"),
        ("Olá, é só texto.\n".encode() * 99, "no_audio", "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "no_audio", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "no_audio", "a web page"),
        (b"PK\3\4" + bytes(600), "no_audio", "a ZIP file"),
        (bytes(5000), "no_audio", "unknown kind"),
    ],
)
def test_what_is_no_sound_file_is_named(tmp_path: Path, head: bytes, fault: str, words: str) -> None:
    """Under a name that promises one; the cure fits what was found."""
    (tmp_path / "ana.wav").write_bytes(head)
    assert words in error(examine(tmp_path / "ana.wav", "ana.wav"), fault)


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    """Not a text file."""
    (tmp_path / "ana.wav").touch()
    error(examine(tmp_path / "ana.wav", "ana.wav"), "empty")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A FIFO without a writer, a folder, a device, a link, nothing at all."""
    path = tmp_path / "ana.wav"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(save(tmp_path / "good.wav", speech(2.0)))
    for other in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), tmp_path / "link", path):
        error(examine(other, "ana.wav"), "unreadable")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """With the system's own words."""
    path = save(tmp_path / "ana.wav", speech(2.0))
    path.chmod(0)
    code = (
        "import sys; from pathlib import Path; from engines.voices.recordings import examine\n"
        "print(*examine(Path(sys.argv[1]), 'ana.wav').errors)"
    )
    done = subprocess.run(
        [*as_an_ordinary_user(), sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Permission denied" in done.stdout


# --- strangers' files -----------------------------------------------------------------------------------------------


@given(
    data=st.binary(max_size=300), magic=st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"\xff\xfb"])
)
def test_no_bytes_are_too_strange(tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes) -> None:
    """Any bytes are a recording or an error; reading them is refused or gives samples."""
    path = tmp_path_factory.mktemp("strange") / "ana.wav"
    path.write_bytes(magic + data)
    examine(path, "ana.wav")
    try:
        samples, rate_hz = read(path, 1.0)
    except RequestRefused:
        return
    assert 0 < samples.shape[1] <= rate_hz


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.sampled_from([".wav", ".flac", ".aiff"]),
)
def test_no_header_is_too_strange(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], suffix: str
) -> None:
    """A header with wrong bytes: wild counts, rates, sizes and kinds of samples."""
    path = save(tmp_path_factory.mktemp("strange") / f"ana{suffix}", speech(1.5, 8000), 8000)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(data)
    recording = examine(path, "ana.wav")
    assert recording.errors or recording.duration_s > 0


def test_a_header_that_asks_for_gigabytes_gets_none(tmp_path: Path) -> None:
    """A thousand channels, and a rate that would take a huge filter to convert: refused from the header alone."""
    path = tmp_path / "ana.wav"
    for rate_hz, channels, fault in ((2**31 - 1, 1, "odd_rate"), (44100, 1024, "crowd"), (1, 1, "slow")):
        path.write_bytes(wav(rate_hz, channels, bytes(channels * 2 * 100)))
        error(examine(path, "ana.wav"), fault)
        with pytest.raises(RequestRefused):
            read(path, 30.0)


def test_hours_are_not_decoded(tmp_path: Path) -> None:
    """A WAV of ten hours, most of it a hole in the file, is told from its beginning."""
    path = tmp_path / "ana.wav"
    data = (speech(70.0) * 32767).astype("<i2").tobytes()
    for seconds in (3_000, 36_000):
        size = seconds * RATE_HZ * 2
        path.write_bytes(wav(RATE_HZ, 1, data, promised=size))
        os.truncate(path, 44 + size)
        recording = examine(path, "ana.wav")
        assert recording.duration_s == seconds
        assert recording.silence < 0.7
        if seconds == 3_000:
            assert "3000 s" in warning(recording, "long")
    assert "10.0 hours" in error(recording, "endless")


SPARSE = 100 << 20
READS = f"""
import resource, sys
from pathlib import Path
import numpy, soundfile
from engines.voices import recordings
from engines.errors import RequestRefused

data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + ({400 << 20}),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for path in map(Path, sys.argv[1:]):
    print(*recordings.examine(path, path.name).errors)
    try:
        recordings.read(path, 600.0)
    except RequestRefused:
        pass
"""


def test_a_sparse_file_takes_little_time_and_memory(tmp_path: Path) -> None:
    """100 MiB that take no room on the disk, of as many samples as a byte can have, in the most channels and rates."""
    paths = []
    for number, (rate_hz, channels, form) in enumerate(
        [(8000, 1, (1, 8)), (192_000, 8, (1, 16)), (192_000, 1, (3, 32)), (44100, 1, (6, 8)), (8000, 1, (0x45, 4)),
         (8000, 1, (17, 4)), (22050, 1, (2, 4)), (8000, 1, (0x31, 0)), (44100, 1024, (1, 8))]
    ):  # fmt: skip
        head = bytearray(wav(rate_hz, channels, b"", promised=SPARSE))
        struct.pack_into("<H", head, 20, form[0])
        struct.pack_into("<H", head, 34, form[1])
        paths.append(tmp_path / f"{number}.wav")
        paths[-1].write_bytes(head)
        os.truncate(paths[-1], 44 + SPARSE)
    child = [sys.executable, "-c", READS, *map(str, paths)]
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert len(done.stdout.splitlines()) == len([line for line in done.stdout.splitlines() if line]) == len(paths)


# --- reading --------------------------------------------------------------------------------------------------------


def test_reading_gives_the_samples_as_they_are(tmp_path: Path) -> None:
    """Channels first, full scale at 1, not mixed, not resampled, not longer than asked."""
    sound = np.stack([speech(4.0, 44100), -0.5 * speech(4.0, 44100)], axis=1)
    path = save(tmp_path / "ana.wav", sound, 44100)
    whole, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    for seconds, frames in ((30.0, len(sound)), (1.5, 66150), (0.00001, 1)):
        samples, rate_read = read(path, seconds)
        assert samples.dtype == np.float32
        assert rate_read == rate_hz
        assert np.array_equal(samples, whole[:frames].T)


def test_reading_takes_what_can_be_decoded(tmp_path: Path) -> None:
    """Of a damaged file, what comes before the damage."""
    data = save(tmp_path / "ana.flac", speech(10.0)).read_bytes()
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    samples, _ = read(tmp_path / "half", 30.0)
    assert samples.shape[1] == round(examine(tmp_path / "half", "it").duration_s * RATE_HZ)


def test_reading_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    """With a sentence, not with the library's error."""
    with pytest.raises(RequestRefused, match="not a regular file"):
        read(tmp_path, 1.0)
    with pytest.raises(RequestRefused, match="has no audio in it"):
        read(save(tmp_path / "ana.wav", np.zeros(0)), 1.0)


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_page_about_voices_has_every_fault() -> None:
    """docs/VOICES.md has a table of all sentences and cures, with N for what is measured, errors before warnings."""
    page = (ROOT / "docs" / "VOICES.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    faults = sorted(FAULTS.values(), key=lambda fault: not fault.is_error)
    assert rows == [f"| {re.sub('{.*?}', 'N', fault.problem)} | {fault.cure} |" for fault in faults]


def test_kinds_of_files_are_told_by_a_few_bytes() -> None:
    """Cut off in the middle of a letter, a text is still one."""
    assert kind_of("é".encode() * 300 + b"\xc3")[1] == "a text file"
    assert kind_of(b"")[0] == "empty"
