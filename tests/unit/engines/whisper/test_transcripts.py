"""Whisper writes down what is said where nobody has: real modules and a model made by hand, which says one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.base import Device
from engines.errors import EngineMissing, RequestRefused
from engines.whisper import transcripts
from files import cache
from tests import sounds, tiny_whisper

SAYS = "Olá, bom dia. E agora?"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models, and a cache of the test's own."""
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    return tmp_path / "models"


@pytest.fixture
def device(models: Path) -> Device:
    return Device("cpu", "float32", models=models)


def recording(tmp_path: Path, seconds: float = 2.0) -> Path:
    path = tmp_path / "ana.wav"
    path.write_bytes(sounds.recording(seconds))
    return path


def test_it_is_written_down_once(models: Path, device: Device, tmp_path: Path) -> None:
    """With its language; and remembered for that recording and that model, even when the recording is gone."""
    tiny_whisper.build(models / "whisper", SAYS)
    path = recording(tmp_path)
    assert transcripts.transcribe(path, "ana.wav", "0" * 64, device) == transcripts.Transcript(SAYS, "pt")
    path.unlink()
    assert transcripts.transcribe(path, "ana.wav", "0" * 64, device).text == SAYS
    with pytest.raises(RequestRefused):
        transcripts.transcribe(path, "ana.wav", "1" * 64, device)
    (kept,) = (tmp_path / "cache/transcripts").iterdir()
    kept.write_text("no JSON")
    recording(tmp_path)
    assert transcripts.transcribe(path, "ana.wav", "0" * 64, device).text == SAYS


def test_nothing_is_made_up(models: Path, device: Device, tmp_path: Path) -> None:
    """No words are an error, and so is what is longer than Whisper listens."""
    tiny_whisper.build(models / "whisper", "...")
    with pytest.raises(RequestRefused, match=r"Whisper found no words in ana\.wav"):
        transcripts.transcribe(recording(tmp_path), "ana.wav", "0" * 64, device)
    with pytest.raises(RequestRefused, match=r"ana\.wav is longer than 30 s"):
        transcripts.transcribe(recording(tmp_path, 30.5), "ana.wav", "1" * 64, device)


def test_where_there_is_no_model_it_is_said_how_to_get_one(models: Path, device: Device, tmp_path: Path) -> None:
    with pytest.raises(EngineMissing, match=r"no Whisper model .* on this machine") as missing:
        transcripts.transcribe(recording(tmp_path), "ana.wav", "0" * 64, device)
    assert "hf download openai/whisper-small --local-dir whisper" in missing.value.hint
    folder = tiny_whisper.build(models / "whisper", SAYS)
    (folder / "config.json").unlink()
    with pytest.raises(EngineMissing, match=r"is not usable: .*config\.json"):
        transcripts.model(models)


def test_without_a_cache_it_is_written_down_each_time(models: Path, device: Device, tmp_path: Path) -> None:
    tiny_whisper.build(models / "whisper", SAYS)
    (tmp_path / "cache").write_text("in the way")
    assert cache.folder("transcripts") is None
    for _ in range(2):
        assert transcripts.transcribe(recording(tmp_path), "ana.wav", "0" * 64, device).text == SAYS
