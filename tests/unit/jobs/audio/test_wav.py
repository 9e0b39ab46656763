"""What passes as speech, and the file it becomes."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Audio
from engines.errors import BadAudio
from jobs.audio.wav import FADE_S, WavWriter, checked, faded, frames_of, peak_dbfs, to_pcm, wav_header

RATE_HZ = 16000
TEXT = "Thirty letters of text to say."


def tone(duration_s: float, level: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def test_speech_passes_untouched() -> None:
    """Plausible audio is handed on bit for bit, without a doubt."""
    samples = tone(2.0)
    audio, doubts = checked(Audio(samples, RATE_HZ), TEXT)
    assert np.array_equal(audio.samples, samples)
    assert doubts == []


@pytest.mark.parametrize(
    "audio",
    [
        None,
        "audio",
        Audio([0.1, 0.2], RATE_HZ),  # type: ignore[arg-type]
        Audio(np.array([1, 2, 3]), RATE_HZ),
        Audio(np.zeros(0, np.float32), RATE_HZ),
        Audio(np.zeros(RATE_HZ, np.float32), RATE_HZ),
        Audio(tone(1, 0.0009), RATE_HZ),
        Audio(np.full((RATE_HZ, 2), 0.1, np.float32), RATE_HZ),
        Audio(np.array([0.1, np.nan], np.float32), RATE_HZ),
        Audio(np.array([0.1, -np.inf], np.float32), RATE_HZ),
        Audio(tone(1), 0),
        Audio(tone(1), "16000"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_speech_is_refused(audio: object) -> None:
    """Nothing, other things, silence, stereo, NaN, infinity, no rate: an error that shows the text safely."""
    with pytest.raises(BadAudio) as caught:
        checked(audio, "Text\x1b[31m")
    assert "\x1b" not in str(caught.value)
    assert "Text" in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "doubt"),
    [
        (tone(60), "longer than any speech"),
        (tone(0.2), "words may be missing"),
        (tone(2, 1.5), "clipped"),
    ],
)
def test_what_may_be_wrong_is_doubtful(samples: np.ndarray, doubt: str) -> None:
    """Too long, too short or too loud is kept and said."""
    assert [doubt in sentence for sentence in checked(Audio(samples, RATE_HZ), TEXT)[1]] == [True]


@given(st.lists(st.integers(-32768, 32767), min_size=1))
def test_sixteen_bits_go_through_unchanged(values: list[int]) -> None:
    """What an engine computed in 16 bits comes out as the same 16 bits."""
    pcm = np.array(values, np.int16)
    assert np.array_equal(to_pcm(pcm.astype(np.float32) / np.float32(32768)), pcm)


def test_too_loud_is_clipped_not_wrapped() -> None:
    """Beyond full scale stays at full scale."""
    assert to_pcm(np.array([2.0, -2.0, 1.0], np.float32)).tolist() == [32767, -32768, 32767]


def test_ends_are_faded_and_nothing_else() -> None:
    """Both ends start from zero; beyond a few milliseconds every sample is as it was."""
    samples = np.full(RATE_HZ, 0.5, np.float32)
    result = faded(samples, RATE_HZ)
    edge = round(FADE_S * RATE_HZ)
    assert abs(result[0]) < 0.001
    assert abs(result[-1]) < 0.001
    assert np.all(np.diff(result[:edge]) > 0)
    assert np.array_equal(result[edge:-edge], samples[edge:-edge])
    assert samples[0] == 0.5


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_audio_shorter_than_a_fade_is_no_error(size: int) -> None:
    """Nothing is too short."""
    assert faded(np.full(size, 0.5, np.float32), RATE_HZ).size == size


def write(path: Path) -> WavWriter:
    with WavWriter(path, RATE_HZ, 2 * RATE_HZ + frames_of(2500, RATE_HZ)) as wav:
        wav.speech(tone(1))
        wav.silence(2500)
        wav.speech(tone(1))
    return wav


def test_the_file_is_what_it_says(tmp_path: Path) -> None:
    """Length, level, checksum and format of the manifest are those of the file, read by another program's library."""
    wav = write(tmp_path / "a.wav")
    facts, info = wav.facts(), soundfile.info(str(tmp_path / "a.wav"))
    samples, _ = soundfile.read(str(tmp_path / "a.wav"), dtype="int16")
    assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, RATE_HZ)
    assert facts["duration_s"] == info.duration == 4.5
    assert (
        facts["peak_dbfs"] == peak_dbfs(np.abs(samples.astype(float)).max() / 32768) == pytest.approx(-6.02, abs=0.01)
    )
    assert facts["sha256"] == hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest()
    assert not samples[RATE_HZ : RATE_HZ + frames_of(2500, RATE_HZ)].any()


def test_equal_audio_is_equal_bytes(tmp_path: Path) -> None:
    """A file has nothing of its name or time in it: 44 bytes and the samples."""
    for name in ("a.wav", "b.wav"):
        write(tmp_path / name)
    data = (tmp_path / "a.wav").read_bytes()
    assert data == (tmp_path / "b.wav").read_bytes()
    assert len(data) == 44 + 2 * round(4.5 * RATE_HZ)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """A file of that name is somebody's."""
    (tmp_path / "a.wav").write_text("mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_text() == "mine"


def test_a_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    """A disk that did not take everything is an I/O error, not a short result."""
    wav = write(tmp_path / "a.wav")
    with (tmp_path / "a.wav").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="length"):
        wav.facts()


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """The system's own error arrives, so that the spool can wait for space."""
    wav = WavWriter(tmp_path / "a.wav", RATE_HZ, RATE_HZ)
    with open("/dev/full", "wb", buffering=0) as wav._file, pytest.raises(OSError, match="No space left"):
        wav.speech(tone(1))


def test_longer_than_four_gigabytes_is_rf64(tmp_path: Path) -> None:
    """The header of a file that RIFF can't count tells its length to libsndfile all the same."""
    frames = 3 * 2**30
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(header := wav_header(RATE_HZ, frames))
        file.truncate(len(header) + 2 * frames)  # sparse: takes no space
    info = soundfile.info(str(path))
    assert (info.format, info.frames, info.subtype) == ("RF64", frames, "PCM_16")


@given(st.integers(0, 2**31 - 1024))
def test_the_header_counts_right(frames: int) -> None:
    """RIFF's two lengths are those of the file, up to the most that fits."""
    header = wav_header(RATE_HZ, frames)
    if header[:4] == b"RIFF":
        assert struct.unpack_from("<I", header, 4)[0] == len(header) - 8 + 2 * frames
        assert struct.unpack_from("<I", header, 40)[0] == 2 * frames
    else:
        assert 2 * frames > 2**32 - 2048
